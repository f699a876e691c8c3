//! `unix_socket_missing`, `…_refused`, `…_denied`, `…_wrong_type`, `unix_accept_queue_full`: connect()
//! on a Unix socket failed.
//!
//! Needs: the errno of the connect call. On a Unix socket it is the kernel's whole answer, given at
//! once: EAGAIN has no other reason than a full queue. The queue's length and limit are evidence;
//! if they were measured later they may have changed.

use crate::cause::Cause;

use super::connect;
use super::finding::Finding;
use super::known::Known;
use super::text;

pub(super) fn failed(known: &Known<'_>, errno: i32) -> Finding {
    match errno {
        2 => connect::maybe_starting(known, Finding::proven(Cause::UnixSocketMissing)),
        111 => Finding::proven(Cause::UnixSocketRefused),
        13 => Finding::proven(Cause::UnixSocketDenied),
        91 => Finding::proven(Cause::UnixSocketWrongType),
        11 => queue_full(known),
        // A part of the path is no directory.
        20 => Finding::likely(
            Cause::UnixSocketMissing,
            "path: a part of it is not a directory",
        )
        .settled(),
        23 | 24 => Finding::proven(Cause::ProxyFdsExhausted),
        _ => connect::unnamed(errno),
    }
}

fn queue_full(known: &Known<'_>) -> Finding {
    let finding = Finding::proven(Cause::UnixAcceptQueueFull);
    match &known.attempt().queue {
        Some(queue) if !queue.later && queue.length < queue.limit => {
            finding.at_most_likely(format!(
                "accept_queue: it was seen with {} of {} only",
                queue.length, queue.limit
            ))
        }
        _ => finding,
    }
}

/// The proxy waited in connect(): only a blocking one can, and only for room in the queue.
pub(super) fn given_up(known: &Known<'_>) -> Finding {
    match &known.attempt().queue {
        Some(queue) if queue.length > queue.limit => Finding::proven_if(
            !queue.later,
            Cause::UnixAcceptQueueFull,
            "accept_queue: measured later",
        )
        .settled(),
        _ => Finding::unknown(format!(
            "connect_result: connect() had not returned; {}",
            text::clean(&known.attempt().upstream.0)
        ))
        .settled(),
    }
}
