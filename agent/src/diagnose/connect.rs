//! `connection_refused`, `host_unreachable`, `ports_exhausted`, `proxy_fds_exhausted`, and connects that
//! the proxy gave up: `tcp_accept_queue_full`, `connect_timeout`; `syn_backlog_full` has a file of its own.
//!
//! Needs, for a failed connect: its errno. For one given up: the listener's queue, which only a
//! listener on this host shows. A full queue drops SYNs exactly as a filter does; the listener's
//! own count of drops tells them apart, or the filter's drop itself, where it is on this host; with
//! the listener elsewhere nothing does: `likely`.
//!
//! Confused with `ports_exhausted`: without the connect call's return value, EADDRNOTAVAIL looks
//! like a connection given up at once.

use crate::cause::{Cause, Variant};
use crate::signal::Queue;
use crate::track::host::MILLISECOND;

use super::finding::Finding;
use super::known::Known;
use super::{syn_backlog, text};

pub(super) fn failed(known: &Known<'_>, errno: i32) -> Finding {
    match errno {
        111 => refused(known),
        100 | 101 | 112 | 113 => Finding::proven(Cause::HostUnreachable),
        // Without an IPv6 address of its own a host gets the same errno.
        99 if known.attempt().upstream.0.starts_with('[') => Finding::likely(
            Cause::PortsExhausted,
            "local_address: whether this host has an IPv6 address",
        )
        .settled(),
        99 => Finding::proven(Cause::PortsExhausted),
        23 | 24 => Finding::proven(Cause::ProxyFdsExhausted),
        110 => given_up(known),
        _ => unnamed(errno),
    }
}

/// An errno that no cause of the list covers.
pub(super) fn unnamed(errno: i32) -> Finding {
    Finding::unknown(format!(
        "connect_errno: {} names no cause; a security module or the proxy's own limits may",
        text::errno(errno)
    ))
    .settled()
}

fn refused(known: &Known<'_>) -> Finding {
    let finding = maybe_starting(known, Finding::proven(Cause::ConnectionRefused));
    if finding.variant.is_some() {
        return finding;
    }
    let (host, attempt) = (known.host(), known.attempt());
    let variant = if attempt.queue.is_some() {
        // The listener is there, and connections to it are refused: something before it does that.
        Some(Variant::RejectedByFirewall)
    } else {
        host.nobody_listens(attempt).then_some(Variant::NoListener)
    };
    finding.variant(variant)
}

/// Says that the server is being started, where a process is there that is told to listen.
pub(super) fn maybe_starting(known: &Known<'_>, finding: Finding) -> Finding {
    let Some(process) = known.host().starting(known.attempt(), known.tried.at) else {
        return finding;
    };
    let age = known.tried.at.saturating_sub(process.started);
    let text = format!(
        "{} (process {}) runs for {} and is told to listen here, but does not yet",
        text::clean(&process.name),
        process.pid,
        text::duration(age)
    );
    let at = process.started;
    finding
        .variant(Variant::Starting)
        .fact_at(at, known.tried.source, "process_started", text)
}

/// The proxy closed the socket before the handshake was over.
pub(super) fn given_up(known: &Known<'_>) -> Finding {
    let attempt = known.attempt();
    let waited = known.tried.at.saturating_sub(attempt.began);
    if waited < 10 * MILLISECOND {
        return Finding::unknown(
            "connect_errno: the connect call's return value was not seen; it failed at once",
        )
        .settled();
    }
    if let Some(tcp) = known.tcp().filter(|tcp| tcp.filtered > 0) {
        // The first SYN and every repeated one.
        return Finding::proven_if(
            tcp.filtered > tcp.retransmits,
            Cause::ConnectTimeout,
            "packets_filtered: not every SYN was dropped by a filter on this host",
        )
        .variant(Variant::DroppedByFilter)
        .settled();
    }
    let Some(queue) = &attempt.queue else {
        return Finding::likely(
            Cause::ConnectTimeout,
            "accept_queue: the upstream's listener is on another host, or could not be seen",
        )
        .variant(Variant::UnknownPath)
        .settled();
    };
    if let Some(finding) = syn_backlog::full(known, queue) {
        return finding;
    }
    match fullness(known, queue) {
        Fullness::Full => Finding::proven(Cause::TcpAcceptQueueFull).variant(Variant::SynDropped),
        Fullness::Maybe => Finding::likely(
            Cause::TcpAcceptQueueFull,
            match queue.shared {
                true => ONE_OF_SEVERAL,
                false => "accept_queue: at the moment of the drops",
            },
        )
        .variant(Variant::SynDropped)
        .settled(),
        Fullness::No if queue.shared => {
            Finding::likely(Cause::ConnectTimeout, ONE_OF_SEVERAL).settled()
        }
        // The listener is here, had room, and dropped nothing: no SYN reached it.
        Fullness::No => Finding::proven_if(
            !queue.later,
            Cause::ConnectTimeout,
            "accept_queue: measured only after the failure",
        )
        .settled(),
    }
}

const ONE_OF_SEVERAL: &str =
    "accept_queue: several sockets listen at this address, and which was called is not seen";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fullness {
    Full,
    /// The listener dropped connection requests, but its queue was not seen at its limit; or it was
    /// full, and another listens beside it.
    Maybe,
    No,
}

/// Whether the listener's queue was full while the attempt waited. It holds one more than its limit.
pub(super) fn fullness(known: &Known<'_>, queue: &Queue) -> Fullness {
    let over = queue.length > queue.limit;
    // Over its limit at some moment of this wait.
    let attempt = known.attempt();
    let peaked = || known.host().was_full_during(attempt);
    match (over, queue.drops > 0) {
        (true, _) if queue.shared => Fullness::Maybe,
        (true, true) => Fullness::Full,
        (true, false) => Fullness::Maybe,
        // One was accepted a moment ago; the next retried SYN takes its place.
        (false, true) if !queue.shared && (queue.length == queue.limit || peaked()) => {
            Fullness::Full
        }
        (false, true) => Fullness::Maybe,
        (false, false) => Fullness::No,
    }
}
