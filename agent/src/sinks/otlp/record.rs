//! A verdict as an OpenTelemetry event: attributes by the conventions' names where there are such,
//! and the JSON line of the contract as its body, for all the rest.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};

use super::super::escape::json_line;
use super::community;
use super::upstream_end::UpstreamEnd;
use crate::clock;
use crate::signal::{Address, InitialSequenceNumbers};
use crate::verdict::{Kind, Party, Risk, Verdict};

pub(super) fn of_verdict(verdict: &Verdict, at_ns: u64) -> LogRecord {
    let mut out = Attributes::default();
    out.text("why502.id", Some(&verdict.id));
    out.text("error.type", Some(verdict.cause.name()));
    out.text("why502.variant", verdict.variant.map(|v| v.name()));
    out.text("why502.confidence", Some(verdict.confidence.name()));
    out.number("http.response.status_code", verdict.status);
    out.text("http.request.method", verdict.request.method.as_deref());
    out.text("url.path", verdict.request.path.as_deref());
    out.text("why502.request.host", verdict.request.host.as_deref());
    out.place(
        ["client.address", "client.port"],
        verdict.client.address.as_ref(),
    );
    // Behind a proxy, the server is the upstream.
    let upstream = verdict.upstream.address.as_ref();
    out.place(["server.address", "server.port"], upstream);
    let unix = upstream.map(Address::is_unix);
    out.text(
        "network.transport",
        unix.map(|unix| if unix { "unix" } else { "tcp" }),
    );
    out.proxy(&verdict.proxy);
    out.upstream(&verdict.upstream);
    out.number("why502.duration_us", verdict.duration_us);
    out.number("why502.attempts", Some(verdict.attempts.len() as u64));
    out.number("why502.lost_signals", Some(verdict.lost_signals));
    if let Some(last) = verdict.attempts.last() {
        let flow = community::id(last.local.as_ref(), Some(&last.upstream));
        out.text("why502.flow.community_id", flow.as_deref());
        out.begun(last.isn);
    }
    // Not where privacy has cut the client's address: whoever tries them all finds what was hashed.
    let flow = community::id(
        verdict.client.address.as_ref(),
        verdict.proxy.address.as_ref(),
    );
    out.text("why502.client_flow.community_id", flow.as_deref());
    let severity = match verdict.kind {
        Kind::Verdict | Kind::Truncated => SeverityNumber::Error,
        Kind::NearMiss => SeverityNumber::Warn,
    };
    record(verdict.kind.name(), severity, at_ns, out, verdict)
}

pub(super) fn of_risk(risk: &Risk, at_ns: u64) -> LogRecord {
    let mut out = Attributes::default();
    out.place(
        ["server.address", "server.port"],
        risk.upstream.address.as_ref(),
    );
    out.proxy(&risk.proxy);
    out.upstream(&risk.upstream);
    record(risk.kind, SeverityNumber::Warn, at_ns, out, risk)
}

pub(super) fn of_upstream_end(end: &UpstreamEnd, at_ns: u64) -> LogRecord {
    let mut out = Attributes::default();
    out.text("why502.id", Some(&end.id));
    let upstream = end.upstream.address.as_ref();
    out.place(["server.address", "server.port"], upstream);
    let peer = ["network.peer.address", "network.peer.port"];
    out.place(peer, end.caller.as_ref());
    out.text("network.transport", Some("tcp"));
    out.upstream(&end.upstream);
    out.text("why502.flow.community_id", end.flow.as_deref());
    out.begun(Some(end.isn));
    out.text("why502.upstream.end", Some(end.end));
    out.text("why502.upstream.closed_by", Some(end.closed_by));
    out.flag("why502.upstream.reset", end.reset);
    out.flag("why502.upstream.accepted", end.accepted);
    out.flag("why502.upstream.unanswered", end.unanswered);
    out.number("why502.upstream.unread_bytes", Some(end.unread_bytes));
    out.number("why502.upstream.idle_us", Some(end.idle_us));
    out.number("why502.upstream.waited_us", Some(end.waited_us));
    out.number("why502.upstream.exit_signal", end.exit_signal);
    out.number("why502.upstream.exit_status", end.exit_status);
    out.flag("why502.upstream.oom_killed", end.oom_killed);
    let severity = match end.end {
        UpstreamEnd::IDLE => SeverityNumber::Info,
        _ => SeverityNumber::Warn,
    };
    record(end.kind, severity, at_ns, out, end)
}

