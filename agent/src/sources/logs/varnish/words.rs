//! What Varnish's records say: who, which connection, and why a fetch failed. Pure.

use std::net::SocketAddr;

use super::super::text::{client_with_port, leading_number, upstream};
use crate::signal::{Address, LoggedTry, Opening, Said};

/// Where Varnish cuts a record unless it is told otherwise (`vsl_reclen`).
const RECORD: usize = 254;

/// A target that fills its record may have lost its end.
pub(super) fn cut(asked: Opening, target: &str) -> Opening {
    match asked {
        Opening::HttpRequest {
            method,
            path,
            path_complete,
            host,
        } => Opening::HttpRequest {
            method,
            path,
            path_complete: path_complete && (target.len() < RECORD || target.contains('?')),
            host,
        },
        other => other,
    }
}

/// `req 2 rxreq`: the transaction that it leads to, or comes from.
pub(super) fn link(text: &str) -> Option<(&str, u64, &str)> {
    let mut words = text.split(' ');
    let (what, number) = (words.next()?, words.next()?.parse().ok()?);
    Some((what, number, words.next()?))
}

/// `10.0.0.7 51544 a0`; of a Unix socket it is `0.0.0.0 0`.
pub(super) fn client(text: &str) -> Option<Address> {
    let mut words = text.split(' ');
    match (words.next()?, words.next()?.parse().ok()?) {
        (_, 0) => Some(Address("unix:".to_owned())),
        (ip, port) => client_with_port(ip, Some(port)),
    }
}

/// `17 app 10.0.0.2 80 10.0.0.1 4100 reuse`: both ends; a Unix socket has the backend's name alone.
pub(super) fn connection(text: &str) -> Option<LoggedTry> {
    let mut words = text.split(' ').skip(1);
    let name = words.next()?;
    let mut end = || {
        let (ip, port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(SocketAddr::new(ip, port))
    };
    let (remote, local) = (end()?, end()?);
    let address = |end: SocketAddr| (end.port() > 0).then(|| Address(end.to_string()));
    Some(LoggedTry {
        upstream: address(remote).or_else(|| upstream(name)),
        local: address(local),
        ..LoggedTry::default()
    })
}

/// `backend app: fail errno 111 (Connection refused)`: which, and the rest.
pub(super) fn backend(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("backend ")?.split_once(": ")
}

pub(super) fn not_connected(why: &str, connect: impl FnOnce(i32) -> Said) -> Option<Said> {
    if let Some(errno) = why.strip_prefix("fail errno ") {
        return leading_number(errno).map(connect);
    }
    let errno = leading_number(why.strip_prefix("proxy write errno ")?)?;
    Some(Said::SendFailed { errno })
}

pub(super) fn unasked(why: &str) -> Option<Said> {
    match why {
        "unhealthy" => Some(Said::NoLiveUpstreams),
        // `.max_connections` of that backend.
        "busy" => Some(Said::Limited),
        _ => None,
    }
}

/// Why a connection gave no head.
pub(super) fn no_head(text: &str, fault: Option<Said>) -> Option<Said> {
    match text {
        "first byte timeout"
        | "first byte timeout (reused connection)"
        | "timeout"
        | "Timed out reusing backend connection" => Some(Said::ReadTimedOut),
        "backend closed" => Some(Said::ClosedOrReset),
        "overflow" => Some(Said::HeadTooBig),
        "Received junk" => Some(Said::HeadRefused),
        "http format error" => Some(fault.unwrap_or(Said::HeadRefused)),
        // An error of the socket is the same to it as its end.
        _ => text.starts_with("HTC eof (").then_some(Said::ClosedOrReset),
    }
}

/// What Varnish found wrong with a field; the upstream's own bytes follow.
pub(super) fn head_fault(text: &str) -> Option<Said> {
    let begins = |all: &[&str]| all.iter().any(|words| text.starts_with(words));
    if begins(&["Header too long: ", "Too many headers: "]) {
        return Some(Said::HeadTooBig);
    }
    let invalid = begins(&[
        "Header has ctrl char 0x",
        "1st header has white space: ",
        "Missing header name: ",
        "Illegal char 0x",
        "Header without ':' ",
    ]);
    invalid.then_some(Said::HeadInvalid)
}
