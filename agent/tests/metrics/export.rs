//! The exposition: what exists, what counts, what is bounded.

use std::io::Write;
use std::process::{Command, Stdio};

use why502::cause::Cause;
use why502::signal::{Address, ClosedBy, IdleClose, Listener, Stall};
use why502::sinks::metrics::{Metrics, Who};
use why502::verdict::{Kind, Party};

use crate::{nginx_seen, verdict};

fn listener(length: u32, peak: u32, gone: bool) -> Listener {
    Listener {
        address: Address("unix:/run/g.sock".to_owned()),
        netns: 1,
        pid: 7,
        length,
        limit: 128,
        peak,
        somaxconn: None,
        since: None,
        gone,
    }
}

/// Everything that the program would tell its metrics in a short life.
fn busy() -> Metrics {
    let metrics = Metrics::new();
    nginx_seen(&metrics, 3);
    metrics.source_up("kernel", true);
    metrics.probe_attached("inet_sock_set_state", "tp_btf", true);
    metrics.probe_attached("unix_stream_connect", "fexit", false);
    metrics.blind("reset_reason", true);
    metrics.signals("kernel", "attempt_ended", 12);
    metrics.lost("ring_buffer", "full", 0);
    metrics.history_up(true);
    metrics.kubernetes_up(false);
    metrics.on_listener(&listener(3, 129, false), "gunicorn");
    let unix = "unix:/run/g.sock";
    let tcp = "10.0.0.1:80";
    for failure in [
        verdict(Kind::Verdict, Some(502), Cause::UnixAcceptQueueFull, unix),
        verdict(Kind::Verdict, None, Cause::UnixAcceptQueueFull, unix),
        verdict(Kind::NearMiss, Some(200), Cause::KeepaliveRace, tcp),
        verdict(Kind::Truncated, Some(200), Cause::UpstreamReset, tcp),
    ] {
        metrics.on_verdict(&failure);
    }
    let close = |by, idle_ns| IdleClose {
        flow: 1,
        proxy: 7,
        upstream: Address(tcp.to_owned()),
        by,
        reset: false,
        idle_ns,
        requests: 2,
        longest_reuse_ns: 0,
    };
    let (nginx, upstream) = (Who::named("nginx"), Who::named(tcp));
    metrics.on_idle_close(&close(ClosedBy::Upstream, 5_001_000_000), &nginx, &upstream);
    metrics.on_idle_close(&close(ClosedBy::Proxy, 60_000_000_000), &nginx, &upstream);
    let stall = Stall {
        proxy: 7,
        upstream: Address(tcp.to_owned()),
        waited_ns: 3_000_000_000,
    };
    metrics.on_stall(&stall, &nginx, &upstream);
    metrics
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

#[test]
fn every_cause_of_a_seen_proxy_exists_at_zero() {
    let metrics = Metrics::new();
    assert!(!metrics.render("").contains("proxy=\"nginx\""));
    nginx_seen(&metrics, 1);
    // The second time: the first export of a series is always 0 by then.
    metrics.render("");
    let text = metrics.render("");
    for cause in Cause::ALL
        .iter()
        .filter(|cause| **cause != Cause::DownstreamGaveUp)
    {
        for status in ["502", "503", "504", "unknown"] {
            let series = format!(
                "why502_failed_responses_total{{proxy=\"nginx\",status=\"{status}\",cause=\"{cause}\"}}"
            );
            assert_eq!(value(&text, &series), Some(0.0), "{series}");
        }
    }
}

#[test]
fn one_failure_is_an_increase_in_every_counter_it_touches() {
    let metrics = Metrics::new();
    nginx_seen(&metrics, 1);
    metrics.render("");
    let refused = verdict(
        Kind::Verdict,
        Some(200),
        Cause::ConnectionRefused,
        "10.0.0.1:80",
    );
    metrics.on_verdict(&refused);
    let (before, after) = (metrics.render(""), metrics.render(""));
    for series in [
        // A status that no one could expect, and an upstream that no one knew.
        "why502_failed_responses_total{proxy=\"nginx\",status=\"200\",cause=\"connection_refused\"}",
        "why502_upstream_failed_responses_total{proxy=\"nginx\",upstream=\"10.0.0.1:80\",cause=\"connection_refused\"}",
    ] {
        assert_eq!(value(&before, series), Some(0.0), "{series}");
        assert_eq!(value(&after, series), Some(1.0), "{series}");
    }
    // What existed already counts at once.
    let verdicts = "why502_verdicts_total{cause=\"connection_refused\",confidence=\"proven\"}";
    assert_eq!(value(&before, verdicts), Some(1.0));
}

#[test]
fn of_two_readers_each_sees_the_increase_and_who_looks_once_takes_none() {
    let metrics = Metrics::new();
    nginx_seen(&metrics, 1);
    for reader in ["a", "b"] {
        metrics.render(reader);
    }
    let upstream = "10.0.0.1:80";
    let failure = verdict(Kind::Verdict, Some(502), Cause::KeepaliveRace, upstream);
    metrics.on_verdict(&failure);
    let series = "why502_upstream_failed_responses_total{proxy=\"nginx\",upstream=\"10.0.0.1:80\",cause=\"keepalive_race\"}";
    let seen = |reader: &str| value(&metrics.render(reader), series);
    assert_eq!(seen("a person"), Some(1.0));
    assert_eq!([seen("a"), seen("b")], [Some(0.0); 2]);
    assert_eq!([seen("a"), seen("b")], [Some(1.0); 2]);
    // Readers are not remembered without bound.
    for number in 0..40 {
        metrics.render(&format!("scanner {number}"));
    }
    let another = verdict(
        Kind::Verdict,
        Some(502),
        Cause::KeepaliveRace,
        "10.0.0.2:80",
    );
    metrics.on_verdict(&another);
    let series = series.replace("10.0.0.1", "10.0.0.2");
    assert_eq!(value(&metrics.render("a"), &series), Some(1.0));
    assert_eq!(value(&metrics.render("scanner 39"), &series), Some(0.0));
}

#[test]
fn on_kubernetes_namespaces_and_workloads_are_labels_of_their_own() {
    let metrics = Metrics::new();
    let home = |namespace: &str, workload: &str| Party {
        namespace: Some(namespace.to_owned()),
        workload: Some(workload.to_owned()),
        pod: Some(format!("{workload}-7c9d8b6f5-x2x4z")),
        ..Party::default()
    };
    let ingress = home("ingress", "gateway");
    let gateway = Who::proxy("nginx", &ingress);
    metrics.proxies_watched(&[(gateway.clone(), 2)].into());
    metrics.render("");
    let mut failure = verdict(
        Kind::Verdict,
        Some(502),
        Cause::KeepaliveRace,
        "10.0.0.1:80",
    );
    failure.proxy = Party {
        name: failure.proxy.name,
        ..ingress
    };
    failure.upstream = Party {
        address: failure.upstream.address,
        ..home("shop", "orders")
    };
    metrics.on_verdict(&failure);
    metrics.render("");
    let text = metrics.render("");
    let proxy = r#"proxy="nginx",proxy_namespace="ingress",proxy_workload="gateway""#;
    let upstream = r#"upstream="shop/orders",upstream_namespace="shop",upstream_workload="orders""#;
    for (series, expected) in [
        (format!("why502_proxies_watched{{{proxy}}}"), 2.0),
        (
            format!(
                r#"why502_failed_responses_total{{{proxy},status="502",cause="keepalive_race"}}"#
            ),
            1.0,
        ),
        (
            format!(
                r#"why502_failed_responses_total{{{proxy},status="504",cause="connect_timeout"}}"#
            ),
            0.0,
        ),
        (
            format!(
                r#"why502_upstream_failed_responses_total{{{proxy},{upstream},cause="keepalive_race"}}"#
            ),
            1.0,
        ),
        (
            format!(
                r#"why502_upstream_closes_total{{{proxy},{upstream},how="fin",phase="in_flight"}}"#
            ),
            1.0,
        ),
    ] {
        assert_eq!(value(&text, &series), Some(expected), "{series}\n{text}");
    }
    // Those are the scrape target's, and no pod is to be a label of its own.
    for label in [" namespace=", ",namespace=", "{namespace=", "pod=", "x2x4z"] {
        assert!(!text.contains(label), "{label}");
    }
    promtool(&text);
}

#[test]
fn the_export_is_what_it_was() {
    let text = busy().render("");
    let own: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("process_") && !line.contains("build_info{"))
        // The zeros of the pairs have their own test.
        .filter(|line| !(line.ends_with(" 0") && line.contains("cause=")))
        .collect();
    insta::assert_snapshot!(own.join("\n"));
}

