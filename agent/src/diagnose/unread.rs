//! What the two sides said to each other cannot be read: how an attempt ended is known, not what of it was sent.
//!
//! Within TLS, past the handshake.

use crate::cause::{Cause, Variant};

use super::finding::Finding;

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
