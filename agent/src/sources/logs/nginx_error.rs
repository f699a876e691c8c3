//! nginx's error log: one line a failed try, with client, request and upstream. Pure.
//!
//! Request, Host and referrer stand there as they came, quotes included; a request's target holds no
//! space (from nginx 1.21.1 on), so the fields are read from the left by their exact shape, and a
//! line that does not fit is not believed.

use super::entries::Look;
use super::text::{client, errno_after, leading_number, request_line, upstream_of_url};
use super::time::{Zone, slashes};
use super::{Moment, Parsed, Timed};
use crate::signal::{LogLine, Logged, LoggedTry, Protocol, Said, Software, TlsFault};

/// What fails while a request is sent, up to the error's number.
const SENDS: [&str; 6] = [
    "writev() failed (",
    "send() failed (",
    "sendfile() failed (",
    "sendfile64() failed (",
    "SSL_write() failed (",
    "SSL_sendfile() failed (",
];
const CLIENT: &str = ", client: ";
const HEAD: &str = " while reading response header from upstream";

/// Whether a line begins as nginx begins one: time, level, process.
pub(super) fn begins(line: &str) -> bool {
    head(line).is_some()
}

/// Whether a log with this line has those of failed requests as well: it is not of a level beyond theirs.
pub(super) fn tells_errors(line: &str) -> bool {
    let worse = ["[crit] ", "[alert] ", "[emerg] "];
    let level = line.get(20..).unwrap_or_default();
    begins(line) && !worse.iter().any(|worse| level.starts_with(worse))
}

/// What a line looks like by itself.
pub(super) fn look(line: &str) -> Look {
    // Only what a request's target holds encoded can be a newline in what follows it.
    let encoded = ["%0a", "%0A", "%0d", "%0D"]
        .iter()
        .any(|newline| line.contains(newline));
    let statement = matches!(parse(line, Zone::Fixed(0)), Parsed::Signal(_)) && !encoded;
    let begins = begins(line);
    Look {
        may_begin: begins && !statement && !is_idle_close(line),
        // Twice: the second is of an entry that ends here, around what a client wrote.
        may_end: !begins || line.matches(CLIENT).count() > 1,
    }
}

/// `*7 client 10.0.0.7 closed keepalive connection`: nothing in it is a client's text, and nothing follows.
fn is_idle_close(line: &str) -> bool {
    let message = head(line).and_then(|(.., rest)| rest.strip_prefix('*')?.split_once(' '));
    let client = message.and_then(|(_, message)| message.strip_prefix("client "));
    let address = client.and_then(|rest| rest.strip_suffix(" closed keepalive connection"));
    address.is_some_and(|address| address.parse::<std::net::IpAddr>().is_ok())
}

/// The time of a line that begins so.
pub(super) fn time(line: &str, zone: Zone) -> Option<Moment> {
    slashes(head(line)?.0)?.in_zone(zone)
}

/// Time, process, and what follows it.
fn head(line: &str) -> Option<(&str, u32, &str)> {
    let (time, rest) = line.split_at_checked(19)?;
    slashes(time)?;
    let rest = rest.strip_prefix(" [")?;
    let (level, rest) = rest.split_once("] ")?;
    let named = (2..=8).contains(&level.len()) && level.bytes().all(|b| b.is_ascii_lowercase());
    let (process, rest) = rest.split_once(": ")?;
    let (pid, thread) = process.split_once('#')?;
    let numbers = thread.bytes().all(|b| b.is_ascii_digit());
    (named && numbers).then_some((time, pid.parse().ok()?, rest))
}

