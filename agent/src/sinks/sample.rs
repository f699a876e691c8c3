//! A verdict to test with: the contract's own example.

use super::otlp;
use super::privacy::Privacy;
use crate::cause::{Cause, Variant};
use crate::signal::{
    Address, ClosedBy, InitialSequenceNumbers, Process, Software, Source, UpstreamEnd,
};
use crate::track::render::Stamp;
use crate::verdict::*;

pub(crate) fn address(text: &str) -> Address {
    Address(text.to_owned())
}

pub(crate) fn verdict() -> Verdict {
    Verdict {
        kind: Kind::Verdict,
        version: VERSION,
        id: "01KAHX0000ABCDEFGHJKMNPQRS".to_owned(),
        time: "2026-11-20T13:48:24.123456789Z".to_owned(),
        node: "web-3".to_owned(),
        status: Some(502),
        status_source: Some(Source::Kernel),
        status_rewritten: false,
        cause: Cause::KeepaliveRace,
        variant: Some(Variant::FinInFlight),
        confidence: Confidence::Proven,
        duration_us: Some(31_250),
        proxy: Party {
            name: Some("nginx".to_owned()),
            pid: Some(9197),
            address: Some(address("10.9.0.1:8080")),
            ..Party::default()
        },
        client: Client {
            address: Some(address("10.9.0.7:51544")),
        },
        request: Request {
            method: Some("POST".to_owned()),
            host: Some("shop.example".to_owned()),
            path: Some("/orders".to_owned()),
        },
        upstream: Party {
            address: Some(address("10.9.0.2:9000")),
            process: Some(Some("node".to_owned())),
            pid: Some(9301),
            ..Party::default()
        },
        attempts: vec![AttemptLine {
            upstream: address("10.9.0.2:9000"),
            local: Some(address("10.9.0.1:40112")),
            at_us: -31_230,
            reused: true,
            requests_before: 3,
            idle_us: Some(968_123),
            connect_us: None,
            duration_us: 20_040,
            bytes_sent: 124,
            bytes_received: 0,
            outcome: "peer_closed",
            cause: Some(Cause::KeepaliveRace),
            isn: Some(ISN),
        }],
        evidence: vec![
            Evidence {
                at_us: -31_210,
                fact: "request_sent",
                text: "124 bytes on a connection idle for 968 ms".to_owned(),
                source: Source::Kernel,
            },
            Evidence {
                at_us: -11_200,
                fact: "peer_closed",
                text: "FIN received; it acknowledges none of the 124 bytes".to_owned(),
                source: Source::Kernel,
            },
        ],
        missing: Vec::new(),
        advice: Advice {
            text: "The upstream closes idle connections after 1.0 s; the proxy kept this one for longer. \
                   Let the upstream wait longer than the proxy, or the proxy give up first."
                .to_owned(),
            settings: vec![
                Setting {
                    software: "node".to_owned(),
                    name: "server.keepAliveTimeout".to_owned(),
                    observed_seconds: Some(1.0),
                    observed_from: Some("wire"),
                    suggested: "at least 65 s".to_owned(),
                    ..Setting::default()
                },
                Setting {
                    software: "nginx".to_owned(),
                    name: "upstream keepalive_timeout".to_owned(),
                    suggested: "less than 1 s".to_owned(),
                    alternative_to: Some("server.keepAliveTimeout".to_owned()),
                    risk: Some("more connections".to_owned()),
                    ..Setting::default()
                },
            ],
        },
        lost_signals: 0,
        contradicted: false,
        at: 1_000_000_000,
        delay_ns: 40_000_000,
    }
}

/// The same failure with another cause, upstream and moment.
pub(crate) fn other(cause: Cause, upstream: &str, at_ms: u64) -> Verdict {
    let mut verdict = verdict();
    verdict.cause = cause;
    verdict.variant = None;
    verdict.upstream.address = Some(address(upstream));
    verdict.at = at_ms * 1_000_000;
    verdict.time = crate::clock::Clock::from_offset(1_795_182_504_000_000_000).rfc3339(verdict.at);
    verdict
}

/// The verdict's connection's.
const ISN: InitialSequenceNumbers = InitialSequenceNumbers {
    client: 3_000_000_001,
    server: 7,
};

/// The end of the verdict's connection as the upstream's own node sees it.
pub(crate) fn end() -> UpstreamEnd {
    UpstreamEnd {
        flow: 7,
        upstream: address("10.9.0.2:9000"),
        caller: address("10.9.0.1:40112"),
        by: ClosedBy::Upstream,
        reset: false,
        accepted: true,
        unread: 0,
        unanswered: true,
        idle_ns: 20_000_000,
        waited_ns: 20_000_000,
        exit_signal: None,
        exit_status: None,
        isn: ISN,
        server: Some(Process {
            pid: 9301,
            parent: 1,
            name: "node".to_owned(),
            software: Software::Node,
            settings: Vec::new(),
            started: 0,
            netns: 1,
            sagemaker: false,
            home: Default::default(),
        }),
        left_out: 0,
    }
}

pub(crate) fn upstream_end() -> otlp::UpstreamEnd {
    let stamp = Stamp {
        id: "01KAHX0000ABCDEFGHJKMNPQRT".to_owned(),
        time: "2026-11-20T13:48:24.123456789Z".to_owned(),
        node: "app-1".to_owned(),
    };
    let upstream = verdict().upstream;
    otlp::UpstreamEnd::new(&end(), stamp, upstream, false, Privacy::Template)
}
