//! `keepalive_race`: the upstream closed a pooled connection and the request met the close.
//!
//! Needs: a reused connection, and proof that the application did not get the request. Two proofs
//! exist. The wire: the peer's FIN acknowledges nothing of the request, nothing acknowledges it
//! later, and a reset answers it. The upstream's own socket on this host: it closed with the
//! request unread and sent a reset for that (without one it may have closed one direction only).
//! Acknowledged means that the peer's kernel had it, not its application.
//!
//! Confused with a worker's death on a reused connection (the proxy's log line is the same): there
//! the request had been read. A reset alone proves nothing: one that acknowledges the request is the
//! same, byte for byte, from a server that closes with it unread and from one that aborts after
//! reading, so there only the age at which this upstream closes idle connections speaks for a race.
//! A process that dies closes its idle connections as well: where that is not seen, one that was hardly
//! idle proves nothing, nor does one that ended at the moment of others which no timer closes with it.

use crate::cause::{Cause, Variant};
use crate::signal::{End, Nanos, ResetBy};
use crate::track::host::{MILLISECOND, SECOND};

use super::deaths;
use super::finding::Finding;
use super::known::{Known, Read};

const EPIPE: i32 = 32;

/// Stop and reload signals within this time explain why a pool was closed.
const RELOAD: Nanos = 35 * SECOND;

pub(super) fn diagnose(known: &Known<'_>) -> Option<Finding> {
    let attempt = known.attempt();
    if !attempt.reused || attempt.received > 0 || known.read() == Read::Yes {
        return None;
    }
    let finding = if known.unix() {
        unix(known)
    } else {
        tcp(known)
    }?;
    if died_holding_it(known) {
        return None;
    }
    let finding = why_closed(known, finding);
    Some(if closed_by_death(known) {
        finding.at_most_likely(
            "peer_closed: that it closed for reasons of its own; its process died then",
        )
    } else if closed_soon(known, finding.variant) {
        finding.at_most_likely(
            "peer_closed: why, after less than 100 ms without a request; its process may have died",
        )
    } else if closed_with_others(known, finding.variant) {
        finding.at_most_likely(
            "peer_closed: why, at the moment of others that no timer can have closed with it; its process \
             may have died",
        )
    } else {
        finding
    })
}

/// Closed out of sight, and sooner than servers are told to close idle connections: with its process, maybe.
fn closed_soon(known: &Known<'_>, variant: Option<Variant>) -> bool {
    const SOON: Nanos = 100 * MILLISECOND;
    let idle = known.attempt().idle_ns;
    let soon = idle.is_some_and(|idle| idle < SOON) && !idle_as_closed(known);
    soon && !tells_why(variant) && known.peer_close().is_none()
}

/// Closed out of sight with others of other ages, or under a request: a process that dies closes all.
fn closed_with_others(known: &Known<'_>, variant: Option<Variant>) -> bool {
    let others = known.tcp().is_some_and(|tcp| tcp.ended_with_others);
    others && !tells_why(variant) && known.peer_close().is_none()
}

/// What took data after its FIN lived on; the others name the reason.
fn tells_why(variant: Option<Variant>) -> bool {
    matches!(
        variant,
        Some(Variant::HalfClose | Variant::Reload | Variant::RequestLimit)
    )
}

/// Whose end it was crashed or was killed as the connection closed: no idle connection grew too old.
fn closed_by_death(known: &Known<'_>) -> bool {
    let closer = known.peer_close().map(|close| close.pid);
    let death = closer.filter(|pid| *pid != 0);
    let cause = death.and_then(|pid| deaths::of_its_own(known, pid));
    cause.is_some_and(|cause| {
        matches!(
            cause,
            Cause::WorkerCrashed
                | Cause::WorkerKilled
                | Cause::WorkerOomKilled
                | Cause::WorkerTimeoutKilled
        )
    })
}

fn race(proven: bool, variant: Variant, else_missing: &str) -> Finding {
    Finding::proven_if(proven, Cause::KeepaliveRace, else_missing).variant(variant)
}

