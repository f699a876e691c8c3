//! Errors in words, as programs without errno numbers write them: Go, Envoy. Pure.

use super::nginx_error::openssl_fault;
use super::text::upstream;
use crate::signal::{Address, LoggedTry, Protocol, Said, TlsFault};

/// strerror's words, with `_` for spaces in Envoy and in lower case in Go.
const ERRORS: [(&str, i32); 14] = [
    ("no such file or directory", 2),
    ("resource temporarily unavailable", 11),
    ("permission denied", 13),
    ("too many open files", 24),
    ("broken pipe", 32),
    ("protocol wrong type for socket", 91),
    ("cannot assign requested address", 99),
    ("network is down", 100),
    ("network is unreachable", 101),
    ("connection reset by peer", 104),
    ("connection timed out", 110),
    ("connection refused", 111),
    ("host is down", 112),
    ("no route to host", 113),
];

fn plain(text: &str) -> String {
    text.to_ascii_lowercase().replace('_', " ")
}

pub(super) fn connect_error(text: &str) -> Option<i32> {
    let text = plain(text);
    let found = ERRORS.iter().find(|(words, _)| text.contains(words));
    found.map(|(_, errno)| *errno)
}

pub(super) fn tls_error(text: &str) -> TlsFault {
    openssl_fault(text)
}

/// What an error of Go's `net/http` says of a try.
pub(super) fn go(message: &str) -> Option<LoggedTry> {
    let (said, upstream) = go_says(message)?;
    Some(LoggedTry {
        upstream,
        said: Some(said),
        local: connected_from(message),
        ..LoggedTry::default()
    })
}

/// What it says, and of which upstream.
fn go_says(message: &str) -> Option<(Said, Option<Address>)> {
    let said = |said| Some((said, None));
    if let Some(dialled) = message.strip_prefix("dial ") {
        return dial(dialled);
    }
    if let Some(rest) = message
        .strip_prefix("read tcp ")
        .or_else(|| message.strip_prefix("read unix "))
    {
        let to = connected_to(rest);
        return match connect_error(rest) {
            Some(104) => Some((Said::Reset, to)),
            _ if rest.ends_with("i/o timeout") => Some((Said::ReadTimedOut, to)),
            _ => None,
        };
    }
    // `readfrom tcp …: write tcp …: write: …` as well.
    if message.starts_with("write ") || message.starts_with("readfrom ") {
        let to = connected_to(message);
        let write = message.rsplit("write").next()?;
        return match connect_error(write) {
            Some(errno) => Some((Said::SendFailed { errno }, to)),
            None if message.ends_with("i/o timeout") => Some((Said::SendTimedOut, to)),
            None => None,
        };
    }
    if message == "EOF"
        || message == "unexpected EOF"
        || message.ends_with("server closed idle connection")
    {
        return said(Said::PeerClosed);
    }
    if let Some(error) = message
        .strip_prefix("net/http: ")
        .or_else(|| Some(message).filter(|m| m.starts_with("malformed HTTP response")))
    {
        return go_http(error);
    }
    let retried = message.strip_prefix("http2: Transport: cannot retry err [");
    let http2 = retried.unwrap_or(message);
    // First: it quotes what the upstream said with it.
    if http2.starts_with("http2: server sent GOAWAY and closed the connection")
        || http2.starts_with("http2: Transport received GOAWAY from server ")
        || http2.starts_with("http2: Transport received Server's graceful shutdown GOAWAY")
    {
        return said(Said::GoAway);
    }
    if http2.contains("stream error: stream ID ") && http2.contains("; received from peer") {
        return said(Said::StreamReset);
    }
    match http2 {
        "http2: timeout awaiting response headers" => return said(Said::ReadTimedOut),
        "http2: response header list larger than advertised limit" => {
            return said(Said::HeadTooBig);
        }
        _ => {}
    }
    if message.starts_with("tls: ")
        || message.starts_with("x509: ")
        || message.starts_with("remote error: tls: ")
    {
        let how = openssl_fault(message);
        return said(Said::TlsFailed { how });
    }
    if message.starts_with("no upstreams available") {
        return said(Said::NoLiveUpstreams);
    }
    if message.contains("context canceled") {
        return said(Said::ClientLeft);
    }
    None
}

fn dial(rest: &str) -> Option<(Said, Option<Address>)> {
    if rest.contains(": lookup ") || rest.starts_with("tcp: lookup ") {
        return Some((Said::NotResolved, None));
    }
    let (network, rest) = rest.split_once(' ')?;
    let (address, error) = rest
        .rsplit_once(": connect: ")
        .or_else(|| rest.rsplit_once(": "))?;
    let address = match network {
        "unix" => upstream(&format!("unix:{address}")),
        _ => upstream(address.rsplit("->").next()?),
    };
    if error == "i/o timeout" {
        return Some((Said::ConnectTimedOut, address));
    }
    let errno = connect_error(error)?;
    Some((Said::ConnectFailed { errno }, address))
}

/// `10.0.0.1:4000->10.0.0.2:80: read: …`: the other end.
fn connected_to(text: &str) -> Option<Address> {
    let (_, rest) = text.split_once("->")?;
    upstream(rest.split(": ").next()?)
}

