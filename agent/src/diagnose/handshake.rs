//! `tls_handshake_failed`, as far as it shows without the proxy's log.
//!
//! Needs: that the upstream's connection begins with TLS and that no byte came back, or that none of the
//! proxy's records was long enough for a request: then no request was sent, however the connection ended.
//! A server that speaks no TLS at all may end it so, too.

use crate::cause::{Cause, Variant};
use crate::signal::{End, Nanos, Opening, Response};
use crate::track::host::MILLISECOND;

use super::finding::Finding;
use super::known::Known;
use super::unread;

/// No timer is set to less.
const AT_ONCE: Nanos = 20 * MILLISECOND;
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
        return unread::judged(
            finding,
            "request_sent: which of the encrypted bytes are the request",
        );
    }
    // Envoy gives up all that waits for any connection as one handshake fails.
    let given_up_at_once = attempt.unasked && waited(known) < AT_ONCE;
    let variant = match finding.cause {
        Cause::UpstreamClosedEarly | Cause::UpstreamReset => Some(Variant::PeerClosed),
        Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply | Cause::ReadTimeoutNeverAccepted
            if given_up_at_once =>
        {
            None
        }
        Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply => Some(Variant::Timeout),
        // What was not taken of a body was none.
        Cause::RequestBodyRejected if attempt.unasked => Some(Variant::PeerClosed),
        _ => return finding,
    };
    let finding = Finding {
        cause: Cause::TlsHandshakeFailed,
        ..finding
    };
    finding
        // Who answers and closes, or is closed, has refused or been refused: why is not to be read.
        .variant(variant.filter(|_| attempt.received == 0))
        .at_most_likely(REFUSED)
}

fn waited(known: &Known<'_>) -> Nanos {
    let attempt = known.attempt();
    let from = known.request().map_or(attempt.began, |r| r.at);
    known.tried.at.saturating_sub(from)
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
