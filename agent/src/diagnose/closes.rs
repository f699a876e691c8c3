//! The upstream ended the connection and lives: `listener_died`, `request_body_rejected`,
//! `upstream_closed_early`, `upstream_reset`, and a reset for a queue that was full.
//!
//! Needs: that the request was received, or the connection never accepted; and that the process did
//! not exit (up to 250 ms later), which is known only where exits are seen. FIN or reset says
//! whether the server left something unread, not why it closed.

use crate::cause::{Cause, Variant};
use crate::signal::{End, HeadFault, Opening, ResetBy};

use super::answered::refused_head;
use super::connect::{Fullness, fullness};
use super::finding::Finding;
use super::known::{Known, Read};

/// The connection ended in the accept queue.
pub(super) fn unaccepted(known: &Known<'_>) -> Option<Finding> {
    let attempt = known.attempt();
    if attempt.reused || attempt.received > 0 {
        return None;
    }
    if let Some(close) = known.peer_close() {
        return (!close.accepted && known.accepted() == Some(false))
            .then(|| Finding::proven(Cause::ListenerDied));
    }
    let listener = known.host().listener(attempt);
    if known.accepted() == Some(false) {
        let gone = listener.is_some_and(|l| l.fact.gone && l.at >= attempt.began);
        return Some(Finding::proven_if(
            gone,
            Cause::ListenerDied,
            "upstream_closed: the close of the upstream's end was not seen",
        ));
    }
    // No established socket at the listener, and its queue full: tcp_abort_on_overflow.
    let reset = attempt.end == End::Reset && known.acked() == Some(0);
    let full = attempt
        .queue
        .as_ref()
        .is_some_and(|q| fullness(known, q) == Fullness::Full);
    (reset && full && attempt.peer.is_none()).then(|| {
        Finding::likely(
            Cause::TcpAcceptQueueFull,
            "upstream_accepted: whether the upstream had a socket for this connection",
        )
        .variant(Variant::ResetOnOverflow)
    })
}

pub(super) fn diagnose(known: &Known<'_>) -> Finding {
    let finding = shape(known);
    let exit_known = known.case.deadline_passed && known.host().sees("process_exited");
    if known.holder().is_none() {
        return finding
            .at_most_likely("upstream_read: the upstream's process is on another host, or not seen")
            .settled_if(known.flow_is_over());
    }
    let finding = match known.read() {
        Read::Yes | Read::Never => finding,
        _ => finding.at_most_likely("upstream_read: whether the upstream had read the request"),
    };
    // A server that gets what it does not speak reads it and closes, too.
    let attempt = known.attempt();
    let answers = attempt.received > 0 || (attempt.reused && known.upstream_process().is_some());
    let asked_in_http = matches!(
        known.request().map(|request| &request.opening),
        Some(Opening::HttpRequest { .. })
    );
    let finding = match (answers, attempt.spoke_http && asked_in_http) {
        (true, _) => finding,
        (_, true) => finding.fact_at(
            attempt.began,
            known.tried.source,
            "upstream_protocol",
            "it has answered HTTP before".to_owned(),
        ),
        _ => finding.at_most_likely("upstream_protocol: that the upstream speaks what it was sent"),
    };
    if exit_known {
        return finding.settled();
    }
    finding
        .at_most_likely("process_exited: whether the upstream's process lives is not known")
        .settled_if(known.case.deadline_passed)
}

