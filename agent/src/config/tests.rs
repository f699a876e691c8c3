use super::*;

fn load(args: &[&str]) -> Result<Settings, String> {
    let args = std::iter::once("why502").chain(args.iter().copied());
    Settings::load(args.map(OsString::from)).map_err(|refusal| refusal.to_string())
}

#[test]
fn capture_watches_known_proxies_for_a_minute_by_default() {
    let Job::Capture(capture) = load(&["capture"]).unwrap().job else {
        panic!("not a capture")
    };
    assert_eq!(capture.duration, Duration::from_secs(60));
    assert_eq!(capture.privacy, Privacy::Full);
    assert_eq!(capture.watch.names, KNOWN_PROXIES);
    assert!(capture.watch.pids.is_empty());
}

#[test]
fn naming_a_process_or_pid_replaces_the_known_proxies() {
    let Job::Run(run) = load(&["run", "--pid", "7,8"]).unwrap().job else {
        panic!("not a run")
    };
    assert_eq!(run.watch.pids, [7, 8]);
    assert!(run.watch.names.is_empty());
    assert_eq!(run.privacy, Privacy::Template);
    let Job::Run(run) = load(&["run", "--proxy", "my-pingora-proxy-1", "--proxy", "a"])
        .unwrap()
        .job
    else {
        panic!("not a run")
    };
    assert_eq!(run.watch.names, ["my-pingora-proxy-1", "a"]);
}

#[test]
fn a_host_can_be_given_another_name() {
    let node = |args: &[&str]| load(args).map(|settings| settings.node);
    assert_eq!(node(&["run", "--node", "worker-7"]).unwrap(), "worker-7");
    assert_eq!(node(&["capture", "--node", "x"]).unwrap(), "x");
    assert_eq!(node(&["run"]).unwrap(), host_name());
    assert!(node(&["run", "--node", ""]).unwrap_err().contains("--node"));
}

#[test]
fn containers_and_pods_narrow_what_is_watched() {
    let watch = |args: &[&str]| {
        let Job::Run(run) = load(&[&["run"], args].concat()).unwrap().job else {
            panic!("not a run")
        };
        run.watch
    };
    let watched = watch(&["--container", "web,3d6f0b9f1f5e", "--pod", "shop/web-0"]);
    assert_eq!(watched.names, KNOWN_PROXIES);
    assert!(
        watched
            .wanted()
            .ends_with("squid in container web, container 3d6f0b9f1f5e, pod shop/web-0")
    );
    let watched = watch(&["--container", "web", "--proxy", "gateway", "--pid", "7"]);
    assert_eq!(watched.wanted(), "gateway in container web");
    assert_eq!(watched.pids, [7]);
}

#[test]
fn errors_name_the_option_and_a_way_out() {
    for (args, parts) in [
        (&["capture", "--for", "60"][..], &["--for", "60s"][..]),
        (&["capture", "--count", "0"], &["--count"]),
        (&["run", "--listen", "nowhere"], &["--listen"]),
        (
            &["run", "--privacy", "some"],
            &["full", "template", "minimal"],
        ),
        (
            &["run", "--proxy", "/usr/sbin/nginx"],
            &["--proxy", "\"nginx\""],
        ),
        (&["run", "--pid", "0"], &["--pid"]),
        (
            &["run", "--otlp", "collector:4318"],
            &["--otlp", "http://collector:4318"],
        ),
        (
            &["run", "--otlp", "http://c/v1/logs"],
            &["--otlp", "leave them out"],
        ),
        (&["run", "--otlp", "http://u:p@c"], &["--otlp", "password"]),
        (&["run", "--otlp", "http://c/?x=1"], &["--otlp", "query"]),
        (&["run", "--pod", "web-0"], &["--pod", "shop/web-0"]),
        (&["run", "--pod", "/web-0"], &["--pod", "shop/web-0"]),
        (&["run", "--container", "a/b"], &["--container"]),
        (&["explain", "-", "-"], &["standard input", "once"]),
        (&["explain"], &["<FILE>"]),
        (
            &["capture", "--record", "x", "--report", "x"],
            &["--report x", "name another"],
        ),
        (
            &["explain", "Cargo.toml", "--report", "./src/../Cargo.toml"],
            &["--report", "name another"],
        ),
        (
            &["explain", "Cargo.toml", "-w", "./src/../Cargo.toml"],
            &["--pcap", "name another"],
        ),
        (
            &["explain", "a", "-w", "x", "--report", "x"],
            &["--pcap x", "name another"],
        ),
        (&["explain", "a", "-w", "-"], &["--pcap -", "name a file"]),
        (&["explain", "a", "--with-payload"], &["--pcap"]),
        (&["capture", "--with-payload"], &["--pcap"]),
        (
            &["capture", "--record", "x", "-w", "x"],
            &["--pcap x", "name another"],
        ),
        (
            &[
                "explain",
                "a",
                "-w",
                "x",
                "--with-payload",
                "--privacy",
                "template",
            ],
            &["--with-payload", "--privacy full"],
        ),
        (&["run", "-q", "-v"], &["--quiet", "--verbose"]),
        (
            &["run", "--tls-status", "--source", "packets"],
            &["--tls-status", "--source packets"],
        ),
        (
            &["capture", "--source", "logs", "--tls-status"],
            &["--tls-status", "--source logs"],
        ),
    ] {
        let error = load(args).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{args:?}: {error}");
        }
    }
}

#[test]
fn the_status_in_tls_is_asked_of_a_source_that_may_see_it() {
    for source in [&[][..], &["--source", "auto"], &["--source", "kernel"]] {
        let args = [&["run", "--tls-status"], source].concat();
        let Job::Run(run) = load(&args).unwrap().job else {
            panic!("not a run")
        };
        assert!(run.watch.asked.tls_status, "{source:?}");
    }
}
