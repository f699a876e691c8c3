//! Whether the attempt surely belongs to the response that it is said to have decided.
//!
//! The order of events in a thread names a downstream when the attempt begins; what the thread does
//! next (adjacency), or method and path, must agree. One of the three alone proves nothing:
//! concurrent requests interleave.

use crate::signal::{Attempt, Link, LinkOrder, Opening, Response, Source};

use super::Case;

/// `Err` says what is missing.
pub(super) fn check(case: &Case<'_>, attempt: &Attempt) -> Result<(), String> {
    let Some(response) = case.response else {
        return without_response(case, attempt);
    };
    let unclear = |link: &Link| link.order == LinkOrder::Unclear;
    if case.source == Source::Packets && attempt.downstream.as_ref().is_some_and(unclear) {
        // No thread is seen: nothing else would tie the two.
        let request = attempt.request.as_ref().map(|r| &r.opening);
        let compared = |o: &Opening| matches!(o, Opening::HttpRequest { .. } | Opening::Uwsgi);
        return Err(match request.is_none_or(compared) {
            true => "exchange_link: another request in flight may be the one".into(),
            false => "exchange_link: what was sent to the upstream is encrypted, or no HTTP/1: only address and time tie it to the request".into(),
        });
    }
    let mut attempt = attempt;
    let direct = tied(attempt, response);
    let mut result = direct.clone();
    // An attempt that was tried again is tied by the attempt that was its retry.
    for _ in 0..case.attempts.len() {
        if result.is_ok() || contradicts(attempt, response) {
            break;
        }
        let others = case.attempts.iter().map(|t| &t.attempt);
        let last = response.last_attempt.as_deref();
        let Some(next) = others
            .chain(last)
            .find(|a| a.retry_of == Some(attempt.flow))
        else {
            break;
        };
        attempt = next;
        result = tied(attempt, response);
    }
    result.or(direct)
}

/// Packets: a failed connect may have been made for any request, and what a client did says nothing
/// about an attempt that may be another's.
fn without_response(case: &Case<'_>, attempt: &Attempt) -> Result<(), String> {
    if case.source != Source::Packets {
        return Ok(());
    }
    match &attempt.downstream {
        None if attempt.request.is_none() => {
            Err("exchange_link: for which request it was made cannot be told".into())
        }
        Some(link) if link.order == LinkOrder::Unclear && link.request != Some(Opening::Unseen) => {
            Err("exchange_link: another request in flight may be the one".into())
        }
        _ => Ok(()),
    }
}

/// It was begun for another request than the one answered.
fn contradicts(attempt: &Attempt, response: &Response) -> bool {
    // Requests within TLS or HTTP/2 cannot be counted.
    let counted = readable(response);
    let other =
        |flow, ordinal| flow != response.downstream || (counted && ordinal != response.ordinal);
    attempt
        .downstream
        .as_ref()
        .is_some_and(|link| other(link.flow, link.ordinal))
}

/// Whether the client's side is HTTP/1 in the clear.
fn readable(response: &Response) -> bool {
    matches!(response.request, Some(Opening::HttpRequest { .. }))
}

fn tied(attempt: &Attempt, response: &Response) -> Result<(), String> {
    if contradicts(attempt, response) {
        return Err("exchange_link: the attempt was begun for another request".into());
    }
    let adjacent = response.adjacent == Some(attempt.flow);
    let link = attempt.downstream.as_ref();
    if !readable(response) {
        // Nothing can be compared, but the thread that ended an attempt and then wrote to the
        // attempt's own client answered it.
        return if adjacent && link.is_some() {
            Ok(())
        } else {
            Err(
                "exchange_link: the client's side is encrypted and nothing else ties the two"
                    .into(),
            )
        };
    }
    let ordered = link.is_some_and(|l| l.order != LinkOrder::Unclear);
    let read = response
        .request
        .as_ref()
        .or(link.and_then(|l| l.request.as_ref()));
    let same = same_request(attempt, read);
    if (ordered && (adjacent || same)) || (adjacent && same) {
        Ok(())
    } else {
        Err("exchange_link: order, adjacency and content do not agree on the request".into())
    }
}

pub(crate) fn same_request(attempt: &Attempt, downstream: Option<&Opening>) -> bool {
    let upstream = attempt.request.as_ref().map(|r| &r.opening);
    let (
        Some(Opening::HttpRequest {
            method: a,
            path: p,
            path_complete: p_all,
            ..
        }),
        Some(Opening::HttpRequest {
            method: b,
            path: q,
            path_complete: q_all,
            ..
        }),
    ) = (upstream, downstream)
    else {
        return false;
    };
    let (short, long) = if p.len() <= q.len() { (p, q) } else { (q, p) };
    let cut = !p_all || !q_all;
    a == b && (p == q || (cut && short.len() >= 16 && long.starts_with(short.as_str())))
}
