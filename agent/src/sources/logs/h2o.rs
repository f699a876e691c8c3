//! h2o's access log, in the one format that says why a request failed (docs/logs.md): JSON, with `%{error}x`.
//! Pure.
//!
//! Its error log names neither time nor client, cuts paths, and has what FastCGI applications write to their
//! standard error, as they write it: it is not read. Here that is escaped, and what the proxy itself says
//! is believed where it is all there is.

use serde_json::Value;

use super::text::{client_with_port, request, status};
use super::{Moment, Parsed, Timed};
use crate::signal::{LogLine, Logged, LoggedTry, Nanos, Said, Software, TlsFault};

/// What writes of upstreams: `[lib/core/proxy.c] connection failed`.
const PROXY: &str = "[lib/core/proxy.c] ";
/// All errors of that have this status; what comes of a response that had begun has the upstream's.
const FAILED: u16 = 502;
/// Its clock stands still while a thread handles what has come.
const WITHIN: Nanos = 1_000_000;

pub(super) fn is_h2o(object: &Value) -> bool {
    let named = object.get("server").and_then(Value::as_str) == Some("h2o");
    named && object.get("usec").is_some() && object.get("error").is_some()
}

pub(super) fn parse(object: &Value) -> Parsed {
    exchange(object).unwrap_or(Parsed::Nothing)
}

/// Nothing of what was refused before it was a request, or left before it was answered.
fn exchange(object: &Value) -> Option<Parsed> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).map(bytes);
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    let asked_at = number("usec")?.checked_mul(1000)?;
    let status = status(&number("status")?.to_string())?;
    let waited = object.get("process_time").and_then(duration);
    let read = object.get("request_time").and_then(duration);
    let port = number("client_port").and_then(|port| u16::try_from(port).ok());
    let moment = Moment {
        at: asked_at.saturating_add(waited.unwrap_or(0)),
        within: WITHIN,
    };
    let error = text("error")?;
    let tried = match error.as_str() {
        "" => None,
        // In what was passed on, the upstream's status stands.
        _ if status < 500 => None,
        error => Some(error.strip_prefix(PROXY).and_then(statement)),
    };
    let tried = tried.map(|said| said.filter(|_| status == FAILED));
    let (mut said, mut tries) = (None, Vec::new());
    match tried {
        Some(Some(Said::NotResolved)) => said = Some(Said::NotResolved),
        Some(failed) => tries.push(LoggedTry {
            said: failed,
            ..LoggedTry::default()
        }),
        None => {}
    }
    Some(Parsed::Signal(Timed::exchange(
        moment,
        Logged {
            proxy: Some(Software::H2o),
            line: LogLine::Access,
            pid: None,
            connection: None,
            client: text("client").and_then(|ip| client_with_port(&ip, port)),
            request: request(&text("method")?, &text("path")?, text("host").as_deref()),
            within: moment.within,
            took: waited.zip(read).map(|(waited, read)| waited + read),
            status: Some(status),
            tries,
            said,
            untried: false,
        },
    )))
}

/// Each byte that is no printable ASCII is written as a character of its own.
fn bytes(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    let known = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    known.unwrap_or_else(|| text.to_owned())
}

/// Seconds.
fn duration(value: &Value) -> Option<Nanos> {
    let seconds = value.as_f64()?;
    let known = (0.0..2.6e6).contains(&seconds);
    known.then_some((seconds * 1e9).round() as Nanos)
}

/// The words of 2.2 (`lib/common/http1client.c`, `socketpool.c`), and of 2.3.
fn statement(words: &str) -> Option<Said> {
    Some(match words {
        "connection failed"
        | "connection failure"
        | "failed to connect to host"
        | "socket create error"
        | "socket creation failed" => Said::NotConnected,
        "connection refused" => Said::ConnectFailed { errno: 111 },
        "connection timed out" => Said::ConnectFailed { errno: 110 },
        "network unreachable" => Said::ConnectFailed { errno: 101 },
        "host unreachable" => Said::ConnectFailed { errno: 113 },
        "connection timeout" => Said::ConnectTimedOut,
        "I/O timeout" => Said::TimedOut,
        "first byte timeout" => Said::ReadTimedOut,
        "I/O error (head)" | "I/O error (send request)" | "I/O error" => Said::ClosedOrReset,
        "failed to parse the response" => Said::HeadRefused,
        "unexpected type of transfer-encoding"
        | "invalid content-length"
        | "line folding of header fields is not supported"
        | "invalid response from upstream (malformed content-length)" => Said::HeadInvalid,
        "no certificate" | "invalid certificate" | "certificate name mismatch" => Said::TlsFailed {
            how: TlsFault::Certificate,
        },
        "SSL decode error" | "ssl handshake failure" => Said::TlsFailed {
            how: TlsFault::Other,
        },
        // gai_strerror() of glibc, and of musl.
        "Name or service not known"
        | "Temporary failure in name resolution"
        | "Non-recoverable failure in name resolution"
        | "No address associated with hostname"
        | "Address family for hostname not supported"
        | "Name does not resolve"
        | "Name has no usable address" => Said::NotResolved,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
