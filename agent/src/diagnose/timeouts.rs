//! The proxy waited and gave up: `read_timeout_never_accepted`, `…_not_read`, `…_no_reply`,
//! `send_timeout`, `request_unacknowledged`, and the near miss `downstream_gave_up`.
//!
//! Needs: the upstream's own socket on this host at that moment (accepted? read?), never later: a
//! server accepts and serves the dead connection afterwards. For what was not taken at all, the
//! proxy's socket: unacknowledged bytes, retransmissions, the peer's window. All are log-identical.
//!
//! Confused with each other, and with a client that left first: then there is no response.

use crate::cause::{Cause, Variant};
use crate::settings;
use crate::signal::{End, Opening, Queue, Source};
use crate::track::host::MILLISECOND;

use super::connect::{self, Fullness, fullness};
use super::finding::Finding;
use super::known::{Known, Read};
use super::{text, unix_connect, waiting};

const NOT_SEEN: &str = "upstream_read: the upstream's end is on another host, or could not be seen";

pub(super) fn diagnose(known: &Known<'_>) -> Finding {
    if known.client_left() {
        return downstream_gave_up(known);
    }
    let finding = match known.attempt().end {
        // It had been connected after all: a request was written.
        _ if known.request().is_some() => waited_in_vain(known),
        End::ConnectGivenUp if known.unix() => unix_connect::given_up(known),
        End::ConnectGivenUp => connect::given_up(known),
        _ => waited_in_vain(known),
    };
    if known.case.response.is_none() && known.attempt().is_opaque() && !own_timer(known) {
        // Within HTTP/2 a client cancels in data that cannot be read.
        return finding.at_most_likely(if unseen(known) {
            "downstream_state: the client's side is not in the capture, or cannot be read there"
        } else {
            "response_sent: the client's side is encrypted; that it had not cancelled is not seen"
        });
    }
    // Without a response, or the client's state, its leaving is not excluded.
    let link = known.attempt().downstream.as_ref();
    let stayed = link.is_some_and(|l| l.state == crate::signal::DownstreamState::Open);
    if known.case.response.is_none() && !stayed {
        return finding
            .at_most_likely("downstream_state: whether the client was still there was not seen");
    }
    finding
}

fn unseen(known: &Known<'_>) -> bool {
    let link = known.attempt().downstream.as_ref();
    link.is_some_and(|link| link.request == Some(Opening::Unseen))
}

/// Proxies count from when their event loop last read the clock, and write some of its work later: nginx
/// on a busy host was seen to give up 2.13 ms early. As little as that takes: a client with the same
/// timeout is no further away.
const LOOP_BEHIND: u64 = 4 * MILLISECOND;

/// The wait ended when one of the proxy's configured timers would end it.
fn own_timer(known: &Known<'_>) -> bool {
    let attempt = known.attempt();
    let waited = known
        .tried
        .at
        .saturating_sub(attempt.request.as_ref().map_or(attempt.began, |r| r.at));
    let Some(proxy) = known.host().process(attempt.proxy) else {
        return false;
    };
    let timer = |value: &str| settings::seconds(value).map(|s| (s * 1e9) as u64);
    proxy
        .settings
        .iter()
        .filter(|(name, _)| settings::plain(name).ends_with("read-timeout"))
        .filter_map(|(_, value)| timer(value))
        .any(|timer| {
            (timer.saturating_sub(LOOP_BEHIND)..timer + timer / 50 + 50 * MILLISECOND)
                .contains(&waited)
        })
}

fn waited_in_vain(known: &Known<'_>) -> Finding {
    let attempt = known.attempt();
    let finding = not_taken(known).unwrap_or_else(|| not_answered(known));
    let closed = attempt.peer.as_ref().is_some_and(|p| p.closed.is_some());
    if closed || known.fin().is_some() || known.tcp().is_some_and(|t| t.reset_at.is_some()) {
        return finding.at_most_likely(
            "peer_closed: the upstream had closed as well; which came first counts",
        );
    }
    finding
}

