//! The proxy answered without an attempt on any upstream: the kernel cannot tell why.
//!
//! No live upstream, no upstream address, its own queue, a limit, or `return 502`: all of them
//! happen inside the proxy. Its log says which; without it the cause is `unknown`, but for
//! `no_live_upstreams` where it answered at once what it had tried to connect for before, in vain:
//! whatever else it may decide, it decides without such a failure. That it had no file descriptor for an
//! attempt shows (`proxy_fds`).
//!
//! Confused with an attempt whose answer cannot be read, being encrypted: that may have been the error.

use crate::cause::Cause;
use crate::signal::{End, Nanos, Opening, Source, Unread};
use crate::track::host::MILLISECOND;

use super::finding::Finding;
use super::{Case, proxy_fds, text};

/// Who waits before it answers has a queue.
const AT_ONCE: Nanos = 100 * MILLISECOND;

pub(super) fn diagnose(case: &Case<'_>) -> Finding {
    if let Some(finding) = proxy_fds::exhausted(case) {
        return finding;
    }
    let made_itself = format!(
        "{}, {}, {}, {} and {}",
        Cause::NoLiveUpstreams,
        Cause::DnsFailed,
        Cause::ProxyQueueTimeout,
        Cause::ProxyLimit,
        Cause::ProxyConfig,
    );
    let unread = case.response.and_then(|r| r.unread.as_ref());
    let finding = match (case.source, unread) {
        (Source::Packets, Some(unread)) => unreadable(unread).also_missing(format!(
            "proxy_log: if it made none, {made_itself} all look like this"
        )),
        // A capture may lack the whole side, a Unix socket is never in one.
        (Source::Packets, None) => Finding::unknown(
            "upstream_side: no attempt of the proxy on an upstream is in the capture",
        )
        .also_missing(format!(
            "proxy_log: if it made none, {made_itself} all look like this"
        )),
        _ if was_answered(case) => Finding::unknown(
            "proxy_log: what the upstream answered cannot be read; whether it failed the request or the proxy did",
        ),
        _ if let Some(finding) = out_of_rotation(case) => finding,
        _ => Finding::unknown(format!(
            "proxy_log: no attempt on an upstream was seen; {made_itself} all look like this"
        )),
    };
    match case.response {
        Some(_) => finding.settled(),
        None => finding,
    }
}

/// It asks nobody for what it could not connect to anybody for before, and has had no answer for since.
fn out_of_rotation(case: &Case<'_>) -> Option<Finding> {
    let response = case.response.filter(|_| case.source == Source::Kernel)?;
    // Its log tells of an attempt that was not seen.
    case.told
        .is_none_or(|told| told.tries.is_empty())
        .then_some(())?;
    let asked_at = response.request_at?;
    let waited = case.answered_at.saturating_sub(asked_at);
    // Not one of its own that is not known to be.
    // What is heard all the time was heard a little later as well.
    let until = case.answered_at.saturating_add(AT_ONCE);
    let refused = case.host.refused_before(asked_at, until, response)?;
    if waited > AT_ONCE {
        return None;
    }
    let missing = format!(
        "proxy_log: no attempt on an upstream was seen; {}, {} and {} look like this",
        Cause::DnsFailed,
        Cause::ProxyLimit,
        Cause::ProxyConfig,
    );
    let how = match refused.end {
        End::ConnectFailed { errno } => text::errno(errno),
        _ => "no answer".to_owned(),
    };
    let upstream = text::clean(&refused.upstream.0);
    let text = format!("for a request like this one, to {upstream}: {how}");
    let finding = Finding::likely(Cause::NoLiveUpstreams, missing);
    Some(finding.fact_at(refused.at, Source::Kernel, "connect_failed_before", text))
}

/// An upstream was asked and answered, in what cannot be read.
pub(super) fn was_answered(case: &Case<'_>) -> bool {
    case.attempts.last().is_some_and(|tried| {
        let readable = matches!(tried.attempt.response, Some(Opening::HttpResponse { .. }));
        tried.attempt.end == End::Answered && tried.attempt.received > 0 && !readable
    })
}

/// There may have been an attempt, which cannot be told from others.
fn unreadable(unread: &Unread) -> Finding {
    let finding = Finding::unknown(
        "upstream_side: what was sent to the upstream is encrypted, or no HTTP/1: nothing tells what of it was for this request",
    );
    let to: Vec<String> = unread.upstreams.iter().map(|a| text::clean(&a.0)).collect();
    if to.is_empty() {
        return finding;
    }
    let text = format!("meanwhile, to {}: cannot be read", to.join(", "));
    finding.fact_at(unread.at, Source::Packets, "upstreams_asked", text)
}