pub(super) fn parse(line: &str, zone: Zone) -> Parsed {
    let Some((time, pid, rest)) = head(line) else {
        return Parsed::NotUnderstood;
    };
    let of_exchange = rest.strip_prefix('*').and_then(|r| r.split_once(' '));
    let Some((connection, rest)) = of_exchange else {
        // About the server as a whole.
        return Parsed::Nothing;
    };
    let Some((message, fields)) = rest.split_once(CLIENT) else {
        return Parsed::Nothing;
    };
    let Some(statement) = statement(message) else {
        return Parsed::Nothing;
    };
    let Some(moment) = slashes(time).and_then(|t| t.in_zone(zone)) else {
        return Parsed::NotUnderstood;
    };
    let Some(fields) = Fields::read(fields) else {
        return Parsed::NotUnderstood;
    };
    let upstream = fields.upstream.and_then(upstream_of_url);
    let (tries, said) = match statement {
        Said::NoLiveUpstreams | Said::NotResolved | Said::Limited => (Vec::new(), Some(statement)),
        _ => {
            let said = Some(statement);
            let one = LoggedTry {
                upstream,
                said,
                ..LoggedTry::default()
            };
            (vec![one], None)
        }
    };
    Parsed::Signal(Timed::exchange(
        moment,
        Logged {
            proxy: Some(Software::Nginx),
            line: LogLine::Error,
            pid: Some(pid),
            connection: connection.parse().ok(),
            client: client(fields.client),
            request: request_line(fields.request, fields.host),
            within: moment.within,
            took: None,
            status: None,
            untried: tries.is_empty(),
            tries,
            said,
        },
    ))
}

/// What follows the message, in nginx's order.
struct Fields<'a> {
    client: &'a str,
    request: &'a str,
    upstream: Option<&'a str>,
    host: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Option<Fields<'a>> {
        let (client, rest) = text.split_once(", server: ")?;
        let (_, rest) = rest.split_once(", request: \"")?;
        // Method and target hold no space, the version no quote.
        let (method, rest_of_line) = rest.split_once(' ')?;
        let (target, after) = rest_of_line.split_once(' ')?;
        let (version, _) = after.split_once('"')?;
        let length = method.len() + target.len() + version.len() + 2;
        let (request, rest) = rest.split_at_checked(length)?;
        let mut rest = rest.strip_prefix('"')?;
        if let Some(inner) = rest.strip_prefix(", subrequest: \"") {
            rest = inner.split_once('"').map_or("", |(_, rest)| rest);
        }
        let mut upstream = None;
        if let Some(inner) = rest.strip_prefix(", upstream: \"") {
            // The address comes before anything that a client chose.
            upstream = inner.split('"').next();
            rest = inner.split_once('"').map_or("", |(_, rest)| rest);
        }
        // Twice: one of them was written by a client.
        let mut hosts = rest.match_indices(", host: \"");
        let host = match (hosts.next(), hosts.next()) {
            (Some((at, found)), None) => rest.get(at + found.len()..)?.split('"').next(),
            _ => None,
        };
        Some(Fields {
            client,
            request,
            upstream,
            host,
        })
    }
}

fn statement(message: &str) -> Option<Said> {
    if message.ends_with("while reading upstream") {
        // The head had been passed on.
        return None;
    }
    if let Some(phase) = message.strip_prefix("upstream timed out (110: ") {
        let (_, phase) = phase.split_once(") while ")?;
        return match phase {
            "connecting to upstream" => Some(Said::ConnectTimedOut),
            "SSL handshaking to upstream" => Some(Said::TlsFailed {
                how: TlsFault::TimedOut,
            }),
            "sending request to upstream" => Some(Said::SendTimedOut),
            "reading response header from upstream" => Some(Said::ReadTimedOut),
            _ => None,
        };
    }
    let connecting = message.ends_with(") while connecting to upstream");
    if connecting && (message.starts_with("connect() ") || message.starts_with("socket() ")) {
        let errno = errno_after(message, "failed (")?;
        return Some(Said::ConnectFailed { errno });
    }
    if message == "no live upstreams while connecting to upstream" {
        return Some(Said::NoLiveUpstreams);
    }
    if let Some(message) = message.strip_suffix(HEAD) {
        return head_statement(message);
    }
    if let Some(message) = message.strip_suffix(" while sending request to upstream") {
        // Nothing before the error's number: a message that holds a path could imitate it.
        let failed = SENDS.iter().find_map(|call| message.strip_prefix(call));
        return match failed.and_then(leading_number) {
            Some(errno) => Some(Said::SendFailed { errno }),
            None if message == "upstream prematurely closed connection" => Some(Said::PeerClosed),
            None => None,
        };
    }
    if let Some(message) = message.strip_suffix(" while SSL handshaking to upstream") {
        let how = tls_fault(message)?;
        return Some(Said::TlsFailed { how });
    }
    if message.starts_with("limiting requests, excess: ")
        || message.starts_with("limiting connections by zone ")
    {
        return Some(Said::Limited);
    }
    let name = message.split(' ').next().unwrap_or_default();
    let rest = &message[name.len()..];
    if rest.starts_with(" could not be resolved (")
        || message.starts_with("no resolver defined to resolve ")
    {
        return Some(Said::NotResolved);
    }
    None
}

