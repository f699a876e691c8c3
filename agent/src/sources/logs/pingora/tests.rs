//! Lines that a program made with pingora 0.9.1 wrote about real faults.

use super::*;
use crate::signal::Protocol;

const BEGINNING: &str = "[2026-11-23T03:12:50Z ERROR pingora_proxy] Fail to proxy: ";
const END: &str =
    ", status: 502, tries: 1, retry: false, GET /shop/x?token=1,%20z, Host: shop.example:8080";

fn read(line: &str) -> Option<Logged> {
    match parse(line) {
        Parsed::Signal(timed) => timed.into_logged(),
        _ => None,
    }
}

/// What an error says, and of which upstream.
fn says(error: &str) -> Option<(Said, Option<String>)> {
    let line = read(&format!("{BEGINNING}{error}{END}"))?;
    let one = line.tries.into_iter().next()?;
    Some((one.said?, one.upstream.map(|to| to.0)))
}

#[test]
fn connects() {
    let with = |said, to: &str| Some((said, Some(to.to_owned())));
    for (errno, kind, to, words) in [
        (
            111,
            "ConnectRefused",
            "127.0.0.1:19050",
            "Connection refused",
        ),
        (111, "ConnectRefused", "/run/a.sock", "Connection refused"),
        (
            11,
            "ConnectError",
            "/run/a.sock",
            "Resource temporarily unavailable",
        ),
        (
            2,
            "ConnectError",
            "/run/a.sock",
            "No such file or directory",
        ),
        (113, "ConnectNoRoute", "[fd00::2]:80", "No route to host"),
    ] {
        let error = format!(
            "Upstream {kind} context: Fail to connect to addr: {to}, scheme: HTTP cause:  context: Fail to connect to {to} cause: {words} (os error {errno})"
        );
        let upstream = match to.starts_with('/') {
            true => format!("unix:{to}"),
            false => to.to_owned(),
        };
        let said = Said::ConnectFailed { errno };
        assert_eq!(says(&error), with(said, &upstream), "{error}");
    }
    assert_eq!(
        says(
            "Upstream ConnectTimedout context: timeout 1s connecting to server addr: 10.9.0.2:80, scheme: HTTP cause: Timeout Elapsed"
        ),
        with(Said::ConnectTimedOut, "10.9.0.2:80")
    );
}

#[test]
fn what_came_of_a_request() {
    let of = |error: &str| {
        let (kind, context) = error.split_once(' ')?;
        let error = format!(
            "Upstream {kind} context: Peer: addr: 127.0.0.1:19001, scheme: HTTP cause:  context: {context}"
        );
        let (said, upstream) = says(&error)?;
        assert_eq!(upstream.as_deref(), Some("127.0.0.1:19001"));
        Some(said)
    };
    let tls = Some(Protocol::Tls);
    for (error, said) in [
        (
            "ConnectionClosed while reading response headers, bytes already read: 28",
            Said::PeerClosed,
        ),
        (
            "ReadError while reading response headers, bytes already read: 0 cause: Connection reset by peer (os error 104)",
            Said::Reset,
        ),
        (
            "ReadTimedout while reading response headers",
            Said::ReadTimedOut,
        ),
        (
            r"InvalidHTTPHeader buf: \x15\x03\x01\x00\x02\x02Phello\r\n\r\n cause: invalid HTTP version",
            Said::NotHttp { speaks: tls },
        ),
        (
            r"InvalidHTTPHeader buf: HTTP/1.1 200 OK\r\nFoo bar\r\n\r\n cause: invalid header name",
            Said::HeadInvalid,
        ),
        (
            "InvalidHTTPHeader Response header larger than 1048575",
            Said::HeadTooBig,
        ),
        (
            "WriteTimedout writing body, timeout: 1.5s",
            Said::SendTimedOut,
        ),
    ] {
        assert_eq!(of(error), Some(said), "{error}");
    }
    // The response's head has gone to the client, with a status of its own.
    for error in [
        "ConnectionClosed Peer prematurely closed connection with 97 bytes of body remaining to read",
        "ReadTimedout reading body, timeout: 1.5s",
    ] {
        assert_eq!(of(error), None, "{error}");
    }
}

