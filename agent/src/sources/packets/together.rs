//! Connections that one server ended at one moment: a timer ends what has been idle for one time, a
//! process that dies all that it has, of whatever age.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::signal::{FlowId, Nanos};

use super::flow::{Direction, NONE, ahead};
use super::{AT_ONCE, MILLISECOND, Packets};

/// What a process has is closed within this time of its death.
const MOMENT: Nanos = AT_ONCE;
/// Timers are no more exact than this, or than a twentieth of their time.
const EXACT: Nanos = 20 * MILLISECOND;
/// Ends of one server remembered at once.
const KEPT: usize = 64;
/// Servers remembered at once: far more than end connections within a moment.
const SERVERS: usize = 4096;

/// For how long a connection had been idle when its server ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    For(Nanos),
    /// Since before the capture.
    AtLeast(Nanos),
    /// Not at all: a request had come, or an answer was not whole.
    Never,
}

impl Idle {
    /// No timer ended both.
    fn is_unlike(self, other: Idle) -> bool {
        let exact = |time: Nanos| EXACT.max(time / 20);
        match (self, other) {
            (Idle::For(a), Idle::For(b)) => a.abs_diff(b) > exact(a.max(b)),
            (Idle::AtLeast(a), Idle::For(b)) | (Idle::For(b), Idle::AtLeast(a)) => {
                a > b.saturating_add(exact(a))
            }
            (Idle::Never, Idle::Never) => false,
            (Idle::Never, _) | (_, Idle::Never) => true,
            (Idle::AtLeast(_), Idle::AtLeast(_)) => false,
        }
    }
}

struct Ended {
    at: Nanos,
    flow: u32,
    id: FlowId,
    /// Which of its sides is the server.
    side: usize,
    idle: Idle,
}

/// The latest ends, by server; each network namespace has a loopback of its own.
#[derive(Default)]
pub(super) struct Together {
    recent: FxHashMap<(SocketAddr, u32), VecDeque<Ended>>,
}

impl Together {
    /// What this server ended last; `None` where there is no room for another one.
    fn of(&mut self, server: (SocketAddr, u32), at: Nanos) -> Option<&mut VecDeque<Ended>> {
        if self.recent.len() >= SERVERS && !self.recent.contains_key(&server) {
            self.forget(at);
            if self.recent.len() >= SERVERS {
                return None;
            }
        }
        Some(self.recent.entry(server).or_default())
    }

    /// Forgets what is compared with nothing any more.
    pub(super) fn forget(&mut self, now: Nanos) {
        let recent = |ended: &Ended| ended.at.saturating_add(MOMENT) >= now;
        self.recent
            .retain(|_, ended| ended.back().is_some_and(recent));
    }
}

impl Packets {
    /// This side, a server as far as is known, ended the connection: notes it, and others that it ended
    /// at the same moment, where no timer did so.
    pub(super) fn server_ended(&mut self, index: u32, side: usize, idle: Idle, at: Nanos) {
        let flow = self.flows.at(index);
        let (id, server) = (flow.id, (flow.key.address(side), flow.key.space()));
        let Some(recent) = self.together.of(server, at) else {
            self.counts.evicted += 1;
            return;
        };
        let over = |first: &Ended| first.at.saturating_add(MOMENT) < at;
        while recent.front().is_some_and(over) {
            recent.pop_front();
        }
        let mut note = |index: u32, id: FlowId, side: usize| {
            if self.flows.peek(index).is_some_and(|flow| flow.id == id) {
                self.flows.at_mut(index).sides[side].set(Direction::TOGETHER);
            }
        };
        for other in recent.iter().filter(|other| other.idle.is_unlike(idle)) {
            note(other.flow, other.id, other.side);
            note(index, id, side);
        }
        if recent.len() >= KEPT
            && let Some(first) = recent.pop_front()
        {
            // What it will not be compared with may be unlike it.
            note(first.flow, first.id, first.side);
        }
        recent.push_back(Ended {
            at,
            flow: index,
            id,
            side,
            idle,
        });
    }

    /// The same of a connection whose client is known. A request that the end met was sent to one that had
    /// been idle until then.
    pub(super) fn ended_by_server(&mut self, index: u32, at: Nanos) {
        let flow = self.flows.at(index);
        let side = usize::from(flow.client ^ 1);
        let quiet = |since: Nanos| Idle::For(at.saturating_sub(since));
        let idle = if flow.oldest == NONE {
            match (flow.requests, flow.last_payload()) {
                (0, _) if flow.established_at != 0 => quiet(flow.established_at),
                // Nothing tells since when.
                (0, _) | (_, 0) => return,
                (_, last) => quiet(last),
            }
        } else {
            let exchange = self.exchanges.at(flow.oldest);
            let closed = flow.by_server();
            let unheard = flow.to_client().is(Direction::FIN)
                && exchange.first_byte_at == 0
                && ahead(exchange.start, closed.fin_ack) == 0;
            match exchange.idle() {
                Some(before) if unheard => quiet(exchange.at.saturating_sub(before)),
                _ => Idle::Never,
            }
        };
        self.server_ended(index, side, idle, at);
    }
}

#[cfg(test)]
mod tests {
    use super::Idle::{AtLeast, For, Never};
    use super::*;

    #[test]
    fn one_timer_ends_what_is_of_one_age() {
        const S: Nanos = 1000 * MILLISECOND;
        for (a, b, unlike) in [
            (For(5 * S), For(5 * S + S / 5), false),
            (For(5 * S), For(5 * S + S / 2), true),
            (For(110 * MILLISECOND), For(120 * MILLISECOND), false),
            (For(110 * MILLISECOND), For(0), true),
            (For(5 * S), Never, true),
            (AtLeast(9 * S), Never, true),
            (Never, Never, false),
            // It may have been so long.
            (For(5 * S), AtLeast(2 * S), false),
            (For(5 * S), AtLeast(9 * S), true),
            (AtLeast(S), AtLeast(9 * S), false),
        ] {
            assert_eq!(a.is_unlike(b), unlike, "{a:?} {b:?}");
            assert_eq!(b.is_unlike(a), unlike, "{b:?} {a:?}");
        }
    }
}