fn head_statement(message: &str) -> Option<Said> {
    if message.starts_with("upstream prematurely closed ")
        || message.starts_with("upstream closed ")
    {
        return Some(Said::PeerClosed);
    }
    if [
        "recv() failed (104: ",
        "readv() failed (104: ",
        "SSL_read() failed (104: ",
    ]
    .iter()
    .any(|failed| message.starts_with(failed))
    {
        return Some(Said::Reset);
    }
    // Both of gRPC, which is HTTP/2.
    if message.starts_with("upstream rejected request with error ") {
        return Some(Said::StreamReset);
    }
    if message.starts_with("upstream sent goaway with error ") {
        return Some(Said::GoAway);
    }
    let rest = message.strip_prefix("upstream sent ")?;
    if rest.starts_with("too big header") {
        return Some(Said::HeadTooBig);
    }
    if let Some(version) = rest.strip_prefix("unsupported FastCGI protocol version: ") {
        let speaks = (version == "72").then_some(Protocol::Http);
        return Some(Said::NotHttp { speaks });
    }
    // Passed on as HTTP/0.9: nothing failed yet.
    (!rest.starts_with("no valid HTTP/1.0 header")).then_some(Said::HeadInvalid)
}

fn tls_fault(message: &str) -> Option<TlsFault> {
    Some(match message {
        m if m.starts_with("peer closed connection in SSL handshake") => TlsFault::PeerClosed,
        m if m.starts_with("upstream SSL certificate ") => TlsFault::Certificate,
        m if m.starts_with("SSL_do_handshake() failed ") => openssl_fault(m),
        _ => return None,
    })
}

/// What OpenSSL's own words say.
pub(super) fn openssl_fault(text: &str) -> TlsFault {
    let text = text.to_ascii_lowercase().replace('_', " ");
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "wrong version number",
        "http request",
        "record does not look like",
        "packet length too long",
    ]) {
        TlsFault::NotTls
    } else if has(&[
        "protocol version",
        "unsupported protocol",
        "unsupported version",
        "no protocols available",
    ]) {
        TlsFault::Version
    } else if has(&["certificate", "x509"]) {
        TlsFault::Certificate
    } else {
        TlsFault::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_grpc_a_reset_stream_and_goaway_are_no_bad_head() {
        let said = |message: &str| statement(&format!("{message}{HEAD}"));
        let rejected = "upstream rejected request with error 7";
        assert_eq!(said(rejected), Some(Said::StreamReset));
        assert_eq!(
            said("upstream sent goaway with error 11"),
            Some(Said::GoAway)
        );
        let other = "upstream sent too large http2 frame: 4740180";
        assert_eq!(said(other), Some(Said::HeadInvalid));
    }

    /// It stands between failures all the time, and what is 2048 bytes after it was taken for its end.
    #[test]
    fn an_idle_connections_end_begins_no_entry() {
        let may_begin = |message: &str| {
            let line = format!("2026/11/22 16:11:11 [info] 9487#9487: *9 {message}");
            look(&line).may_begin
        };
        for client in ["127.0.0.1", "::1"] {
            assert!(!may_begin(&format!(
                "client {client} closed keepalive connection"
            )));
        }
        for message in [
            "client /x closed keepalive connection",
            "client 127.0.0.1 closed keepalive connection, and",
            "open() \"/x closed keepalive connection",
        ] {
            assert!(may_begin(message), "{message}");
        }
    }
}
