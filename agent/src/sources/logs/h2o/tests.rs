//! Lines that h2o 2.2.5 wrote about real faults, and others of that form.

use super::*;
use crate::signal::Opening;

/// Of an upstream's own error, faults, and what the configuration answers.
const REAL: [(&str, Option<Said>); 8] = [
    (
        r#"{"server":"h2o","usec":1795471724131318,"request_time":0,"process_time":0,"client":"127.0.0.1","client_port":40634,"method":"GET","path":"/fine","host":"127.0.0.1:8099","status":500,"error":""}"#,
        None,
    ),
    (
        r#"{"server":"h2o","usec":1795471724156805,"request_time":0,"process_time":0.004296,"client":"127.0.0.1","client_port":40636,"method":"GET","path":"/name/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] Temporary failure in name resolution"}"#,
        Some(Said::NotResolved),
    ),
    (
        r#"{"server":"h2o","usec":1795471724170859,"request_time":0,"process_time":0,"client":"127.0.0.1","client_port":40646,"method":"GET","path":"/refused/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] connection failed"}"#,
        Some(Said::NotConnected),
    ),
    (
        r#"{"server":"h2o","usec":1795471724182473,"request_time":0,"process_time":0,"client":"127.0.0.1","client_port":40662,"method":"GET","path":"/unix/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] failed to connect to host"}"#,
        Some(Said::NotConnected),
    ),
    (
        r#"{"server":"h2o","usec":1795471724200802,"request_time":0,"process_time":0.000402,"client":"127.0.0.1","client_port":40674,"method":"GET","path":"/closes/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] I/O error (head)"}"#,
        Some(Said::ClosedOrReset),
    ),
    (
        r#"{"server":"h2o","usec":1795471724211515,"request_time":0,"process_time":0,"client":"127.0.0.1","client_port":40680,"method":"GET","path":"/junk/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] failed to parse the response"}"#,
        Some(Said::HeadRefused),
    ),
    (
        r#"{"server":"h2o","usec":1795471724231639,"request_time":0,"process_time":1.001115,"client":"127.0.0.1","client_port":40694,"method":"GET","path":"/waits/%c3%a9","host":"127.0.0.1:8099","status":502,"error":"[lib/core/proxy.c] I/O timeout"}"#,
        Some(Said::TimedOut),
    ),
    (
        r#"{"server":"h2o","usec":1795471706592600,"request_time":0,"process_time":0,"client":"127.0.0.1","client_port":36332,"method":"GET","path":"/own/%C3%A9","host":"127.0.0.1:8099","status":503,"error":""}"#,
        None,
    ),
];

fn line(error: &str, status: u16) -> String {
    format!(
        r#"{{"server":"h2o","usec":1795470000123456,"request_time":0.000250,"process_time":1.000500,"client":"10.0.0.7","client_port":51544,"method":"GET","path":"/a\u00c3\u00a9","host":"shop.example:8080","status":{status},"error":"{error}"}}"#
    )
}

fn read(line: &str) -> Option<(Nanos, Logged)> {
    let object = serde_json::from_str(line).unwrap();
    assert!(is_h2o(&object));
    match parse(&object) {
        Parsed::Signal(timed) => Some((timed.at, timed.into_logged()?)),
        _ => None,
    }
}

/// What is said of the last try, or of the exchange; `None` without words that are known.
fn says(error: &str) -> Option<Said> {
    let (_, line) = read(&line(error, 502)).unwrap();
    assert_eq!(line.tries.len() + usize::from(line.said.is_some()), 1);
    line.said.or(line.tries.first().and_then(|one| one.said))
}

#[test]
fn real_lines() {
    for (line, said) in REAL {
        let (_, read) = read(line).expect(line);
        let tried = read.tries.iter().find_map(|one| one.said);
        assert_eq!(read.said.or(tried), said, "{line}");
        assert_eq!(
            read.tries.is_empty(),
            matches!(said, None | Some(Said::NotResolved))
        );
        assert!(read.took.is_some() && read.request.is_some(), "{line}");
    }
}

#[test]
fn whose_request_it_was_and_when() {
    let (at, line) = read(&line("", 503)).unwrap();
    assert_eq!(at, 1_795_470_001_123_956_000);
    assert_eq!(line.took, Some(1_000_750_000));
    assert_eq!(line.client.unwrap().0, "10.0.0.7:51544");
    assert_eq!((line.status, line.proxy), (Some(503), Some(Software::H2o)));
    let Some(Opening::HttpRequest { path, host, .. }) = line.request else {
        panic!("no request");
    };
    assert_eq!(path, "/aé");
    assert_eq!(host.as_deref(), Some("shop.example:8080"));
    assert!(line.tries.is_empty() && line.said.is_none());
}

#[test]
fn what_it_says_of_upstreams() {
    let of = |words: &str| says(&format!("[lib/core/proxy.c] {words}"));
    for (words, said) in [
        ("connection failed", Said::NotConnected),
        ("connection timeout", Said::ConnectTimedOut),
        ("I/O timeout", Said::TimedOut),
        ("I/O error (head)", Said::ClosedOrReset),
        ("failed to parse the response", Said::HeadRefused),
        ("invalid content-length", Said::HeadInvalid),
        ("Name or service not known", Said::NotResolved),
        ("Temporary failure in name resolution", Said::NotResolved),
    ] {
        assert_eq!(of(words), Some(said), "{words}");
    }
    assert_eq!(of("something else"), None);
}

#[test]
fn what_an_application_says_is_not_believed() {
    for error in [
        "[lib/handler/fastcgi.c] connection failed",
        "[lib/handler/fastcgi.c] x[lib/core/proxy.c] connection failed",
        "[lib/core/proxy.c] I/O timeout[lib/handler/mruby.c] y",
        "connection failed",
    ] {
        assert_eq!(says(error), None, "{error}");
    }
}

#[test]
fn what_came_of_a_response_that_had_begun() {
    let error = "[lib/core/proxy.c] I/O timeout";
    let (_, passed_on) = read(&line(error, 200)).unwrap();
    assert!(passed_on.tries.is_empty() && passed_on.said.is_none());
    let (_, of_upstream) = read(&line(error, 500)).unwrap();
    assert_eq!(
        (of_upstream.tries.len(), of_upstream.tries[0].said),
        (1, None)
    );
}

#[test]
fn what_was_no_request() {
    for (known, other) in [
        ("\"usec\":1795470000123456", "\"usec\":null"),
        ("\"status\":400", "\"status\":0"),
    ] {
        let line = line("", 400).replace(known, other);
        assert!(read(&line).is_none(), "{line}");
    }
    let early = line("", 400).replace("1.000500", "null");
    assert_eq!(read(&early).unwrap().1.took, None);
}
