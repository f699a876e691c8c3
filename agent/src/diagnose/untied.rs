//! `connection_refused`, `host_unreachable` and `connect_timeout` where several connects ended alike
//! at the time of a response, and nothing tells which was its own.
//!
//! Needs: that all of them ended alike, whichever it was; or that the proxy gave up after the time
//! after which it gave up others. Never proven: what the capture lacks may have ended alike, too.
//!
//! Confused with an attempt on a Unix socket, of which a capture shows nothing.

use crate::cause::{Cause, Variant};
use crate::signal::{End, Source, Untied};

use super::finding::Finding;
use super::{connect, text};

pub(super) fn diagnose(untied: &Untied, source: Source) -> Finding {
    let link = match untied.captured {
        true => "exchange_link: which of several connects was made for this request",
        false => "exchange_link: no connect for this request is in the capture",
    };
    let finding = match untied.end {
        End::ConnectFailed { errno: 111 } => Finding::likely(Cause::ConnectionRefused, link),
        End::ConnectFailed {
            errno: 100 | 101 | 112 | 113,
        } => Finding::likely(Cause::HostUnreachable, link),
        End::ConnectFailed { errno } => connect::unnamed(errno).also_missing(link),
        _ => Finding::likely(
            Cause::ConnectTimeout,
            "accept_queue: the upstream's listener is on another host, or could not be seen",
        )
        .variant(Variant::UnknownPath)
        .also_missing(link),
    };
    let to: Vec<String> = untied.upstreams.iter().map(|a| text::clean(&a.0)).collect();
    let to = to.join(", ");
    let waited = text::duration(untied.waited_ns);
    let (name, text) = match (untied.end, untied.captured) {
        (End::ConnectFailed { errno }, _) => (
            "connects_failed",
            format!("to {to}: {}", text::errno(errno)),
        ),
        (_, true) => (
            "connects_unanswered",
            format!("to {to}, for {waited}: one of them was this request's"),
        ),
        (_, false) => (
            "connects_unanswered",
            format!("to {to}, for {waited}, which is how long this request waited as well"),
        ),
    };
    finding.fact_at(untied.at, source, name, text).settled()
}