/// The upstream's kernel did not take the whole request.
fn not_taken(known: &Known<'_>) -> Option<Finding> {
    let attempt = known.attempt();
    let tcp = known.tcp()?;
    let bytes = known.request_bytes();
    let acked = if not_let_in(known) {
        0
    } else {
        known.acked().unwrap_or(0)
    };
    if bytes == 0 || acked >= bytes || known.read() == Read::Yes && !tcp.zero_window {
        return None;
    }
    if tcp.zero_window {
        return match known.accepted() {
            // In the queue nobody makes room: the accept is what was missing.
            Some(false) => None,
            Some(true) => Some(Finding::proven(Cause::SendTimeout)),
            None => Some(
                Finding::likely(
                    Cause::SendTimeout,
                    "upstream_accepted: whether the connection had been accepted cannot be seen",
                )
                .settled(),
            ),
        };
    }
    if tcp.retransmits == 0 {
        return None;
    }
    if acked > 0 {
        let missing = "request_acknowledged: a part of the request was, before the path went dead";
        return Some(Finding::likely(Cause::RequestUnacknowledged, missing).settled());
    }
    // The upstream's socket took nothing: lost on the way, or the handshake's last step was.
    if attempt.reused || attempt.peer.is_some() {
        // One acknowledgement may be missing from a capture; those of every repetition may not.
        let often = tcp.retransmits > 1 || known.tried.source != Source::Packets;
        let missing = "request_acknowledged: the request was repeated once only";
        return Some(Finding::proven_if(often, Cause::RequestUnacknowledged, missing).settled());
    }
    let Some(queue) = &attempt.queue else {
        let missing =
            "accept_queue: a full queue at the upstream's listener would look the same from here";
        return Some(Finding::likely(Cause::RequestUnacknowledged, missing).settled());
    };
    let missing = "upstream_accepted: whether the upstream had a socket for this connection";
    Some(match fullness(known, queue) {
        Fullness::Full => Finding::proven_if(queue.drops > 0, Cause::TcpAcceptQueueFull, missing)
            .variant(Variant::AckDropped)
            .settled(),
        Fullness::Maybe => Finding::likely(Cause::TcpAcceptQueueFull, missing)
            .variant(Variant::AckDropped)
            .settled(),
        Fullness::No => Finding::likely(Cause::RequestUnacknowledged, missing).settled(),
    })
}

/// A listener on this host had no room for the connection, however often the request was repeated. Its
/// proxy's own close may then find the room, and acknowledge what came too late.
fn not_let_in(known: &Known<'_>) -> bool {
    let attempt = known.attempt();
    let fresh = !attempt.reused && attempt.peer.is_none();
    let in_vain = known
        .tcp()
        .is_some_and(|tcp| tcp.acked == 0 && tcp.retransmits > 1);
    let full = |queue: &Queue| match fullness(known, queue) {
        Fullness::Full => true,
        Fullness::Maybe => queue.shared,
        Fullness::No => false,
    };
    fresh && in_vain && attempt.queue.as_ref().is_some_and(full)
}

fn not_answered(known: &Known<'_>) -> Finding {
    if known.request().is_none() {
        return Finding::unknown("request_sent: no request was seen on this connection").settled();
    }
    if known.accepted() == Some(false) {
        return Finding::proven(Cause::ReadTimeoutNeverAccepted);
    }
    match known.read() {
        Read::Never => Finding::proven(Cause::ReadTimeoutNotRead),
        Read::NotYet => Finding::proven(Cause::ReadTimeoutNotRead),
        Read::Yes => no_reply(known, Finding::proven(Cause::ReadTimeoutNoReply)),
        Read::Unseen => {
            let finding = Finding::likely(Cause::ReadTimeoutNoReply, NOT_SEEN);
            let finding = if known.accepted().is_none() {
                finding.also_missing("upstream_accepted: the same")
            } else {
                finding
            };
            no_reply(known, finding).settled()
        }
    }
}

/// What the process that had read the request was doing, as far as it was sampled.
fn no_reply(known: &Known<'_>, finding: Finding) -> Finding {
    finding.variant(waiting::variant(known))
}

/// The client, or the tier in front, closed while the attempt was open.
fn downstream_gave_up(known: &Known<'_>) -> Finding {
    let mut finding = Finding::proven(Cause::DownstreamGaveUp)
        .variant(waiting::variant(known))
        // The proxy may still answer.
        .settled_if(known.case.deadline_passed);
    let link = known.attempt().downstream.as_ref();
    if let Some(client) = link.and_then(|l| l.client.as_ref())
        && let Some(wait) = known.host().gives_up_after(known.attempt().proxy, client)
    {
        let text = format!(
            "requests from this client end after {} again and again: a timeout of the tier in front",
            text::duration(wait)
        );
        let (at, source) = (known.tried.at, known.tried.source);
        finding = finding.fact_at(at, source, "constant_wait", text);
    }
    if known.attempt().may_be_cancelled(known.tried.at) {
        finding = finding.at_most_likely(
            "downstream_state: the client's side is encrypted; that it cancelled is inferred from the moment",
        );
    }
    if !known.case.deadline_passed {
        finding = finding.at_most_likely("response_sent: the proxy may still answer");
    }
    finding
}
