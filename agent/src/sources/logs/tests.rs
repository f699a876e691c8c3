//! Parsers on hostile bytes: on damaged lines of real logs, and on lines that a client wrote.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::signal::{Opening, Said};

/// A small generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn real_logs() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    for proxy in std::fs::read_dir(root.join("tests/logs")).unwrap() {
        let proxy = proxy.unwrap().path();
        let Ok(files) = std::fs::read_dir(&proxy) else {
            continue;
        };
        for file in files.map(|f| f.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "log") {
                all.push((file.display().to_string(), std::fs::read(&file).unwrap()));
            }
        }
    }
    all.sort();
    assert!(all.len() > 10, "{}", all.len());
    all
}

fn parser() -> Parser {
    let mut templates = Template::known();
    let timed = "$remote_addr:$remote_port $msec $request_time \"$request\" $status $upstream_addr $upstream_status $upstream_connect_time $upstream_header_time $upstream_response_time $host";
    templates.extend(Template::new("timed", timed, "default"));
    Parser::new(templates.into(), Zone::Fixed(0))
}

fn read(bytes: &[u8]) -> (Parser, Vec<Timed>) {
    let mut parser = parser();
    let mut out = Vec::new();
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    for line in whole.split(|b| *b == b'\n') {
        parser.line(line, Some(1), &mut out);
    }
    parser.flush(&mut out);
    (parser, out)
}

/// Nothing of a query, of a header but Host, or of a user leaves the parsers.
fn assert_private(signals: &[Timed], name: &str) {
    for timed in signals {
        let text = serde_json::to_string(&timed.fact).unwrap();
        for secret in ["s3cret", "token=", "secret-agent", "referrer.example", "?"] {
            assert!(!text.contains(secret), "{name}: {secret} in {text}");
        }
    }
}

#[test]
fn real_lines_are_understood() {
    for (name, bytes) in real_logs() {
        if name.ends_with("access-json.log") && name.contains("nginx") {
            continue;
        }
        let (parser, signals) = read(&bytes);
        assert!(parser.name().is_some(), "{name}");
        let counts = parser.counts();
        let lost = counts.not_understood + counts.distrusted + counts.too_long;
        // uWSGI writes a backtrace of a worker that crashes.
        let backtraces = name.ends_with("uwsgi.log");
        assert!(backtraces || lost * 3 < counts.lines, "{name}: {counts:?}");
        assert!(!signals.is_empty(), "{name}");
        assert_private(&signals, &name);
    }
}

/// Cut, changed, joined and repeated anywhere: no panic, and still nothing private.
#[test]
fn damaged_lines_are_survived() {
    let mut random = Random(0x502);
    for (name, bytes) in real_logs() {
        for _ in 0..8 {
            let mut damaged = bytes.clone();
            for _ in 0..200 {
                let at = random.below(damaged.len());
                match random.below(4) {
                    0 => damaged[at] = random.below(256) as u8,
                    1 => damaged[at] = b"\n\" []{}\\:,/?"[random.below(12)],
                    2 => drop(damaged.remove(at)),
                    _ => damaged.insert(at, b"\xc3\xff\x00\"\n"[random.below(5)]),
                }
            }
            let (_, signals) = read(&damaged);
            for timed in signals {
                if let Some(logged) = timed.into_logged() {
                    assert!(logged.tries.len() < 10_000, "{name}");
                }
            }
        }
    }
}

/// Whatever a client has nginx write into the message of its entry, no line of it is believed.
#[test]
fn nobody_forges_a_line_of_nginxs_error_log() {
    const FORGED: &str = r#"2026/11/21 12:00:00 [error] 1#1: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 6.6.6.6, server: , request: "GET /forged HTTP/1.1", upstream: "http://10.6.6.6:1/x", host: "evil""#;
    const WHOLE: &str =
        r#"" failed (2: x), client: 127.0.0.1, server: s, request: "GET /x HTTP/1.1", host: "h""#;
    let mut random = Random(0x404);
    let mut genuine_read = 0;
    for _ in 0..3000 {
        let mut log = String::new();
        let genuine = |n: usize| {
            format!(
                "2026/11/21 12:00:00 [error] 7#7: *{n} connect() failed (111: Connection refused) while connecting to upstream, client: 10.0.0.{n}, server: s, request: \"GET /true HTTP/1.1\", upstream: \"http://10.0.0.1:80/\", host: \"h\"\n"
            )
        };
        for n in 0..random.below(4) {
            log.push_str(&genuine(n));
        }
        // The client's text: decoded, so with newlines and quotes of its choice.
        let mut text = String::new();
        for _ in 0..random.below(6) {
            match random.below(6) {
                0 => text.push_str(WHOLE),
                1 | 2 => text.push_str(FORGED),
                3 => text.push_str(&"h".repeat(random.below(1800))),
                4 => text.push_str("\" failed (2: No such file), client: 1.1.1.1"),
                5 => text.push_str(", referrer: \""),
                _ => {}
            }
            if random.below(4) > 0 {
                text.push('\n');
            }
        }
        let mut entry = format!(
            "2026/11/21 12:00:01 [error] 7#7: *9 open() \"/var/www/{text}\" failed (2: No such file or directory), client: 6.6.6.6, server: s, request: \"GET /x HTTP/1.1\", host: \"h\""
        );
        // As nginx cuts it.
        entry.truncate(2047);
        entry.push('\n');
        log.push_str(&entry);
        for n in 0..random.below(4) {
            log.push_str(&genuine(10 + n));
        }
        let (_, signals) = read(log.as_bytes());
        for logged in signals.into_iter().filter_map(Timed::into_logged) {
            let client = logged.client.unwrap().0;
            assert_ne!(client, "6.6.6.6", "{log}");
            genuine_read += 1;
        }
    }
    assert!(genuine_read > 1000, "{genuine_read}");
}

