//! What is said of proxies, with all rights and without any.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

fn proxy(name: &str) -> Proxy {
    Proxy {
        proxy: name.to_owned(),
        processes: [7, 8].into(),
        may_probe: true,
        ..Proxy::default()
    }
}

fn said(found: Vec<Proxy>) -> String {
    let mut out = Vec::new();
    let hidden = false;
    table(&mut out, &Proxies { found, hidden }).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_table_says_by_what_each_proxy_is_seen() {
    let log = "/var/log/nginx/access.log";
    let nginx = Proxy {
        container: Some("web\n".to_owned()),
        logs: names(&[log]),
        recognised: [(log.to_owned(), "access log, format combined".to_owned())].into(),
        tells_status: true,
        openssl: names(&["/usr/lib/libssl.so.3"]),
        ..proxy("nginx")
    };
    let haproxy = Proxy {
        journals: names(&["haproxy.service"]),
        openssl: names(&["/usr/lib/libssl.so.3"]),
        ..proxy("haproxy")
    };
    let apache = Proxy {
        openssl: names(&["/usr/lib/libssl.so.3"]),
        may_probe: false,
        ..proxy("apache2")
    };
    insta::assert_snapshot!(said(vec![nginx, haproxy, apache, proxy("envoy")]), @r"

    proxy             processes status in TLS, where its client uses that
    nginx             2         from its logs in container web\n
                        log: /var/log/nginx/access.log (access log, format combined)
    haproxy           2         with --tls-status, or from its logs, where they tell it
                        journal: haproxy.service
                        with --tls-status: /usr/lib/libssl.so.3
    apache2           2         with --tls-status, or from a log that --log names
                        with --tls-status (needs CAP_SYS_ADMIN): /usr/lib/libssl.so.3
    envoy             2         from a log that --log names
    ");
}

#[test]
fn what_may_not_be_seen_is_said_not_to_be() {
    let nginx = Proxy {
        unseen: [Unseen::Files, Unseen::Container, Unseen::Libraries].into(),
        ..proxy("nginx")
    };
    let caddy = Proxy {
        journals: names(&["caddy.service"]),
        unseen: [Unseen::Journal].into(),
        ..proxy("caddy")
    };
    insta::assert_snapshot!(said(vec![nginx, caddy]), @r"

    proxy             processes status in TLS, where its client uses that
    nginx             2         from logs that cannot be seen here, or one that --log names
                        cannot be seen: which logs it has open; needs root or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH
                        cannot be seen: what its container writes; needs root or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH
                        cannot be seen: whether --tls-status would tell it; needs root or CAP_SYS_PTRACE
    caddy             2         from its logs, where they tell it
                        journal: caddy.service
                        cannot be seen: the journal; needs root or the group systemd-journal
    ");
}

#[test]
fn where_no_proxy_runs_nothing_is_said_but_where_one_may_be_hidden() {
    assert_eq!(said(Vec::new()), "");
    let mut out = Vec::new();
    let hidden = Proxies {
        hidden: true,
        ..Proxies::default()
    };
    table(&mut out, &hidden).unwrap();
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("cannot be seen here")
    );
}

/// A process that appends to this file and to nothing else, as `run` would see it.
fn writer_of(log: &Path) -> Proxy {
    let file = File::options().append(true).open(log).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .unwrap();
    let pid = child.id();
    let look = || {
        let mut writer = Proxy {
            processes: [pid].into(),
            ..Proxy::default()
        };
        writer.look_for_logs(
            &privileges::held(),
            &Formats::of_host(&[pid]),
            &Homes::default(),
        );
        writer
    };
    // On its way to its program it still has what this process has open.
    let patience = Instant::now() + Duration::from_secs(10);
    let mut writer = look();
    while writer.logs.len() != 1 {
        assert!(Instant::now() < patience, "{writer:?}");
        writer = look();
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    writer
}

#[test]
fn logs_are_read_as_run_reads_them() {
    const LINE: &str =
        "127.0.0.1 - - [22/Nov/2026:19:40:45 +0000] \"GET / HTTP/1.1\" 502 157 \"-\" \"-\"\n";
    let folder = tempfile::tempdir().unwrap();
    let seen = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let writer = writer_of(&path);
        let is = writer.recognised[&path.display().to_string()].clone();
        (is, writer.tells_status)
    };
    let strange = "of no format that is known, or empty".to_owned();
    assert_eq!(seen("strange.log", "what is this\n"), (strange, false));
    let access = "access log, format combined".to_owned();
    assert_eq!(seen("access.log", LINE), (access, true));
}

#[test]
fn a_file_that_several_workers_lead_to_has_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    fs::write(&path, "").unwrap();
    for process in ["self".to_owned(), std::process::id().to_string()] {
        let by_process = PathBuf::from(format!("/proc/{process}/root{}", path.display()));
        assert_eq!(by_own_name(&by_process), path);
    }
    // Another's file of that name, or none, is not this one.
    let gone = Path::new("/proc/self/root/no/such/file");
    assert_eq!(by_own_name(gone), gone);
    assert_eq!(by_own_name(&path), path);
}

#[test]
fn of_a_process_that_may_not_be_looked_into_nothing_is_claimed() {
    let (first, refused) = std::thread::spawn(|| {
        privileges::keep(&[]);
        let mut first = proxy("nginx");
        first.processes = [1].into();
        first.container = Some("web".to_owned());
        first.loaded(openssl::loaded_by(1));
        first.look_for_logs(
            &privileges::held(),
            &Formats::of_host(&[1]),
            &Homes::default(),
        );
        let refused = fs::read_link("/proc/1/exe");
        (
            first,
            refused.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied),
        )
    })
    .join()
    .unwrap();
    assert!(first.unseen.contains(&Unseen::Container), "{first:?}");
    // Where the first process has no more rights than this test, it hides nothing from it.
    for unseen in [Unseen::Files, Unseen::Libraries] {
        assert_eq!(first.unseen.contains(&unseen), refused, "{first:?}");
    }
}