/// `read tcp 10.0.0.1:4000->10.0.0.2:80: …`: this end. A Unix socket's has no name.
fn connected_from(message: &str) -> Option<Address> {
    let words = ["read tcp ", "write tcp ", "readfrom tcp "];
    let rest = words.iter().find_map(|word| message.strip_prefix(word))?;
    let (from, _) = rest.split_once("->")?;
    let from: std::net::SocketAddr = from.parse().ok()?;
    Some(Address(from.to_string()))
}

fn go_http(error: &str) -> Option<(Said, Option<Address>)> {
    let said = match error {
        e if e.starts_with("timeout awaiting response headers") => Said::ReadTimedOut,
        e if e.starts_with("TLS handshake timeout") => Said::TlsFailed {
            how: TlsFault::TimedOut,
        },
        e if e.starts_with("server response headers exceeded") => Said::HeadTooBig,
        e if e.contains("malformed HTTP response") => Said::NotHttp {
            speaks: speaks(e.split_once("malformed HTTP response \"")?.1),
        },
        e if e.contains("malformed HTTP status code") || e.contains("malformed HTTP version") => {
            Said::NotHttp { speaks: None }
        }
        // A head that ends early leaves half a field.
        e if e.contains("malformed MIME header: missing colon") => Said::HeadRefused,
        e if e.contains("malformed MIME header") => Said::HeadInvalid,
        e if e.contains("transport connection broken: EOF") => Said::PeerClosed,
        _ => return None,
    };
    Some((said, None))
}

/// Whose bytes an escaped beginning is.
pub(super) fn speaks(bytes: &str) -> Option<Protocol> {
    if bytes.starts_with("\\x15\\x03") || bytes.starts_with("\\x16\\x03") {
        Some(Protocol::Tls)
    } else if bytes.starts_with("\\x00\\x00") {
        Some(Protocol::Http2)
    } else {
        (!bytes.starts_with("HTTP/") && bytes.len() > 4).then_some(Protocol::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_go() {
        let of = |message: &str| {
            let one = go(message)?;
            Some((one.said?, one.upstream.map(|to| to.0)))
        };
        let with = |said, to: &str| Some((said, Some(to.to_owned())));
        let errno = 111;
        assert_eq!(
            of("dial tcp 127.0.0.1:54989: connect: connection refused"),
            with(Said::ConnectFailed { errno }, "127.0.0.1:54989")
        );
        assert_eq!(
            of("dial unix /run/a b.sock: connect: resource temporarily unavailable"),
            with(Said::ConnectFailed { errno: 11 }, "unix:/run/a b.sock")
        );
        assert_eq!(
            of("dial tcp 127.0.0.1:9: i/o timeout"),
            with(Said::ConnectTimedOut, "127.0.0.1:9")
        );
        assert_eq!(
            of("dial tcp: lookup nowhere.example: no such host"),
            Some((Said::NotResolved, None))
        );
        assert_eq!(
            of("read tcp 127.0.0.1:48416->127.0.0.1:32981: read: connection reset by peer"),
            with(Said::Reset, "127.0.0.1:32981")
        );
        let speaks = Some(Protocol::Tls);
        assert_eq!(
            of(
                r#"net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x15\x03\x01\x00\x02\x02""#
            ),
            Some((Said::NotHttp { speaks }, None))
        );
        let again = "http2: Transport: cannot retry err [stream error: stream ID 23; REFUSED_STREAM; received \
                     from peer] after Request.Body was written; define Request.GetBody to avoid this error";
        for message in [
            "stream error: stream ID 7; INTERNAL_ERROR; received from peer",
            again,
        ] {
            assert_eq!(of(message), Some((Said::StreamReset, None)));
        }
        let closed = r#"http2: server sent GOAWAY and closed the connection; LastStreamID=3, ErrCode=ENHANCE_YOUR_CALM, debug="""#;
        let forged = r#"http2: server sent GOAWAY and closed the connection; LastStreamID=3, ErrCode=NO_ERROR, debug="stream error: stream ID 1; X; received from peer""#;
        let first = "http2: Transport received GOAWAY from server ErrCode:ENHANCE_YOUR_CALM";
        let again = "http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY] \
                     after Request.Body was written; define Request.GetBody to avoid this error";
        for message in [closed, forged, first, again] {
            assert_eq!(of(message), Some((Said::GoAway, None)));
        }
        assert_eq!(of("something else"), None);
    }

    #[test]
    fn the_own_end_of_a_connection_that_broke() {
        let of = |message: &str| go(message)?.local.map(|from| from.0);
        for message in [
            "read tcp 10.9.0.1:41910->10.9.0.2:9000: read: connection reset by peer",
            "write tcp 10.9.0.1:41910->10.9.0.2:9000: write: broken pipe",
            "readfrom tcp 10.9.0.1:41910->10.9.0.2:9000: write tcp 10.9.0.1:41910->10.9.0.2:9000: write: broken pipe",
        ] {
            assert_eq!(of(message).as_deref(), Some("10.9.0.1:41910"), "{message}");
        }
        for message in [
            "read unix @->/run/app.sock: read: connection reset by peer",
            "dial tcp 10.9.0.2:9000: connect: connection refused",
            "EOF",
        ] {
            assert_eq!(of(message), None, "{message}");
        }
    }
}
