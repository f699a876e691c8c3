//! How connections end: under a request, after an answer, or idle.

use crate::signal::{ClosedBy, End, Nanos, Signal};
use crate::sources::wire;

use super::exchange::{Ended, Exchange};
use super::flow::{Direction, Flow, NONE, ahead, before};
use super::together::Idle;
use super::{Packets, SETTLE};

impl Packets {
    /// The connection ended under its oldest request.
    pub(super) fn failed(&mut self, index: u32, how: End, at: Nanos) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        if id == NONE || self.exchanges.at(id).ended.is_some() {
            return;
        }
        let exchange = self.exchanges.at(id);
        let how = match how {
            End::GivenUp if exchange.is(Exchange::BARE) => End::ConnectGivenUp,
            how => how,
        };
        let (up, down) = (flow.to_server(), flow.to_client());
        let acked = if up.is(Direction::ACKED) {
            ahead(exchange.start, up.acked)
        } else {
            0
        };
        let received = if exchange.first_byte_at != 0 {
            ahead(exchange.response_start, down.next)
        } else {
            0
        };
        let begun = || self.partial.get(&(index, flow.client ^ 1));
        let response = match &exchange.answer {
            Some(answer) => Some((**answer).clone()),
            None => begun().map(|head| wire::response(head)),
        };
        let ended = Ended {
            at,
            how,
            acked,
            retransmits: flow.by_client().retransmits,
            zero_window: down.window == 0 && before(up.acked, up.next),
            received,
            response,
        };
        self.exchanges.at_mut(id).ended = Some(Box::new(ended));
        self.keep_unread(id, at);
        self.mark_downstream(id);
        self.queue(id, at + SETTLE);
    }

    /// A side closed its sending half.
    pub(super) fn closed(&mut self, index: u32, sender: usize, at: Nanos, out: &mut Vec<Signal>) {
        let flow = self.flows.at(index);
        if !flow.is(Flow::ORIENTED) {
            return self.ended_unused(index, sender, at);
        }
        let by_server = sender != usize::from(flow.client);
        self.ended(index, by_server, false, at, out);
    }

    /// By either; it was idle for as long as is captured.
    pub(super) fn ended_unused(&mut self, index: u32, sender: usize, at: Nanos) {
        let idle = Idle::AtLeast(at.saturating_sub(self.began));
        self.server_ended(index, sender, idle, at);
    }

    pub(super) fn was_reset(
        &mut self,
        index: u32,
        by_server: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        self.ended(index, by_server, true, at, out);
        let flow = self.flows.at(index);
        // A reset that follows the end changes nothing more here.
        if flow.oldest == NONE {
            return;
        }
        self.over(index, at);
    }

    fn ended(
        &mut self,
        index: u32,
        by_server: bool,
        reset: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        let first = !flow.is(Flow::OVER);
        // Of an answer that only its connection's end ends nothing more was to come.
        let whole = id != NONE
            && self.exchanges.at(id).answered_at != 0
            && !flow.to_client().parse.is_cut_short();
        if first && by_server && !whole {
            self.ended_by_server(index, at);
        }
        if id == NONE {
            self.flows.at_mut(index).set(Flow::OVER);
            if first {
                self.idle_closed(index, by_server, reset, at, out);
            }
            return;
        }
        let exchange = self.exchanges.at(id);
        if exchange.answered_at != 0 && !exchange.is(Exchange::DOUBTFUL) {
            // Its response ended with the connection, or was cut short.
            if by_server || reset {
                self.flows.at_mut(index).set(Flow::OVER);
                self.finished(index);
            }
            return;
        }
        let how = match (by_server, reset) {
            (true, false) => End::PeerClosed,
            (true, true) => End::Reset,
            (false, _) => End::GivenUp,
        };
        self.flows.at_mut(index).set(Flow::OVER);
        if how == End::GivenUp && self.was_farewell(index, id, at) {
            return self.finished(index);
        }
        self.failed(index, how, at);
    }

    /// Nothing more will come on this connection.
    pub(super) fn over(&mut self, index: u32, at: Nanos) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        if id != NONE
            && self.exchanges.at(id).status == 0
            && self.exchanges.at(id).opening.is_none()
        {
            self.failed(index, End::GivenUp, at);
        }
        while self.flows.at(index).oldest != NONE {
            self.finished(index);
        }
    }

    fn idle_closed(
        &mut self,
        index: u32,
        by_server: bool,
        reset: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at(index);
        if flow.requests == 0 || flow.is(Flow::OPAQUE) || flow.last_payload() == 0 {
            return;
        }
        let (client, server) = (flow.client_ip(), flow.server());
        let upstream = flow.is(Flow::UPSTREAM)
            || self.hosts.is_proxys(client)
            // The server first: there are few, and what is known of them is at hand.
            || (self.hosts.configured.is_empty()
                && !self.hosts.asks_beside(server.ip(), server)
                && !self.hosts.serves_beside(client, server));
        if upstream {
            let by = if by_server {
                ClosedBy::Upstream
            } else {
                ClosedBy::Proxy
            };
            self.tell_idle_close(index, by, reset, at, out);
        }
    }
}