#[test]
fn peaks_are_since_the_last_scrape_and_gone_listeners_leave() {
    let metrics = busy();
    let peak = "why502_accept_queue_peak{socket=\"unix:/run/g.sock\",process=\"gunicorn\"}";
    let overflows =
        "why502_accept_queue_overflows_total{socket=\"unix:/run/g.sock\",process=\"gunicorn\"}";
    assert_eq!(value(&metrics.render(""), peak), Some(129.0));
    assert_eq!(value(&metrics.render(""), peak), Some(3.0));
    assert_eq!(value(&metrics.render(""), overflows), Some(2.0));
    metrics.on_listener(&listener(0, 0, true), "gunicorn");
    assert_eq!(value(&metrics.render(""), peak), None);
    assert_eq!(value(&metrics.render(""), overflows), Some(2.0));
}

#[test]
fn unused_upstreams_leave_and_their_number_is_capped() {
    let metrics = busy();
    metrics.on_tick(3_601_000_000_000);
    assert!(!metrics.render("").contains("upstream=\"10.0.0.1:80\""));
    for port in 0..10_000 {
        let upstream = format!("10.1.0.1:{port}");
        metrics.on_verdict(&verdict(
            Kind::Verdict,
            Some(502),
            Cause::ConnectionRefused,
            &upstream,
        ));
    }
    let proxies = (0..100).map(|n| (Who::named(format!("proxy-{n}")), 1));
    metrics.proxies_watched(&proxies.collect());
    metrics.render("");
    let text = metrics.render("");
    let series = "why502_upstream_failed_responses_total{proxy=\"nginx\",upstream=\"other\",cause=\"connection_refused\"}";
    assert_eq!(value(&text, series), Some(9_800.0));
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(lines < 5_000, "{lines}");
}

#[test]
fn labels_from_traffic_cannot_forge_a_line() {
    let metrics = Metrics::new();
    let path = "unix:/run/\"}\nwhy502_up 1\n\\x";
    metrics.on_verdict(&verdict(
        Kind::Verdict,
        Some(502),
        Cause::UnixSocketMissing,
        path,
    ));
    let text = metrics.render("");
    assert!(
        !text.lines().any(|line| line.starts_with("why502_up ")),
        "{text}"
    );
    promtool(&text);
}

#[test]
fn promtool_finds_nothing_to_say() {
    promtool(&busy().render(""));
}

/// Prometheus' own check, where it is installed.
fn promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("not checked with promtool: {error}");
            return;
        }
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