#[test]
fn the_request_and_its_status() {
    let closed = "Upstream ConnectionClosed context: Peer: addr: 127.0.0.1:19001, scheme: HTTP cause:  context: while reading response headers, bytes already read: 0";
    let line = read(&format!("{BEGINNING}{closed}{END}")).unwrap();
    assert_eq!((line.status, line.within), (Some(502), 1_000_000_000));
    let request = Opening::HttpRequest {
        method: "GET".to_owned(),
        path: "/shop/x".to_owned(),
        path_complete: true,
        host: Some("shop.example:8080".to_owned()),
    };
    assert_eq!(line.request, Some(request));
    let http2 = format!(
        "{BEGINNING}{closed}{}:",
        END.trim_end_matches("8080").trim_end_matches(':')
    );
    assert_eq!(
        read(&http2)
            .unwrap()
            .request
            .and_then(|r| match r {
                Opening::HttpRequest { host, .. } => host,
                _ => None,
            })
            .as_deref(),
        Some("shop.example")
    );
    let sending = "Upstream WriteError context: Peer: addr: 127.0.0.1:19001, scheme: HTTP cause:  context: while writing body cause: Broken pipe (os error 32)";
    let line = read(&format!("{BEGINNING}{sending}{END}")).unwrap();
    assert_eq!(line.status, None);
}

#[test]
fn what_a_client_or_an_upstream_writes_there() {
    let closed = "Upstream ConnectionClosed context: Peer: addr: 127.0.0.1:19001, scheme: HTTP cause:  context: while reading response headers, bytes already read: 0";
    let forged = ", status: 502, tries: 1, retry: false, GET /other, Host: y";
    assert_eq!(read(&format!("{BEGINNING}{closed}{END}{forged}")), None);
    let came = format!(
        "Upstream InvalidHTTPHeader context: Peer: addr: 127.0.0.1:19004, scheme: HTTP cause:  context: buf: x{forged} cause: invalid HTTP version"
    );
    assert_eq!(read(&format!("{BEGINNING}{came}{END}")), None);
    // A Host that is passed on as the server's name.
    let reset = |name: &str| {
        let error = format!(
            "Upstream ReadError context: Peer: addr: 127.0.0.1:19002, scheme: HTTPS, sni: {name} cause:  context: when reading body cause: Connection reset by peer (os error 104)"
        );
        read(&format!("{BEGINNING}{error}{END}"))
    };
    assert_eq!(reset("a.example"), None);
    assert_eq!(reset("a context: Fail to connect to addr: b"), None);
    assert_eq!(
        reset("a cause:  context: while reading response headers"),
        None
    );
    // Of another line, behind a newline in it.
    assert_eq!(read(&format!("    {BEGINNING}{closed}{END}")), None);
    // A Host that is none says nothing.
    let odd = ", status: 502, tries: 1, retry: false, GET /a, Host: x, Host: y [2026";
    let line = read(&format!("{BEGINNING}{closed}{odd}")).unwrap();
    let Some(Opening::HttpRequest { path, host, .. }) = line.request else {
        panic!("{line:?}");
    };
    assert_eq!((path.as_str(), host), ("/a", None));
}

#[test]
fn lines_of_other_kinds() {
    let nothing = |line: &str| matches!(parse(line), Parsed::Nothing);
    let server = "[2026-11-23T03:12:50Z INFO  pingora_core::server] Server starting";
    assert!(begins(server) && nothing(server));
    let own = "[2026-11-23T03:12:50.123Z WARN  my_proxy] Fail to proxy: x";
    assert!(!begins(own) && nothing(own));
    let retried = "[2026-11-23T03:12:50Z WARN  pingora_proxy] Fail to proxy: Upstream ReadError, tries: 1, retry: true, GET /a, Host: b";
    assert!(nothing(retried));
    assert!(!begins("[2026-11-23 03:12:50 +0000] [7] [INFO] pingora"));
    assert!(matches!(parse("no line of it"), Parsed::NotUnderstood));
}
