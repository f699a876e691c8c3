//! `syn_backlog_full`: the listener dropped a connect's SYNs while its accept queue had room.
//!
//! Needs: a listener on this host, which counts its drops; the handshakes that it has under way; and that its
//! accept queue had room as long as the proxy waited. Whether cookies are off in its network namespace is not
//! seen: `likely` at most.
//!
//! Confused with `tcp_accept_queue_full`, whose drops the listener counts as well, and which leaves handshakes
//! half open where it drops their last packet. A queue that was full meanwhile and is not any more is told
//! within a second: before that nothing is claimed here.

use crate::cause::Cause;
use crate::signal::{Nanos, Queue};
use crate::track::host::MILLISECOND;

use super::finding::Finding;
use super::known::Known;

/// Queues are read each second.
const TOLD: Nanos = 900 * MILLISECOND;
/// Fewer are under way at any busy listener.
const MANY: u32 = 8;

pub(super) fn full(known: &Known<'_>, queue: &Queue) -> Option<Finding> {
    let half_open = queue.half_open?;
    let attempt = known.attempt();
    let waited = known.tried.at.saturating_sub(attempt.began);
    let sent = known
        .tcp()
        .map_or(1, |tcp| tcp.retransmits.saturating_add(1));
    let had_room = queue.length < queue.limit && !known.host().was_full_during(attempt);
    let many = half_open >= MANY && half_open > queue.length;
    let is = !queue.shared && had_room && many && queue.drops >= sent && waited >= TOLD;
    is.then(|| {
        Finding::likely(
            Cause::SynBacklogFull,
            "syn_cookies: whether net.ipv4.tcp_syncookies of the listener's network namespace is 0",
        )
        .settled()
    })
}
