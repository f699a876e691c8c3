//! Caddy's and Traefik's JSON lines, and what Go's own reverse proxy says of its errors. Pure.

use serde_json::Value;

use super::text::{client_with_port, request, status, upstream};
use super::time::{Zone, epoch, iso, slashes};
use super::words::go;
use super::{Moment, Parsed, Timed};
use crate::signal::{LogLine, Logged, LoggedTry, Nanos, Said, Software};

/// Whether it is a line of Caddy's about requests, or about anything else.
pub(super) fn is_caddy(object: &Value) -> bool {
    let has = |name: &str| object.get(name).is_some();
    has("ts") && has("level") && has("msg")
}

pub(super) fn caddy(object: &Value) -> Parsed {
    let logger = object.get("logger").and_then(Value::as_str).unwrap_or("");
    let line = if logger.starts_with("http.log.error") {
        LogLine::Error
    } else if logger.starts_with("http.log.access") {
        LogLine::Access
    } else {
        return Parsed::Nothing;
    };
    exchange(object, line).unwrap_or(Parsed::NotUnderstood)
}

fn exchange(object: &Value, line: LogLine) -> Option<Parsed> {
    let moment = time(object.get("ts")?)?;
    let asked = object.get("request")?;
    let text = |name: &str| asked.get(name).and_then(Value::as_str);
    let port = match asked.get("remote_port") {
        Some(Value::String(port)) => port.parse().ok(),
        _ => None,
    };
    // Until 2.5 in one.
    let ip = text("remote_ip").or_else(|| text("remote_addr"))?;
    let status = object.get("status").and_then(Value::as_u64);
    let status = status.and_then(status_of);
    let mut tries = Vec::new();
    let mut said = None;
    if line == LogLine::Error {
        // Of a failed request, words that are not known are no silence.
        match object.get("msg").and_then(Value::as_str).and_then(go) {
            Some(LoggedTry {
                said: own @ Some(Said::NoLiveUpstreams | Said::NotResolved),
                ..
            }) => said = own,
            None if status.is_none_or(|status| status < 500) => return Some(Parsed::Nothing),
            one => tries.extend(one),
        }
    }
    Some(Parsed::Signal(Timed::exchange(
        moment,
        Logged {
            proxy: Some(Software::Caddy),
            line,
            pid: None,
            connection: None,
            client: client_with_port(ip, port),
            request: request(text("method")?, text("uri")?, text("host")),
            within: moment.within,
            took: object.get("duration").and_then(duration),
            status: status.filter(|_| line == LogLine::Access),
            tries,
            said,
            untried: false,
        },
    )))
}

/// `2026/11/22 13:04:14 http: proxy error: …`: Go's `httputil.ReverseProxy` writes one such line for each
/// request that it fails, and names neither the request nor its client.
pub(super) fn reverse_proxy(line: &str, zone: Zone) -> Parsed {
    reverse_proxy_error(line, zone).unwrap_or(Parsed::NotUnderstood)
}

fn reverse_proxy_error(line: &str, zone: Zone) -> Option<Parsed> {
    let (time, rest) = line.split_once(" http: proxy error: ")?;
    let moment = slashes(time)?.in_zone(zone)?;
    let Some(one) = go(rest) else {
        return Some(Parsed::Nothing);
    };
    let said = one.said.filter(|said| *said == Said::NotResolved);
    Some(Parsed::Signal(Timed::exchange(
        moment,
        Logged {
            proxy: Some(Software::Go),
            line: LogLine::Error,
            pid: None,
            connection: None,
            client: None,
            request: None,
            within: moment.within,
            took: None,
            status: None,
            tries: if said.is_some() {
                Vec::new()
            } else {
                vec![one]
            },
            said,
            untried: false,
        },
    )))
}

fn status_of(number: u64) -> Option<u16> {
    status(&number.to_string())
}

/// Seconds since 1970 by default, or a text.
fn time(value: &Value) -> Option<Moment> {
    match value {
        // A double holds these to a microsecond.
        Value::Number(number) => epoch(&number.to_string()).map(|moment| Moment {
            within: moment.within.max(1000),
            ..moment
        }),
        Value::String(text) => iso(text).or_else(|| epoch(text)),
        _ => None,
    }
}

fn duration(value: &Value) -> Option<Nanos> {
    let seconds = value.as_f64()?;
    (0.0..2.6e6)
        .contains(&seconds)
        .then_some((seconds * 1e9) as Nanos)
}

pub(super) fn is_traefik(object: &Value) -> bool {
    object.get("DownstreamStatus").is_some() && object.get("RequestMethod").is_some()
}

/// An access line; Traefik's other log says why at debug level, without the request.
pub(super) fn traefik(object: &Value) -> Parsed {
    traefik_exchange(object).unwrap_or(Parsed::NotUnderstood)
}

fn traefik_exchange(object: &Value) -> Option<Parsed> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    let begun = iso(text("StartUTC").or_else(|| text("StartLocal"))?)?;
    let took = number("Duration").unwrap_or(0);
    let status = number("DownstreamStatus").and_then(status_of)?;
    let port = match object.get("ClientPort") {
        Some(Value::String(port)) => port.parse().ok(),
        _ => None,
    };
    let host = text("ClientHost")?;
    let upstream = text("ServiceAddr").and_then(upstream);
    let one = LoggedTry {
        upstream,
        status: number("OriginStatus").and_then(status_of),
        ..LoggedTry::default()
    };
    let untried = one.upstream.is_none();
    Some(Parsed::Signal(Timed::exchange(
        begun.later(took),
        Logged {
            proxy: Some(Software::Traefik),
            line: LogLine::Access,
            pid: None,
            connection: None,
            client: client_with_port(host, port),
            request: request(
                text("RequestMethod")?,
                text("RequestPath")?,
                text("RequestHost"),
            ),
            within: begun.within,
            took: Some(took),
            status: Some(status),
            tries: if untried { Vec::new() } else { vec![one] },
            said: None,
            untried,
        },
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal::Fact;

    #[test]
    fn an_error_of_caddys_in_unknown_words_is_an_error() {
        let line = |message: &str, status: u16| {
            let request = json!({"remote_ip": "10.0.0.7", "remote_port": "4000", "proto": "HTTP/1.1",
                "method": "GET", "host": "shop.example", "uri": "/a/1"});
            let object = json!({"level": "error", "ts": 1795493262.5, "logger": "http.log.error",
                "msg": message, "request": request, "status": status});
            let Parsed::Signal(timed) = caddy(&object) else {
                return None;
            };
            let Fact::Logged(logged) = timed.fact else {
                panic!("{:?}", timed.fact)
            };
            assert_eq!(logged.line, LogLine::Error);
            Some((logged.tries.len(), logged.said))
        };
        assert_eq!(line("EOF", 502), Some((1, None)));
        assert_eq!(line("quite another one", 502), Some((0, None)));
        assert_eq!(line("quite another one", 404), None);
        let resolved = "dial tcp: lookup x on 127.0.0.1:53: no such host";
        assert_eq!(line(resolved, 502), Some((0, Some(Said::NotResolved))));
    }
}
