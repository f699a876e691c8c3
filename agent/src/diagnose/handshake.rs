//! `tls_handshake_failed`, as far as it shows without the proxy's log.
//!
//! Needs: that the upstream's connection begins with TLS and that no byte came back: then no request
//! was sent yet, however the connection ended. A server that speaks no TLS at all may end it so, too.

use crate::cause::{Cause, Variant};
use crate::signal::Opening;

use super::finding::Finding;
use super::known::Known;

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
    if attempt.reused || attempt.received > 0 {
        return within(finding);
    }
    let variant = match finding.cause {
        Cause::UpstreamClosedEarly | Cause::UpstreamReset => Variant::PeerClosed,
        Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply => Variant::Timeout,
        _ => return finding,
    };
    let finding = Finding {
        cause: Cause::TlsHandshakeFailed,
        ..finding
    };
    finding
        .variant(variant)
        .at_most_likely("proxy_log: what the proxy says of its TLS handshake")
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
