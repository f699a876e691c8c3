//! Envoy's access log: the default text format, Istio's with details, and JSON. Pure.
//!
//! Header values stand in the text formats as they came, quotes included: the request's line is read
//! from the left, where nothing of a client's comes before it, the upstream from the right.

use serde_json::Value;

use super::text::{client, leading_number, request, status, upstream};
use super::time::iso;
use super::words::{connect_error, tls_error};
use super::{Moment, Parsed, Timed};
use crate::signal::{Address, LogLine, Logged, LoggedTry, Opening, Said, Software};

const MILLISECOND: u64 = 1_000_000;

pub(super) fn text(line: &str) -> Parsed {
    read(line).unwrap_or(Parsed::NotUnderstood)
}

fn read(line: &str) -> Option<Parsed> {
    let rest = line.strip_prefix('[')?;
    let (time, rest) = rest.split_once("] \"")?;
    let begun = iso(time)?;
    let (method, rest) = rest.split_once(' ')?;
    let (target, rest) = rest.split_once(' ')?;
    let (protocol, rest) = rest.split_once("\" ")?;
    if protocol.contains(' ') {
        return None;
    }
    let (code, rest) = rest.split_once(' ')?;
    let (flags, rest) = rest.split_once(' ')?;
    if code.parse::<u16>().is_err() {
        return None;
    }
    // With details, they come before the bytes received.
    let first = rest.split(' ').next()?;
    let (details, reason, counts) = if first.bytes().all(|b| b.is_ascii_digit()) {
        ("", "", rest)
    } else {
        let (head, counts) = rest.split_once("\" ")?;
        let (details, reason) = head.split_once(" \"")?;
        (details.split(' ').next()?, reason, counts)
    };
    let mut counts = counts.split(' ');
    let duration: u64 = counts.nth(2)?.parse().ok()?;
    // From the right: what follows the last quote, the upstream, the authority.
    let mut quoted = line.rsplit('"');
    let (behind, host) = (quoted.next()?, quoted.next()?);
    let (gap, authority) = (quoted.next()?, quoted.next()?);
    let authority = Some(authority).filter(|_| gap == " ");
    let behind: Vec<&str> = behind.split(' ').filter(|w| !w.is_empty()).collect();
    let from = behind.get(3).filter(|_| behind.len() >= 5);
    Some(exchange(&Told {
        begun,
        request: request(method, target, authority),
        code,
        flags,
        details,
        reason,
        duration,
        upstream: host,
        client: from.and_then(|from| client(from)),
    }))
}

/// Whether this object has the names that Envoy's JSON format is given by custom.
pub(super) fn is_json(object: &Value) -> bool {
    object.get("response_code").is_some() && object.get("response_flags").is_some()
}

pub(super) fn json(object: &Value) -> Parsed {
    let text = |name: &str| match object.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let Some(begun) = iso(&text("start_time")) else {
        return Parsed::NotUnderstood;
    };
    let authority = text("authority");
    exchange(&Told {
        begun,
        request: request(&text("method"), &text("path"), Some(&authority)),
        code: &text("response_code"),
        flags: &text("response_flags"),
        details: &text("response_code_details"),
        reason: &text("upstream_transport_failure_reason"),
        duration: text("duration").parse().unwrap_or(0),
        upstream: &text("upstream_host"),
        client: client(&text("downstream_remote_address")),
    })
}

struct Told<'a> {
    begun: Moment,
    request: Option<Opening>,
    code: &'a str,
    flags: &'a str,
    details: &'a str,
    reason: &'a str,
    duration: u64,
    upstream: &'a str,
    client: Option<Address>,
}

fn exchange(told: &Told<'_>) -> Parsed {
    let took = told.duration.saturating_mul(MILLISECOND);
    let status = status(told.code);
    let said = statement(told, status);
    let address = match told.upstream {
        path if path.starts_with(['/', '@']) => upstream(&format!("unix:{path}")),
        // A name would be some header's: from the right only an address is believed.
        other => other
            .parse::<std::net::SocketAddr>()
            .ok()
            .and_then(|a| upstream(&a.to_string())),
    };
    let own = matches!(
        said,
        Some(
            Said::NoLiveUpstreams
                | Said::NotResolved
                | Said::QueueTimedOut
                | Said::Limited
                | Said::Configured
                | Said::Denied
        )
    );
    let one = LoggedTry {
        upstream: address,
        said,
        status: status.filter(|_| said == Some(Said::Answered)),
        ..LoggedTry::default()
    };
    let tried = !own && (one.upstream.is_some() || said.is_some());
    Parsed::Signal(Timed::exchange(
        told.begun.later(took),
        Logged {
            proxy: Some(Software::Envoy),
            line: LogLine::Access,
            pid: None,
            connection: None,
            client: told.client.clone(),
            request: told.request.clone(),
            within: told.begun.within.max(MILLISECOND) * 2,
            took: Some(took),
            status,
            tries: if tried { vec![one] } else { Vec::new() },
            said: said.filter(|_| own),
            untried: own,
        },
    ))
}