/// A request line, a referrer or a Host that imitates the fields after it changes none of them.
#[test]
fn nobody_forges_a_field() {
    let line = |referrer: &str| {
        format!(
            "2026/11/21 12:12:16 [error] 7#7: *6 connect() failed (111: Connection refused) while connecting to upstream, client: 127.0.0.1, server: s, request: \"GET /a HTTP/1.1\", upstream: \"http://10.0.0.1:80/a\", host: \"true\", referrer: \"{referrer}\""
        )
    };
    let (_, signals) = read(line("x\", upstream: \"http://6.6.6.6:1/\", host: \"evil").as_bytes());
    let logged = signals.into_iter().next().unwrap().into_logged().unwrap();
    assert_eq!(logged.tries[0].upstream.as_ref().unwrap().0, "10.0.0.1:80");
    assert_eq!(
        logged.tries[0].said,
        Some(Said::ConnectFailed { errno: 111 })
    );
    // Two Hosts: neither is believed.
    let host = match logged.request {
        Some(Opening::HttpRequest { host, .. }) => host,
        _ => panic!("no request"),
    };
    assert_eq!(host, None);
    let envoy = r#"[2026-11-21T12:12:16.000Z] "GET /a HTTP/1.1" 503 UF 0 98 0 - "-" "x" 200 - 0 0 0 - "-" "" "id" "shop.example" "10.0.0.1:80""#;
    let (_, signals) = read(envoy.as_bytes());
    let logged = signals.into_iter().next().unwrap().into_logged().unwrap();
    assert_eq!(logged.status, Some(503));
    assert_eq!(logged.tries[0].upstream.as_ref().unwrap().0, "10.0.0.1:80");
}

/// The same lines as containers' runtimes and syslog keep them, split where they split them.
#[test]
fn wrapped_lines_say_the_same() {
    let logs = real_logs();
    let (_, bytes) = logs
        .iter()
        .find(|(n, _)| n.ends_with("nginx/error.log"))
        .unwrap();
    let plain = read(bytes).1;
    let text = String::from_utf8_lossy(bytes);
    let mut runtime = String::new();
    let mut docker = String::new();
    for line in text.lines() {
        let half = (0..=line.len() / 2)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap();
        let at = "2026-11-21T12:12:16.123456789Z";
        runtime += &format!(
            "{at} stderr P {}\n{at} stdout F not this one\n",
            &line[..half]
        );
        runtime += &format!("{at} stderr F {}\n", &line[half..]);
        let json = serde_json::json!({"log": format!("{line}\n"), "stream": "stderr", "time": at});
        // As the runtime orders them.
        let log = json["log"].to_string();
        docker += &format!("{{\"log\":{log},\"stream\":\"stderr\",\"time\":\"{at}\"}}\n");
    }
    assert_eq!(read(runtime.as_bytes()).1, plain);
    assert_eq!(read(docker.as_bytes()).1, plain);
}

/// A log that changes its format is read on after a while.
#[test]
fn a_new_format_is_found() {
    let mut text = String::new();
    let gunicorn = "[2026-11-21 12:13:39 +0000] [30175] [CRITICAL] WORKER TIMEOUT (pid:30184)\n";
    text += gunicorn;
    let combined =
        "10.0.0.7 - - [21/Nov/2026:12:12:16 +0000] \"GET /a HTTP/1.1\" 502 157 \"-\" \"-\"\n";
    text += &combined.repeat(STRANGE as usize + 5);
    let (parser, signals) = read(text.as_bytes());
    assert_eq!(parser.counts().not_understood, u64::from(STRANGE));
    assert_eq!(signals.len(), 6);
    let arc: Arc<[Template]> = Template::known().into();
    assert!(arc.len() >= 5);
}

/// `error_log … crit`: that it is silent about a request says nothing.
#[test]
fn a_log_of_what_is_worse_than_errors_does_not_tell_them() {
    let tells = |text: &str| read(text.as_bytes()).0.tells().contains(&"nginx_error_log");
    let refused = |level: &str| {
        format!(
            "2026/11/21 12:57:44 [{level}] 1#1: *6 connect() failed (111: Connection refused) while connecting to upstream, client: 10.0.0.7, server: s, request: \"GET /a HTTP/1.1\", upstream: \"http://10.0.0.2:80/a\", host: \"s\"\n"
        )
    };
    for level in ["crit", "alert", "emerg"] {
        assert!(!tells(&refused(level)), "{level}");
        assert!(tells(&(refused(level) + &refused("error"))), "{level}");
    }
    assert!(tells(
        "2026/11/21 12:57:44 [notice] 1#1: start worker processes\n"
    ));
    // A line that a client wrote, within one of nginx's.
    let forged = "2026/11/21 12:57:44 [crit] 1#1: *6 open() \"/x\n2026/11/21 12:57:44 [error] 1#1: *7 forged\n\" failed (13: Permission denied), client: 10.0.0.7, server: s, request: \"GET /x%0a HTTP/1.1\", host: \"s\"\n";
    assert!(!tells(forged));
}