fn shape(known: &Known<'_>) -> Finding {
    let attempt = known.attempt();
    let answered = matches!(attempt.response, Some(Opening::HttpResponse { .. }));
    let bytes = known.request_bytes();
    // What is acknowledged may lie unread, and a reset's own acknowledgement is not applied: how much the
    // upstream's process took when it closed tells more. It may read on after it has shut down its half.
    let close = known.peer_close();
    let taken = close.and_then(|close| close.taken);
    let ended = close.and_then(|close| close.reset_by);
    let ended = matches!(ended, Some(ResetBy::UnreadData | ResetBy::Abort));
    let taken = match ended && taken.is_some() {
        true => taken,
        false => taken.max(known.acked()),
    };
    // Nothing but the body's own length, which the client announced, tells of what was not even sent.
    let announced = known.case.response.and_then(|r| r.request_body);
    let all_sent = announced.is_none_or(|body| bytes >= body);
    let all_taken = taken.is_none_or(|taken| taken >= bytes);
    let sending = matches!(attempt.end, End::SendFailed { .. }) && bytes > 0;
    let broken = matches!(attempt.end, End::Reset | End::SendFailed { .. });
    // With a FIN as well: what it acknowledged is all that the upstream had got when it closed.
    if sending || (!all_taken && (answered || known.read() == Read::Yes)) {
        return Finding::proven(Cause::RequestBodyRejected);
    }
    if !all_sent && known.read() == Read::Yes {
        return Finding::likely(
            Cause::RequestBodyRejected,
            "request_sent: whether all of the body that the client announced was to be sent",
        );
    }
    if known.request().is_none() && !attempt.reused {
        return Finding::likely(
            if broken {
                Cause::UpstreamReset
            } else {
                Cause::UpstreamClosedEarly
            },
            "request_sent: no request was seen on this connection",
        );
    }
    if !broken && answered && attempt.fault != Some(HeadFault::Cut) {
        // A server that has sent a malformed head closes as well.
        return refused_head(attempt);
    }
    if !broken {
        let variant = if attempt.received > 0 {
            Variant::PartialHead
        } else {
            Variant::NoBytes
        };
        let unread = known.read() == Read::Never;
        let finding = Finding::proven(Cause::UpstreamClosedEarly).variant(variant);
        return if unread {
            finding.at_most_likely("upstream_read: the upstream closed without reading the request")
        } else if known.read() == Read::Unseen {
            undecided(known, finding)
        } else {
            finding
        };
    }
    match known.peer_close() {
        Some(close) if close.reset_by == Some(ResetBy::Abort) => {
            Finding::proven(Cause::UpstreamReset).variant(Variant::Abort)
        }
        Some(close) if close.reset_by == Some(ResetBy::LateData) => Finding::likely(
            Cause::UpstreamReset,
            "request_sent: what the upstream's kernel got after the close",
        ),
        Some(close) if close.reset => Finding::proven_if(
            known.request().is_some(),
            Cause::UpstreamReset,
            "request_sent: whether all of the request was sent",
        )
        .variant(Variant::UnreadData),
        // It closed with nothing left unread, and still a reset came: SO_LINGER 0.
        Some(_) if all_taken && !known.unix() => {
            Finding::proven(Cause::UpstreamReset).variant(Variant::Abort)
        }
        Some(close) => {
            let variant = known.unix().then_some(Variant::UnreadData).filter(|_| close.accepted);
            Finding::proven(Cause::UpstreamReset).variant(variant)
        }
        None if attempt.peer.is_some() && known.flow_is_over() && !known.unix() => Finding::likely(
            Cause::UpstreamReset,
            "upstream_closed: the upstream on this host was not seen to close; something between may have",
        )
        .variant(Variant::Middlebox),
        None if attempt.reused && known.reset_had_it() => Finding::likely(
            Cause::UpstreamReset,
            "upstream_read: whether the request had been read; if not, this was a keep-alive race",
        ),
        None => undecided(
            known,
            Finding::likely(Cause::UpstreamReset, "upstream_closed: the upstream's close was not seen"),
        ),
    }
}

/// Nothing tells a race, a death and an early close apart, unless the wire does.
fn undecided(known: &Known<'_>, finding: Finding) -> Finding {
    let covered = known
        .fin()
        .is_some_and(|f| f.after_request && f.acked >= known.request_bytes());
    // A peaceful close that had taken the whole request: the application read it.
    if covered || !known.attempt().reused || known.was_held() {
        return finding
            .at_most_likely("upstream_read: whether and by whom the request was read is not seen");
    }
    Finding::unknown("upstream_read: whether the upstream had read the request")
        .also_missing("peer_closed: when the FIN came, and what it acknowledged")
        .also_missing("process_exited: whether the upstream's process died")
}