fn tcp(known: &Known<'_>) -> Option<Finding> {
    let unread = known.read() == Read::Never;
    let reset_at = known.reset_at();
    let Some(request) = known.request() else {
        // The proxy found the reset when it took the connection from its pool.
        return matches!(known.attempt().end, End::Reset | End::SendFailed { .. }).then(|| {
            race(
                reset_at.is_some(),
                Variant::ResetOnIdle,
                "reset_received: not seen on this flow",
            )
        });
    };
    if reset_at.is_some_and(|at| at < request.at) {
        return Some(race(true, Variant::ResetOnIdle, ""));
    }
    if let Some(fin) = known.fin() {
        let acked = known.acked().unwrap_or(0);
        let met = fin.acked == 0 && request.bytes > 0;
        if met && known.reset_had_it() && acked == 0 {
            return Some(race(
                false,
                Variant::ClosedUnread,
                "upstream_read: the reset acknowledges the request, so it may have been read",
            ));
        }
        return match fin.after_request {
            // The peer takes data after its FIN: it closed one direction only.
            _ if fin.acked == 0 && acked > 0 => Some(race(true, Variant::HalfClose, "")),
            false => Some(race(
                reset_at.is_some() || unread,
                Variant::FinAlreadyReceived,
                "reset_received: none answered the request yet, so the upstream may still have read it",
            )),
            true if met => Some(race(
                reset_at.is_some() || unread,
                Variant::FinInFlight,
                "reset_received: none answered the request yet, so the upstream may still have read it",
            )),
            // close() with data unread sends a reset: a FIN that covers it came from shutdown().
            true if known.peer_close().is_some_and(|c| !c.read) => {
                Some(race(true, Variant::HalfClose, ""))
            }
            // The peer's kernel had it all and closed in peace: it was read, or see the deaths.
            true => None,
        };
    }
    let broken = matches!(known.attempt().end, End::Reset | End::SendFailed { .. });
    match (known.read(), broken || reset_at.is_some()) {
        (Read::Never, true) => {
            // With nothing unread the request was still on its way.
            let aborted = known
                .peer_close()
                .is_some_and(|close| close.reset_by == Some(ResetBy::Abort));
            let variant = match aborted {
                true => Variant::ResetOnIdle,
                false => Variant::ClosedUnread,
            };
            Some(race(true, variant, ""))
        }
        (Read::Never, false) => {
            let before = known.peer_close().is_some_and(|c| c.at < request.at);
            let variant = if before {
                Variant::FinAlreadyReceived
            } else {
                Variant::FinInFlight
            };
            Some(race(false, variant, "peer_closed: the FIN was not seen"))
        }
        (Read::NotYet, true) => Some(race(
            false,
            Variant::ClosedUnread,
            "upstream_closed: the upstream's close was not seen, only that it had not read before",
        )),
        // A server that closes with the request unread and one that aborts after reading send the
        // same reset, and a busy one closes late: the age at which it closes others tells.
        (Read::Unseen, true)
            if (known.reset_had_it() || known.was_held()) && !idle_as_closed(known) =>
        {
            None
        }
        (Read::Unseen, true) => Some(race(
            false,
            Variant::ClosedUnread,
            "upstream_read: whether the upstream had read the request cannot be seen from here",
        )),
        (_, false) => closes_about_now(known),
        (Read::Yes, _) => None,
    }
}

