//! `upstream_answered`: the 5xx is the upstream's own; and heads that the proxy refused:
//! `response_header_too_big`, `response_invalid`.
//!
//! Needs: the upstream's status line and the proxy's. If both are the same 5xx, the proxy only
//! passed it on. If the upstream answered well and the proxy failed all the same, it did not like
//! the head: too big or malformed; only its own log tells which for sure.

use crate::cause::{Cause, Variant};
use crate::signal::{Attempt, End, HeadFault, Opening, Response, Software};

use super::Case;
use super::finding::Finding;
use super::known::Known;

/// nginx's default `proxy_buffer_size`: one memory page.
const PAGE: u64 = 4096;
/// Few servers' heads are shorter.
const SHORT: u64 = 64;

/// The status line of an attempt that got one.
pub(super) fn status(attempt: &Attempt) -> Option<u16> {
    match attempt.response {
        Some(Opening::HttpResponse { status }) => Some(status),
        _ => None,
    }
}

/// What an answered attempt says about the failed response; `None` if it saved it.
pub(super) fn diagnose(attempt: &Attempt, response: Option<&Response>) -> Option<Finding> {
    let upstream = status(attempt)?;
    let proxy = response.and_then(|r| r.status);
    match (upstream, proxy) {
        (500.., Some(sent)) if sent == upstream => Some(Finding::proven(Cause::UpstreamAnswered)),
        (500.., Some(_)) => Some(
            Finding::likely(
                Cause::UpstreamAnswered,
                "response_sent: the proxy sent another status than the upstream",
            )
            .settled(),
        ),
        (500.., None) => Some(
            Finding::likely(
                Cause::UpstreamAnswered,
                "response_sent: the status that the client got is not seen",
            )
            .settled(),
        ),
        (_, Some(500..)) => Some(refused_head(attempt)),
        _ => None,
    }
}

/// What a proxy answers in the place of a head that it refuses.
pub(crate) fn refuses_with(software: Option<Software>) -> u16 {
    match software {
        Some(Software::Varnish) => 503,
        _ => 502,
    }
}

/// The proxy gave the connection up itself, right after it had read a head, to say so.
pub(super) fn refused(known: &Known<'_>) -> Option<Finding> {
    let attempt = known.attempt();
    let at_once = attempt.end == End::GivenUp && status(attempt).is_some();
    let proxy = known.host().process(attempt.proxy);
    let refusal = refuses_with(proxy.map(|proxy| proxy.software));
    let failed = known.case.response.and_then(|r| r.status) == Some(refusal);
    (at_once && failed).then(|| refused_head(attempt))
}

/// What was wrong with a head of which the beginning is one: it was cut short, too big or malformed.
pub(super) fn refused_head(attempt: &Attempt) -> Finding {
    if status(attempt).is_some_and(|status| status < 200) {
        return Finding::unknown(
            "response_received: what followed the interim response; it may have been this status",
        )
        .settled();
    }
    if attempt.fault == Some(HeadFault::Malformed) && attempt.received < PAGE {
        return Finding::proven(Cause::ResponseInvalid);
    }
    let closing =
        attempt.end == End::PeerClosed || attempt.tcp.as_ref().is_some_and(|tcp| tcp.fin.is_some());
    // Its FIN may be on its way, or come with what the proxy has just read.
    let peer = attempt.peer.as_ref();
    let closed = closing || peer.is_some_and(|peer| peer.closed.is_some());
    if closed && attempt.received < SHORT {
        return Finding::likely(
            Cause::UpstreamClosedEarly,
            "proxy_log: whether the response's head was cut short or malformed",
        )
        .variant(Variant::PartialHead)
        .settled();
    }
    let cause = if attempt.received >= PAGE {
        Cause::ResponseHeaderTooBig
    } else {
        Cause::ResponseInvalid
    };
    Finding::likely(
        cause,
        "proxy_log: what the proxy found wrong with the response's head",
    )
    .settled()
}

/// The attempt that answered, if the exchange's last one did.
pub(super) fn answering<'a>(case: &Case<'a>) -> Option<&'a Attempt> {
    if case.response.is_none() {
        let last = &case.attempts.last()?.attempt;
        return (last.end == End::Answered).then_some(last);
    }
    // Told with the response, or found for it.
    let told = case.response?.last_attempt.as_deref();
    let found = case.attempts.last().map(|t| &t.attempt);
    // Its connection's end may have told what was wrong.
    let more = |a: &&Attempt| {
        told.is_none_or(|t| a.fault.is_some() && (t.flow, t.began) == (a.flow, a.began))
    };
    let last = found.filter(more).or(told)?;
    (last.end == End::Answered).then_some(last)
}
