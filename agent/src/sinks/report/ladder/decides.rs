//! Which piece of the evidence a verdict stands on.

use crate::cause::{Cause, Variant};
use crate::verdict::{Confidence, Verdict};

/// The place of the deciding fact in the evidence; none where no cause is claimed.
pub(in crate::sinks) fn evidence(verdict: &Verdict) -> Option<usize> {
    if verdict.confidence == Confidence::Unknown {
        return None;
    }
    facts(verdict.cause, verdict.variant)
        .iter()
        .chain(&["log_line"])
        .find_map(|name| verdict.evidence.iter().rposition(|e| e.fact == *name))
}

/// Facts by how much they say of the cause; the first that is there decides.
pub(super) fn facts(cause: Cause, variant: Option<Variant>) -> &'static [&'static str] {
    match cause {
        Cause::KeepaliveRace => match variant {
            Some(Variant::ClosedUnread) => &["upstream_closed", "reset_received", "peer_closed"],
            Some(Variant::ResetOnIdle) => &["reset_received", "send_failed", "upstream_closed"],
            _ => &[
                "peer_closed",
                "upstream_closed",
                "reset_received",
                "send_failed",
            ],
        },
        Cause::ConnectionRefused
        | Cause::UnixSocketMissing
        | Cause::UnixSocketRefused
        | Cause::UnixSocketDenied
        | Cause::UnixSocketWrongType
        | Cause::HostUnreachable
        | Cause::PortsExhausted => &["connect_failed", "connects_failed", "reset_received"],
        Cause::ProxyFdsExhausted => &["connect_failed", "connects_failed", "descriptors"],
        Cause::UnixAcceptQueueFull | Cause::TcpAcceptQueueFull | Cause::SynBacklogFull => &[
            "accept_queue",
            "connect_failed",
            "connect_given_up",
            "reset_received",
        ],
        Cause::ConnectTimeout => &[
            "packets_filtered",
            "connect_given_up",
            "connect_failed",
            "connects_unanswered",
            "connects_failed",
        ],
        Cause::WorkerCrashed => &["process_exited", "upstream_closed"],
        Cause::WorkerTimeoutKilled | Cause::WorkerKilled => &["signal_sent", "process_exited"],
        Cause::WorkerOomKilled => &["oom_killed", "process_exited"],
        Cause::UpstreamShutdown => &["signal_sent", "process_exited", "upstream_closed"],
        Cause::ListenerDied => &[
            "upstream_closed",
            "process_exited",
            "reset_received",
            "peer_closed",
        ],
        Cause::UpstreamClosedEarly => &["upstream_closed", "peer_closed"],
        Cause::UpstreamReset => &["reset_received", "upstream_closed"],
        Cause::RequestUnacknowledged => &["retransmitted", "given_up"],
        Cause::ReadTimeoutNeverAccepted | Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply => {
            &["upstream_state", "given_up"]
        }
        Cause::SendTimeout => &["window_closed", "upstream_state", "given_up"],
        Cause::RequestBodyRejected => &[
            "upstream_answered",
            "upstream_closed",
            "reset_received",
            "peer_closed",
        ],
        Cause::ProtocolMismatch => &[
            "upstream_protocol",
            "upstream_answered",
            "peer_closed",
            "reset_received",
        ],
        Cause::ResponseHeaderTooBig | Cause::ResponseInvalid => &["upstream_answered", "given_up"],
        Cause::TlsHandshakeFailed | Cause::Http2Goaway | Cause::Http2StreamReset => {
            &["peer_closed", "reset_received", "given_up"]
        }
        Cause::UpstreamAnswered => &["upstream_answered"],
        Cause::DownstreamGaveUp => &["downstream_closed"],
        // The proxy alone: there was no attempt to take a fact from.
        Cause::NoLiveUpstreams
        | Cause::DnsFailed
        | Cause::ProxyQueueTimeout
        | Cause::ProxyLimit
        | Cause::ProxyConfig
        | Cause::Unknown => &[],
    }
}
