//! What pingora says of requests that it failed, as `env_logger` writes it. Pure.
//!
//! `[2026-11-23T03:12:50Z ERROR pingora_proxy] Fail to proxy: Upstream ReadTimedout context: …, status:
//! 502, tries: 1, retry: false, GET /a?b, Host: c`. Left of the status stand words of the upstream's, and a
//! server name that may be the client's, right of it the client's: a line with two statuses, or with a name
//! that is none, is not believed. A target holds no space.

use super::nginx_error::openssl_fault;
use super::text::{leading_number, request, status, upstream};
use super::time::iso;
use super::words::speaks;
use super::{Moment, Parsed, Timed};
use crate::signal::{Address, LogLine, Logged, LoggedTry, Opening, Said, Software, TlsFault};

const STATUS: &str = ", status: ";
/// Before a response's head there is nothing else that a client can have been sent.
const HEAD: &str = "while reading response headers";

/// Whether a line is pingora's own, of a program that writes others as well.
pub(super) fn begins(line: &str) -> bool {
    head(line).is_some_and(|(_, _, module, _)| module.starts_with("pingora"))
}

/// Time, level, module, and what follows them.
fn head(line: &str) -> Option<(Moment, &str, &str, &str)> {
    let (head, message) = line.strip_prefix('[')?.split_once("] ")?;
    let mut words = head.split_ascii_whitespace();
    let (time, level, module) = (words.next()?, words.next()?, words.next()?);
    let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    let known = levels.contains(&level) && words.next().is_none();
    known.then_some((iso(time)?, level, module, message))
}

pub(super) fn parse(line: &str) -> Parsed {
    // What follows a newline is indented.
    if line.starts_with("    ") {
        return Parsed::Nothing;
    }
    let Some((moment, level, module, message)) = head(line) else {
        return Parsed::NotUnderstood;
    };
    match message.strip_prefix("Fail to proxy: ") {
        Some(failure) if (level, module) == ("ERROR", "pingora_proxy") => {
            exchange(moment, failure).unwrap_or(Parsed::NotUnderstood)
        }
        // Warnings are of what is tried again.
        _ => Parsed::Nothing,
    }
}

fn exchange(moment: Moment, failure: &str) -> Option<Parsed> {
    let (error, rest) = failure.split_once(STATUS)?;
    if rest.contains(STATUS) {
        return None;
    }
    let (code, rest) = rest.split_once(", tries: ")?;
    let (_, rest) = rest.split_once(", retry: false, ")?;
    let request = asked(rest)?;
    let Some(said) = statement(error) else {
        return Some(Parsed::Nothing);
    };
    let one = LoggedTry {
        upstream: peer(error),
        said: Some(said),
        ..LoggedTry::default()
    };
    // While a request is sent its response may have come already: then the client has another status.
    let sending = matches!(said, Said::SendFailed { .. } | Said::SendTimedOut);
    Some(Parsed::Signal(Timed::exchange(
        moment,
        Logged {
            proxy: Some(Software::Pingora),
            line: LogLine::Access,
            pid: None,
            connection: None,
            client: None,
            request: Some(request),
            within: moment.within,
            took: None,
            status: status(code).filter(|_| !sending),
            tries: vec![one],
            said: None,
            untried: false,
        },
    )))
}

/// `GET /a?b, Host: c`
fn asked(text: &str) -> Option<Opening> {
    let (method, rest) = text.split_once(' ')?;
    let (target, host) = rest.split_once(' ')?;
    let host = host.strip_prefix("Host: ")?;
    // Of HTTP/2 a port follows, or none.
    let host = host.strip_suffix(':').unwrap_or(host);
    request(method, target.strip_suffix(',')?, Some(host))
}

fn statement(error: &str) -> Option<Said> {
    // What the program decided by itself has other words.
    let (source, error) = error.split_once(' ')?;
    let (kind, context) = error.split_once(' ')?;
    if !names_server(context) {
        return None;
    }
    let errno = os_error(error);
    let connecting = context.starts_with("context: Fail to connect to addr: ");
    let last = context.rsplit("context: ").next()?;
    let head = last.starts_with(HEAD);
    match (source, kind) {
        ("Upstream" | "Internal", _) if connecting => Some(Said::ConnectFailed { errno: errno? }),
        ("Upstream", "ConnectTimedout") => Some(Said::ConnectTimedOut),
        ("Upstream", "InvalidCert") => Some(Said::TlsFailed {
            how: TlsFault::Certificate,
        }),
        ("Upstream", "TLSHandshakeFailure") => Some(Said::TlsFailed {
            how: openssl_fault(error),
        }),
        ("Upstream", "ConnectionClosed") if head => Some(Said::PeerClosed),
        ("Upstream", "ReadTimedout") if head => Some(Said::ReadTimedOut),
        ("Upstream", "ReadError") if head && errno == Some(104) => Some(Said::Reset),
        ("Upstream", "WriteTimedout") => Some(Said::SendTimedOut),
        ("Upstream", "WriteError") => Some(Said::SendFailed { errno: errno? }),
        ("Upstream", "InvalidHTTPHeader") => Some(invalid_head(error)),
        _ => None,
    }
}

/// A server name, which may be the client's Host, holds no space.
fn names_server(context: &str) -> bool {
    let Some((_, rest)) = context.split_once(", sni: ") else {
        return true;
    };
    let end = rest.find([' ', ',']).unwrap_or(rest.len());
    let next = [", proxy: ", ", client cert: ", " cause: "];
    rest.len() == end || next.iter().any(|next| rest[end..].starts_with(next))
}

/// `buf: … cause: invalid HTTP version`, with what came in between.
fn invalid_head(error: &str) -> Said {
    let Some((_, came)) = error.split_once(" context: buf: ") else {
        return match error.contains(" context: Response header larger than ") {
            true => Said::HeadTooBig,
            false => Said::HeadInvalid,
        };
    };
    match came.rsplit_once(" cause: ") {
        Some((came, "invalid HTTP version")) => Said::NotHttp {
            speaks: speaks(came),
        },
        Some((_, "too many headers")) => Said::HeadRefused,
        _ => Said::HeadInvalid,
    }
}

/// The number of `Connection refused (os error 111)` at the end.
fn os_error(error: &str) -> Option<i32> {
    let (_, number) = error.strip_suffix(')')?.rsplit_once(" (os error ")?;
    leading_number(number)
}

/// `addr: 10.0.0.2:9000, scheme: HTTP`, or a Unix socket's path.
fn peer(error: &str) -> Option<Address> {
    let (_, rest) = error.split_once(" addr: ")?;
    let (address, _) = rest.split_once(", scheme: ")?;
    match address.starts_with('/') {
        true => upstream(&format!("unix:{address}")),
        false => upstream(address),
    }
}

#[cfg(test)]
mod tests;