fn statement(told: &Told<'_>, status: Option<u16>) -> Option<Said> {
    let flag = |name: &str| told.flags.split(',').any(|f| f == name);
    let failed = status.is_some_and(|s| s >= 500);
    if flag("DC") || told.details.starts_with("downstream_") {
        return Some(Said::ClientLeft);
    }
    if flag("UF") {
        return Some(connection(told));
    }
    if failed
        && told
            .details
            .starts_with("upstream_reset_after_response_started")
    {
        return Some(Said::Answered);
    }
    // Of HTTP/1 the remote end is a connection's, `UC`.
    if flag("UR") {
        // With GOAWAY, what the upstream had not begun with counts as refused.
        return Some(match told.details.contains("{remote_reset}") {
            true => Said::StreamReset,
            false => Said::StreamEnded,
        });
    }
    if flag("UC") || flag("LR") {
        return Some(Said::ClosedOrReset);
    }
    if flag("UT") || flag("SI") {
        return Some(Said::TimedOut);
    }
    let named = [
        ("UPE", Said::HeadRefused),
        ("UH", Said::NoLiveUpstreams),
        ("DF", Said::NotResolved),
        ("UO", Said::QueueTimedOut),
        ("RL", Said::Limited),
        ("NC", Said::Configured),
        ("NR", Said::Configured),
    ];
    if let Some((_, said)) = named.iter().find(|(name, _)| flag(name)) {
        return Some(*said);
    }
    if failed && told.details == "direct_response" {
        return Some(Said::Configured);
    }
    // Without details, an upstream and no flag say the same.
    let passed_on = told.details == "via_upstream"
        || (told.details.is_empty() && told.flags == "-" && told.upstream != "-");
    let own = told.details.is_empty() && told.flags == "-" && told.upstream == "-";
    match failed {
        true if passed_on => Some(Said::Answered),
        // A filter of Envoy's made it.
        true if own => Some(Said::Denied),
        _ => None,
    }
}

fn connection(told: &Told<'_>) -> Said {
    let words = if told.reason.len() > 1 {
        told.reason
    } else {
        told.details
    };
    if words.contains("TLS_error") {
        let how = tls_error(words);
        return Said::TlsFailed { how };
    }
    let number = || leading_number(words.split_once("connect_error:_")?.1);
    if let Some(errno) = connect_error(words).or_else(number) {
        return Said::ConnectFailed { errno };
    }
    if told.details.contains("connection_timeout") {
        return Said::ConnectTimedOut;
    }
    Said::NotConnected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::TlsFault;

    #[test]
    fn flags_and_details() {
        let said = |flags, details, reason| {
            let told = Told {
                begun: iso("2026-11-21T12:12:16.000Z").unwrap(),
                request: None,
                code: "503",
                flags,
                details,
                reason,
                duration: 0,
                upstream: "10.0.0.1:80",
                client: None,
            };
            statement(&told, Some(503))
        };
        assert_eq!(said("-", "via_upstream", "-"), Some(Said::Answered));
        assert_eq!(said("UF,URX", "", ""), Some(Said::NotConnected));
        let reset = "upstream_reset_before_response_started{remote_reset}";
        assert_eq!(said("UR", reset, "-"), Some(Said::StreamReset));
        let refused = "upstream_reset_before_response_started{remote_refused_stream_reset}";
        let late = "upstream_reset_after_response_started{remote_reset}";
        assert_eq!(said("UR", late, "-"), Some(Said::Answered));
        for details in [refused, ""] {
            assert_eq!(said("UR", details, "-"), Some(Said::StreamEnded));
        }
        let closed = "upstream_reset_before_response_started{connection_termination}";
        assert_eq!(said("UC", closed, "-"), Some(Said::ClosedOrReset));
        assert_eq!(
            said(
                "UF",
                "x{remote_connection_failure|delayed_connect_error:_111}",
                "delayed_connect_error:_111"
            ),
            Some(Said::ConnectFailed { errno: 111 })
        );
        let how = TlsFault::NotTls;
        let reason =
            "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end";
        assert_eq!(said("UF", reason, reason), Some(Said::TlsFailed { how }));
    }
}