/// Unix sockets have no acknowledgements, but the kernel tells the two cases apart by the errno.
fn unix(known: &Known<'_>) -> Option<Finding> {
    let request = known.request();
    let written = known.request_bytes();
    let refused = request.and_then(|r| r.write_errno);
    let failed = match known.attempt().end {
        End::SendFailed { errno } => Some(errno),
        _ => refused,
    };
    let close = known.peer_close();
    let unread = known.read() == Read::Never;
    if failed == Some(EPIPE) && written == 0 {
        return Some(race(true, Variant::FinAlreadyReceived, ""));
    }
    if let (Some(close), Some(request)) = (close, request)
        && close.at < request.at
        && unread
    {
        return Some(race(true, Variant::FinAlreadyReceived, ""));
    }
    match known.attempt().end {
        End::Reset if request.is_none() => Some(race(
            close.is_some(),
            Variant::ResetOnIdle,
            "upstream_closed: not seen",
        )),
        // What is left unread when a Unix socket closes comes back as ECONNRESET, be it all or a
        // part: a known reader had read a part.
        End::Reset | End::SendFailed { .. } if unread => {
            let reader = known
                .attempt()
                .peer
                .as_ref()
                .is_some_and(|p| p.reader.is_some());
            let guessed = close.is_some_and(|c| c.pid != 0 && c.at == known.tried.at);
            Some(race(
                !reader && !guessed,
                Variant::ClosedUnread,
                "upstream_read: a part of the request may have been read",
            ))
        }
        End::Reset if known.read() == Read::NotYet => Some(race(
            false,
            Variant::ClosedUnread,
            "upstream_closed: the upstream's close was not seen, only that it had not read before",
        )),
        End::Reset => Some(race(
            false,
            Variant::ClosedUnread,
            "upstream_read: something was left unread; whether all of the request was, is not seen",
        )),
        End::PeerClosed if unread => Some(race(
            false,
            Variant::HalfClose,
            "peer_closed: how the upstream closed was not seen",
        )),
        _ => closes_about_now(known),
    }
}

/// The connection had been idle for as long as others of this upstream when it closes them.
fn idle_as_closed(known: &Known<'_>) -> bool {
    let attempt = known.attempt();
    let pool = known.host().pool(attempt.proxy, &attempt.upstream);
    let age = pool
        .and_then(|pool| pool.upstream_closes_after())
        .filter(|spread| spread.n >= 5);
    let (Some(idle), Some(age)) = (attempt.idle_ns, age) else {
        return false;
    };
    idle.abs_diff(age.median) <= (age.median / 20).max(5 * MILLISECOND)
}

/// Nothing tells whether the request was read; but this is the age at which this upstream closes.
fn closes_about_now(known: &Known<'_>) -> Option<Finding> {
    let near = known.read() == Read::Unseen && idle_as_closed(known);
    near.then(|| {
        Finding::likely(
            Cause::KeepaliveRace,
            "peer_closed: when the FIN came, and what it acknowledged, was not seen",
        )
        .also_missing("upstream_read: whether the upstream had read the request was not seen")
    })
}

/// The holder died some time after the request had come: not a race, though nobody read it.
fn died_holding_it(known: &Known<'_>) -> bool {
    let (Some(request), Some(close)) = (known.request(), known.peer_close()) else {
        return false;
    };
    let round_trip = known.tcp().map_or(0, |t| u64::from(t.srtt_us) * 1000);
    let waited = close.at.saturating_sub(request.at);
    !close.read
        && waited > round_trip + MILLISECOND
        && known.fin().is_none_or(|fin| fin.acked > 0)
        && deaths::of(known, close.pid).is_some()
}

/// Names the reason of the close where the facts hold one.
fn why_closed(known: &Known<'_>, finding: Finding) -> Finding {
    let attempt = known.attempt();
    if let Some(pid) = known.peer_close().map(|c| c.pid).filter(|pid| *pid != 0) {
        let (at, host) = (known.closed_at(), known.host());
        let parent = host.parent_of(pid);
        let told = [Some(pid), parent]
            .into_iter()
            .flatten()
            .flat_map(|pid| host.signals_to(pid, at.saturating_sub(RELOAD), at))
            .find(|s| deaths::asks_to_stop(s.fact.signal));
        let exits = host.exit_near(pid, at, 250 * MILLISECOND).is_some();
        if let Some(told) = told
            && (exits || finding.variant != Some(Variant::HalfClose))
        {
            let text = deaths::describe_signal(&told.fact);
            return finding
                .variant(Variant::Reload)
                .fact(told, "signal_sent", text);
        }
    }
    let limit = known
        .host()
        .pool(attempt.proxy, &attempt.upstream)
        .and_then(|pool| pool.request_limit());
    let at_once = attempt.idle_ns.is_some_and(|idle| idle < 50 * MILLISECOND);
    if at_once && limit.is_some_and(|limit| limit == attempt.requests_before) {
        return finding.variant(Variant::RequestLimit);
    }
    finding
}
