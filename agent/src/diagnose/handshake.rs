//! `tls_handshake_failed`, as far as it shows without the proxy's log.
//!
//! Needs: that the upstream's connection begins with TLS and that no byte came back, or that none of the
//! proxy's records was long enough for a request: then no request was sent, however the connection ended.
//! A server that speaks no TLS at all may end it so, too.

use crate::cause::{Cause, Variant};
use crate::signal::{End, Opening, Response};

use super::finding::Finding;
use super::known::Known;

const REFUSED: &str = "proxy_log: what the proxy says of its TLS handshake";

/// What it is called instead where the end came within the handshake.
pub(super) fn instead(known: &Known<'_>, finding: Finding) -> Finding {
    let attempt = known.attempt();
    let finding = match attempt.sealed && attempt.is_opaque() {
        // A tunnel's data looks the same, and its beginning is not seen.
        true => {
            finding.at_most_likely("request_sent: whether what was sent within TLS was a request")
        }
        false => finding,
    };
    if attempt.tickets {
        return finding.at_most_likely(
            "response_received: whether what came within TLS was session tickets or an answer",
        );
    }
    let tls = known.request().is_some_and(|r| r.opening == Opening::Tls);
    if !tls {
        return finding;
    }
    if attempt.reused || (attempt.received > 0 && !attempt.unasked) {
        return within(finding);
    }
    let variant = match finding.cause {
        Cause::UpstreamClosedEarly | Cause::UpstreamReset => Variant::PeerClosed,
        Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply => Variant::Timeout,
        // What was not taken of a body was none.
        Cause::RequestBodyRejected if attempt.unasked => Variant::PeerClosed,
        _ => return finding,
    };
    let finding = Finding {
        cause: Cause::TlsHandshakeFailed,
        ..finding
    };
    finding
        // Who answers and closes, or is closed, has refused or been refused: why is not to be read.
        .variant(Some(variant).filter(|_| attempt.received == 0))
        .at_most_likely(REFUSED)
}

/// The proxy failed the request over what it had read of the handshake.
pub(super) fn refused(known: &Known<'_>, response: &Response) -> Option<Finding> {
    let attempt = known.attempt();
    let tls = known.request().is_some_and(|r| r.opening == Opening::Tls);
    let answered = attempt.end == End::Answered && attempt.received > 0;
    let failed = response.status.is_some_and(|status| status >= 500);
    let refused = tls && answered && failed && attempt.unasked && !attempt.reused;
    refused.then(|| Finding::likely(Cause::TlsHandshakeFailed, REFUSED).settled())
}

/// After the first bytes: which of those sent were the request, and whether any received were of an
/// answer, cannot be told.
fn within(finding: Finding) -> Finding {
    let by_bytes = matches!(
        finding.cause,
        Cause::KeepaliveRace
            | Cause::UpstreamClosedEarly
            | Cause::UpstreamReset
            | Cause::ReadTimeoutNotRead
            | Cause::ReadTimeoutNoReply
            | Cause::RequestUnacknowledged
            | Cause::SendTimeout
    );
    if !by_bytes {
        return finding;
    }
    let variant = finding.variant.filter(|v| *v != Variant::PartialHead);
    finding
        .variant(variant)
        .at_most_likely("request_sent: which of the encrypted bytes are the request")
}
