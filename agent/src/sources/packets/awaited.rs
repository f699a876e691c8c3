//! Failed attempts whose response is still to come: kept, with their connections, until it is told or
//! as long as a proxy may try.

use crate::signal::Nanos;

use super::exchange::Exchange;
use super::{Packets, SETTLE, TRIED};

/// At once; more are counted, and not told of by themselves.
pub(super) const AWAITED: usize = 16_384;

impl Packets {
    /// Looks at a failed attempt again a moment later, since a response may still claim it. False
    /// where none came in all the time that a proxy may try for.
    pub(super) fn await_response(&mut self, id: u32, ended_at: Nanos) -> bool {
        if self.ending {
            // It is told last, if it is left.
            self.set_awaited(id);
        } else if self.now > ended_at + TRIED {
            return false;
        } else if self.set_awaited(id) {
            self.queue(id, self.now + SETTLE);
        }
        true
    }

    fn set_awaited(&mut self, id: u32) -> bool {
        if self.exchanges.at(id).is(Exchange::AWAITED) {
            return true;
        }
        if self.awaited >= AWAITED {
            self.counts.attempts += 1;
            return false;
        }
        self.awaited += 1;
        self.exchanges.at_mut(id).set(Exchange::AWAITED);
        true
    }

    pub(super) fn no_longer_awaited(&mut self, id: u32) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.is(Exchange::AWAITED) {
            exchange.clear(Exchange::AWAITED);
            self.awaited -= 1;
        }
    }
}