fn record(
    kind: &str,
    severity: SeverityNumber,
    at_ns: u64,
    attributes: Attributes,
    value: &impl serde::Serialize,
) -> LogRecord {
    // What cannot be written as JSON has no line elsewhere either.
    let line = json_line(value).unwrap_or_default();
    let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
    let (number, text) = match severity {
        SeverityNumber::Error => (severity, "ERROR"),
        SeverityNumber::Info => (severity, "INFO"),
        other => (other, "WARN"),
    };
    LogRecord {
        time_unix_nano: at_ns,
        observed_time_unix_nano: clock::unix_now(),
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: Some(string(&line)),
        attributes: attributes.0,
        event_name: format!("why502.{kind}"),
        ..LogRecord::default()
    }
}

/// Attributes that are known; one that is not is left out.
#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, name: &str, value: Option<&str>) {
        self.0.extend(value.map(|value| text(name, value)));
    }

    fn number(&mut self, name: &str, value: Option<impl Into<u64>>) {
        let value = value.map(|value| i64::try_from(value.into()).unwrap_or(i64::MAX));
        self.0.extend(value.map(|value| KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue {
                value: Some(Value::IntValue(value)),
            }),
            ..KeyValue::default()
        }));
    }

    /// What the connection began to count with, on whichever side of an address translation.
    fn begun(&mut self, isn: Option<InitialSequenceNumbers>) {
        self.number("why502.flow.client_isn", isn.map(|isn| isn.client));
        self.number("why502.flow.server_isn", isn.map(|isn| isn.server));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.0.push(KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue {
                value: Some(Value::BoolValue(value)),
            }),
            ..KeyValue::default()
        });
    }

    /// An address and its port; what is no socket address (a Unix socket's path, what privacy has
    /// cut) is an address alone.
    fn place(&mut self, [address, port]: [&str; 2], value: Option<&Address>) {
        let Some(value) = value else { return };
        match value.0.parse::<std::net::SocketAddr>() {
            Ok(socket) => {
                self.text(address, Some(&socket.ip().to_string()));
                self.number(port, Some(socket.port()));
            }
            Err(_) => self.text(
                address,
                Some(value.0.strip_prefix("unix:").unwrap_or(&value.0)),
            ),
        }
    }

    /// The proxy is what the event is about: its place has the conventions' names.
    fn proxy(&mut self, proxy: &Party) {
        self.text("why502.proxy.name", proxy.name.as_deref());
        let address = proxy.address.as_ref().map(|address| address.0.as_str());
        self.text("why502.proxy.address", address);
        self.number("process.pid", proxy.pid);
        let in_pod = proxy.pod.is_some();
        self.text("k8s.namespace.name", proxy.namespace.as_deref());
        self.text("k8s.pod.name", proxy.pod.as_deref());
        let container = match in_pod {
            true => "k8s.container.name",
            false => "container.name",
        };
        self.text(container, proxy.container.as_deref());
        self.text("why502.proxy.workload", proxy.workload.as_deref());
    }

    fn upstream(&mut self, upstream: &Party) {
        let process = upstream.process.as_ref().and_then(|name| name.as_deref());
        self.text("why502.upstream.process", process);
        self.number("why502.upstream.pid", upstream.pid);
        self.text("why502.upstream.namespace", upstream.namespace.as_deref());
        self.text("why502.upstream.pod", upstream.pod.as_deref());
        self.text("why502.upstream.container", upstream.container.as_deref());
        self.text("why502.upstream.workload", upstream.workload.as_deref());
    }
}

pub(super) fn text(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(string(value)),
        ..KeyValue::default()
    }
}

