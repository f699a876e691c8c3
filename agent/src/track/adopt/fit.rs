//! Whether an attempt can have led to a response, by what it sent, when and how it ended. Pure.

use crate::diagnose::{Tried, refuses_with, same_request};
use crate::signal::{Attempt, End, LinkOrder, Nanos, Opening, Response, Software};
use crate::track::SETTLE;
use crate::track::moments::{LATE, is_unconnected};
use crate::track::threads::Threads;

/// A connect's failure and the response that it led to are told so soon after each other.
const SOON: Nanos = 5_000_000;

/// By what an attempt fits a response, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    Content,
    /// On a connection that was begun for another request.
    Given,
    Thread,
    Time,
    Late,
}

/// Where the C library asks the name service, which is no upstream.
pub(super) const NSCD: &str = "unix:/var/run/nscd/socket";

pub(super) fn fit(
    tried: &Tried,
    response: &Response,
    at: Nanos,
    software: Option<Software>,
) -> Option<Fit> {
    let attempt = &tried.attempt;
    let near = tried.at.abs_diff(at);
    let asked = response.request_at.unwrap_or(at);
    let began = asked <= sent_since(attempt, asked) && attempt.began <= at;
    if !began || attempt.proxy != response.proxy || !passed_on(attempt, response, software) {
        return None;
    }
    if attempt.request.is_some() && !attempt.unasked {
        let same = same_request(attempt, response.request.as_ref());
        let fit = match asked <= attempt.began {
            true => Fit::Content,
            false => Fit::Given,
        };
        return (same && near <= SETTLE).then_some(fit);
    }
    // Nor does a handshake carry anything that tells for whom it was begun.
    let failed = is_unconnected(attempt) || attempt.unasked;
    let any = Threads::of(software) == Threads::Any;
    if !failed || !(any || led_by_none(attempt)) || attempt.upstream.0 == NSCD {
        return None;
    }
    let late = near > SOON;
    // A thread that is kept from its CPU answers late, but what it began at once was for this request.
    // Envoy answers all that wait as one handshake fails, and closes the other connections then.
    let in_time = (tried.at <= at || attempt.unasked) && near <= LATE;
    let prompt = attempt.began - asked <= SOON && in_time;
    match attempt.thread == response.thread {
        _ if late => (prompt && (any || attempt.thread == response.thread)).then_some(Fit::Late),
        true => Some(Fit::Thread),
        false => any.then_some(Fit::Time),
    }
}

/// When it was begun for a request that came then: a connection that was begun before may have been given
/// to it.
pub(super) fn sent_since(attempt: &Attempt, asked: Nanos) -> Nanos {
    match &attempt.request {
        Some(request) if attempt.began < asked && !attempt.unasked => request.at,
        _ => attempt.began,
    }
}

/// Whether it answers 504 where its timer ended an attempt, and nowhere else.
pub(super) fn tells_timeouts(software: Option<Software>) -> bool {
    matches!(software, Some(Software::Haproxy | Software::Envoy))
}

/// Whether it connects for nothing but a client's request, at once, and limits none: it checks no
/// server's health and has no queue.
pub(super) fn calls_for_requests_alone(software: Option<Software>) -> bool {
    software == Some(Software::H2o)
}

/// What such a proxy does not answer to an end like this: of requests alike it is another's, whose
/// client has left. Varnish has one status for all.
pub(super) fn contradicts(
    attempt: &Attempt,
    response: &Response,
    software: Option<Software>,
) -> bool {
    if software == Some(Software::Varnish) {
        return false;
    }
    let timed_out = response.status == Some(504);
    match attempt.end {
        End::GivenUp => attempt.received == 0 && !timed_out,
        End::PeerClosed | End::Reset => timed_out,
        _ => false,
    }
}

/// No error of the upstream's own.
pub(super) fn answered_well(attempt: &Attempt) -> bool {
    let status = attempt.response.as_ref().and_then(status_of);
    status.is_none_or(|status| status < 500)
}

/// An upstream's own error is the response only with its own status. One for a head that was refused is
/// the proxy's own; that a beginning alone came is told in several ways.
fn passed_on(attempt: &Attempt, response: &Response, software: Option<Software>) -> bool {
    match attempt.response {
        Some(Opening::HttpResponse { status: ..500 }) if attempt.end == End::Answered => {
            [Some(500), Some(refuses_with(software))].contains(&response.status)
        }
        Some(Opening::HttpResponse { status: 500.. }) if attempt.end == End::Answered => {
            attempt.response.as_ref().map(status_of) == Some(response.status)
        }
        _ => true,
    }
}

fn status_of(opening: &Opening) -> Option<u16> {
    match opening {
        Opening::HttpResponse { status } => Some(*status),
        _ => None,
    }
}

/// It was not begun for the request of another response, as far as the order of things tells: what its
/// thread had read long before it tried again is no sign.
fn led_by_none(attempt: &Attempt) -> bool {
    let link = attempt.downstream.as_ref();
    link.is_none_or(|link| link.order == LinkOrder::Unclear) && attempt.retry_of.is_none()
}
