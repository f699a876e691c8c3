//! `syn_backlog_full`: the listener dropped a connect's SYNs while its accept queue had room.
//!
//! Needs: a listener on this host, which counts its drops; that its accept queue had room as long as the proxy
//! waited; the handshakes that it has under way, and from how many on its network namespace has SYNs dropped.
//! How many there were at the moment of the drops is not seen: `likely` at most. Where the settings cannot be
//! read, neither is whether so many are too many.
//!
//! Confused with `tcp_accept_queue_full`, whose drops the listener counts as well, and which leaves handshakes
//! half open where it drops their last packet. A queue that was full meanwhile and is not any more is told
//! within a second: before that nothing is claimed here.

use crate::cause::Cause;
use crate::signal::{Nanos, Queue, SynSettings};
use crate::track::host::MILLISECOND;

use super::finding::Finding;
use super::known::Known;

/// Queues are read each second.
const TOLD: Nanos = 900 * MILLISECOND;
/// Fewer are under way at any busy listener.
const MANY: u32 = 8;

pub(super) fn full(known: &Known<'_>, queue: &Queue) -> Option<Finding> {
    let half_open = queue.half_open?;
    let (enough, missing) = match queue.syn_settings {
        Some(settings) => (
            dropped_from(queue, settings)?,
            "syn_backlog: how many handshakes were half open at the moment of the drops; counted right after",
        ),
        None => (
            MANY,
            "syn_backlog: net.ipv4.tcp_max_syn_backlog and net.ipv4.tcp_syncookies of the listener's network namespace could not be read",
        ),
    };
    let attempt = known.attempt();
    let waited = known.tried.at.saturating_sub(attempt.began);
    let sent = known
        .tcp()
        .map_or(1, |tcp| tcp.retransmits.saturating_add(1));
    let had_room = queue.length < queue.limit && !known.host().was_full_during(attempt);
    let many = half_open >= enough && half_open > queue.length;
    let is = !queue.shared && had_room && many && queue.drops >= sent && waited >= TOLD;
    is.then(|| Finding::likely(Cause::SynBacklogFull, missing).settled())
}

/// With so many half open a listener drops the next SYN; `None`: it answers with a cookie. The last quarter of
/// the namespace's limit is for hosts known to be alive, which a caller need not be; the accept queue's limit is
/// another (`tcp_conn_request`).
pub(super) fn dropped_from(queue: &Queue, settings: SynSettings) -> Option<u32> {
    let most = settings.max_backlog;
    let from = (most - most / 4).saturating_add(1).min(queue.limit);
    (settings.cookies == 0).then_some(from)
}
