//! Connections that are forgotten: old ones in turn, and for want of room.

use crate::signal::Nanos;

use super::exchange::Exchange;
use super::flow::{Flow, NONE};
use super::{Packets, SECOND};

impl Packets {
    /// Looks whether an old connection can go: one of them every few segments is enough.
    pub(super) fn sweep(&mut self) {
        const CLOSED: Nanos = 2 * SECOND;
        const HALF_OPEN: Nanos = 130 * SECOND;
        const IDLE: Nanos = 7200 * SECOND;
        let Some(at) = self.flows.turn() else { return };
        let flow = self.flows.at(at);
        if flow.seen_at + CLOSED >= self.now {
            return;
        }
        // Nothing more is found to be of a connection whose ports are used again.
        let left = flow.is(Flow::DETACHED) && !flow.is(Flow::SUSPECT);
        let patience = if flow.closed() || left {
            CLOSED
        } else if !flow.is(Flow::ESTABLISHED) && flow.requests == 0 {
            HALF_OPEN
        } else {
            IDLE
        };
        if flow.seen_at + patience < self.now && flow.queued == 0 {
            self.forget(at);
        }
    }

    /// Makes room: of the next connections in turn the one idle for longest goes.
    pub(super) fn evict(&mut self) {
        let mut victim: Option<(Nanos, u32)> = None;
        for _ in 0..64 {
            let Some(at) = self.flows.turn() else {
                continue;
            };
            let flow = self.flows.at(at);
            if flow.queued == 0 && victim.is_none_or(|(seen, _)| flow.seen_at < seen) {
                victim = Some((flow.seen_at, at));
            }
        }
        if let Some((_, at)) = victim {
            self.counts.evicted += 1;
            self.forget(at);
        }
    }

    pub(super) fn forget(&mut self, at: u32) {
        if self.flows.at(at).is(Flow::SUSPECT) {
            self.cleared(at);
        }
        let flow = self.flows.at(at);
        let mut id = flow.oldest;
        while id != NONE {
            let exchange = self.exchanges.at_mut(id);
            let next = exchange.next;
            exchange.set(Exchange::DONE);
            self.exchanges.release(id);
            id = next;
        }
        for side in 0..2 {
            self.drop_partial(at, side);
        }
        self.flows.remove(at);
    }
}