fn string(value: &str) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::privacy::Privacy;
    use crate::sinks::sample;

    /// Name and value of each attribute, as text.
    fn attributes(record: &LogRecord) -> Vec<(String, String)> {
        let show = |value: &AnyValue| match value.value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(flag) => flag.to_string(),
            other => panic!("{other:?}"),
        };
        let mut all: Vec<_> = record
            .attributes
            .iter()
            .map(|one| (one.key.clone(), show(one.value.as_ref().unwrap())))
            .collect();
        all.sort();
        all
    }

    fn of(record: &LogRecord, name: &str) -> Option<String> {
        let all = attributes(record).into_iter();
        all.into_iter().find(|(key, _)| key == name).map(|(_, v)| v)
    }

    #[test]
    fn a_verdict_is_the_contracts_event() {
        let mut verdict = sample::verdict();
        verdict.proxy.namespace = Some("shop".to_owned());
        verdict.proxy.pod = Some("edge-66b6c48dd5-7xk2p".to_owned());
        verdict.proxy.container = Some("nginx".to_owned());
        verdict.upstream.workload = Some("orders".to_owned());
        let record = of_verdict(&verdict, 1_795_182_504_123_456_789);
        assert_eq!(record.event_name, "why502.verdict");
        assert_eq!(record.time_unix_nano, 1_795_182_504_123_456_789);
        assert_eq!(record.severity_number, 17);
        let lines: Vec<String> = attributes(&record)
            .into_iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
        let Some(Value::StringValue(body)) = record.body.unwrap().value else {
            panic!("no text")
        };
        assert_eq!(body, serde_json::to_string(&verdict).unwrap());
    }

    /// What joins the two: the same flow, the same server, the same names of both.
    #[test]
    fn an_upstreams_end_has_the_keys_of_its_proxys_verdict() {
        let verdict = sample::verdict();
        let other = of_verdict(&verdict, 1);
        let record = of_upstream_end(&sample::upstream_end(), 1_795_182_504_123_456_789);
        assert_eq!(record.event_name, "why502.upstream_end");
        assert_eq!(record.severity_text, "WARN");
        for name in [
            "why502.flow.community_id",
            "why502.flow.client_isn",
            "why502.flow.server_isn",
            "server.address",
            "server.port",
            "network.transport",
            "why502.upstream.process",
            "why502.upstream.pid",
        ] {
            assert!(of(&record, name).is_some(), "{name}");
            assert_eq!(of(&record, name), of(&other, name), "{name}");
        }
        let lines: Vec<String> = attributes(&record)
            .into_iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_unix_socket_and_what_is_not_known_have_no_place() {
        let mut verdict = sample::verdict();
        verdict.kind = Kind::NearMiss;
        verdict.upstream.address = Some(sample::address("unix:/run/app.sock"));
        verdict.attempts[0].upstream = sample::address("unix:/run/app.sock");
        verdict.status = None;
        verdict.client.address = None;
        let record = of_verdict(&verdict, 1);
        assert_eq!(record.event_name, "why502.near_miss");
        assert_eq!(record.severity_text, "WARN");
        assert_eq!(of(&record, "server.address").unwrap(), "/run/app.sock");
        assert_eq!(of(&record, "network.transport").unwrap(), "unix");
        for name in [
            "server.port",
            "client.address",
            "http.response.status_code",
            "why502.flow.community_id",
            "why502.client_flow.community_id",
            "k8s.pod.name",
        ] {
            assert_eq!(of(&record, name), None, "{name}");
        }
    }

    #[test]
    fn what_privacy_cuts_is_in_no_attribute_and_no_hash() {
        for privacy in [Privacy::Template, Privacy::Minimal] {
            let mut verdict = sample::verdict();
            verdict.request.path = Some("/orders/4711".to_owned());
            privacy.apply(&mut verdict);
            let record = of_verdict(&verdict, 1);
            assert_eq!(of(&record, "why502.client_flow.community_id"), None);
            assert_eq!(of(&record, "client.port"), None);
            let shown = format!("{record:?}");
            assert!(!shown.contains("4711"), "{shown}");
            assert!(!shown.contains("10.9.0.7:51544"), "{shown}");
            // The upstream's flow is the proxy's own.
            assert!(of(&record, "why502.flow.community_id").is_some());
        }
    }
}
