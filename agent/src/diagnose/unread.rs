//! What the two sides said to each other cannot be read: how an attempt ended is known, not what of it was sent.
//!
//! Within TLS, and in HTTP/2 in the clear, whose connections carry many requests at once and frames of none.

use crate::cause::{Cause, Variant};
use crate::signal::{Opening, Source};

use super::finding::Finding;
use super::known::Known;

/// What is concluded of an attempt whose connection may speak HTTP/2 in the clear.
pub(super) fn of_http2(known: &Known<'_>, finding: Finding) -> Finding {
    let http2 = known.request().is_some_and(|r| r.opening == Opening::Http2);
    if !http2 || !is_by_bytes(&finding) {
        return finding;
    }
    // From packets, frames that answer nothing are left out.
    if known.attempt().received > 0 && known.tried.source == Source::Kernel {
        let missing = "response_received: whether the HTTP/2 frames were an answer or a farewell";
        return Finding::unknown(missing).settled_if(finding.settled);
    }
    judged(
        finding,
        "request_sent: which of the HTTP/2 frames are the request",
    )
}

/// Which of what was sent was the request, and whether any received were of an answer, cannot be told.
pub(super) fn judged(finding: Finding, missing: &'static str) -> Finding {
    if !is_by_bytes(&finding) {
        return finding;
    }
    let variant = finding.variant.filter(|v| *v != Variant::PartialHead);
    finding.variant(variant).at_most_likely(missing)
}

/// Whether it was concluded from what was sent and received.
fn is_by_bytes(finding: &Finding) -> bool {
    matches!(
        finding.cause,
        Cause::KeepaliveRace
            | Cause::UpstreamClosedEarly
            | Cause::UpstreamReset
            | Cause::RequestBodyRejected
            | Cause::ReadTimeoutNotRead
            | Cause::ReadTimeoutNoReply
            | Cause::RequestUnacknowledged
            | Cause::SendTimeout
    )
}
