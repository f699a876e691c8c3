//! Responses within connections: where each begins, what it says, and where it is over.

use crate::signal::{Nanos, Signal};
use crate::sources::wire;

use super::exchange::Exchange;
use super::flow::{Direction, Flow, NONE, before};
use super::http;
use super::parse::{Framing, Stage};
use super::talk::Bytes;
use super::{Packets, SECOND, SETTLE};

impl Packets {
    /// Takes some of a server's bytes; returns how many.
    pub(super) fn response_bytes(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        turn: bool,
        out: &mut Vec<Signal>,
    ) -> u32 {
        let flow = self.flows.at_mut(index);
        match flow.sides[sender].parse.stage {
            Stage::Start | Stage::Head => return self.response_head(index, sender, bytes, out),
            Stage::Opaque => {
                self.opaque_response(index, sender, bytes, turn);
                return bytes.length;
            }
            Stage::Tunnel => return bytes.length,
            Stage::Lost => {
                // Of a response that cannot be read, only that it began is known.
                let oldest = flow.oldest;
                if oldest != NONE {
                    self.first_byte(index, oldest, bytes, out);
                    self.unreadable(oldest, bytes.at);
                } else if wire::status(bytes.there).is_some() {
                    flow.set(Flow::EARLY);
                }
                return bytes.length;
            }
            _ => {}
        }
        let taken = flow.sides[sender].parse.skip(bytes.there, bytes.length);
        if flow.sides[sender].parse.stage == Stage::Start {
            self.finished(index);
        }
        taken
    }

    fn response_head(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        out: &mut Vec<Signal>,
    ) -> u32 {
        let flow = self.flows.at(index);
        if flow.oldest == NONE {
            // An answer to nothing that was seen; its status may count all the same.
            let status = wire::status(bytes.there);
            let told = flow.requests == 0 && status.is_some_and(|status| status >= 500);
            let flow = self.flows.at_mut(index);
            if status.is_some() {
                flow.set(Flow::EARLY);
            }
            if !told {
                let side = &mut flow.sides[sender];
                side.parse.stage = Stage::Lost;
                side.set(Direction::GAP);
                return bytes.length;
            }
            self.new_exchange(index, 1 - sender, bytes);
            let flow = self.flows.at_mut(index);
            flow.sides[1 - sender].parse.stage = Stage::Lost;
            let id = flow.oldest;
            self.exchanges.at_mut(id).set(Exchange::RESUMED);
        }
        let id = self.flows.at(index).oldest;
        self.first_byte(index, id, bytes, out);
        let joined = self.joined(index, sender, bytes.there);
        let whole = joined.as_deref().unwrap_or(bytes.there);
        let before = whole.len() - bytes.there.len();
        let Some(status) = wire::status(whole) else {
            let prefix = b"HTTP/1.".starts_with(&whole[..whole.len().min(7)]);
            if prefix && whole.len() < 12 && !bytes.is_cut() {
                let partial = whole.to_vec();
                self.keep_partial(index, sender, partial);
                return bytes.length;
            }
            if prefix {
                // Cut before the status.
                self.unreadable(id, bytes.at);
                self.drop_partial(index, sender as u8);
                self.flows.at_mut(index).sides[sender].parse.stage = Stage::Lost;
                return bytes.length;
            }
            let exchange = self.exchanges.at_mut(id);
            exchange.answer = Some(Box::new(wire::response(whole)));
            self.drop_partial(index, sender as u8);
            self.flows.at_mut(index).sides[sender].parse.stage = Stage::UntilClose;
            return bytes.length;
        };
        let bodyless = self.exchanges.at(id).is(Exchange::HEAD);
        let (framing, taken) = match http::head(whole) {
            Some(head) => {
                let taken = (head.length.saturating_sub(before)) as u32;
                (head.response_body(status, bodyless), taken)
            }
            None if bytes.is_cut() || whole.len() > http::LONGEST => {
                (Framing::Unknown, bytes.length)
            }
            None => {
                let partial = whole.to_vec();
                self.keep_partial(index, sender, partial);
                return bytes.length;
            }
        };
        self.drop_partial(index, sender as u8);
        if matches!(status, 100..=199) && status != 101 {
            self.flows.at_mut(index).sides[sender].parse.stage = match framing {
                Framing::Unknown => Stage::Lost,
                _ => Stage::Start,
            };
            return taken;
        }
        let exchange = self.exchanges.at_mut(id);
        exchange.status = status;
        exchange.answered_at = bytes.at;
        let tunnel = status == 101 || (exchange.is(Exchange::CONNECT) && status < 300);
        self.answered(index, id);
        let flow = self.flows.at_mut(index);
        if tunnel {
            for side in &mut flow.sides {
                side.parse.stage = Stage::Tunnel;
            }
            flow.set(Flow::OPAQUE);
            self.finished(index);
            return bytes.length;
        }
        flow.sides[sender].parse.body(framing);
        if flow.sides[sender].parse.stage == Stage::Start {
            self.finished(index);
        }
        taken
    }

    /// Something answered, which is all that is known.
    fn unreadable(&mut self, id: u32, at: Nanos) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.answered_at == 0 {
            exchange.answered_at = at;
            exchange.set(Exchange::RESUMED);
        }
    }

    /// Leaves requests whose answers must have come before the server's bytes up to here, and are
    /// missing, or were captured before the request. What comes next answers another one.
    pub(super) fn leave_unheard(&mut self, index: u32, upto: u32) {
        loop {
            let flow = self.flows.at(index);
            if flow.oldest == NONE || flow.is(Flow::OPAQUE) {
                return;
            }
            let oldest = self.exchanges.at(flow.oldest);
            if oldest.first_byte_at != 0 || oldest.answered_at != 0 || oldest.is(Exchange::BARE) {
                return;
            }
            // Of several on their way at once what was heard may be of an earlier one.
            let (alone, down) = (oldest.began_alone(), flow.to_client());
            let (heard, at) = match oldest.next {
                NONE => {
                    let came = before(oldest.ack, down.next) && flow.is(Flow::EARLY);
                    (alone && came && !down.incomplete(), oldest.at)
                }
                next => {
                    let next = self.exchanges.at(next);
                    let more = before(oldest.ack, next.ack) && !before(upto, next.ack);
                    (more && (alone || down.incomplete()), next.at)
                }
            };
            if !heard {
                return;
            }
            let id = flow.oldest;
            self.unreadable(id, at);
            self.finished(index);
        }
    }

    fn first_byte(&mut self, index: u32, id: u32, bytes: &Bytes<'_>, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.first_byte_at != 0 {
            return;
        }
        exchange.first_byte_at = bytes.at;
        exchange.response_start = bytes.seq;
        let waited = bytes.at.saturating_sub(exchange.at);
        if waited > SECOND && self.flows.at(index).is(Flow::UPSTREAM) {
            self.tell_stall(index, waited, bytes.at, out);
        }
    }

    /// The oldest exchange of a connection is over, well or not.
    pub(super) fn finished(&mut self, index: u32) {
        let flow = self.flows.at_mut(index);
        let id = flow.oldest;
        if id == NONE {
            return;
        }
        let next = self.exchanges.at(id).next;
        flow.oldest = next;
        self.exchanges.answered(id, self.now);
    }

    /// A response's head is there: failed responses, and those that others tried for, are judged.
    fn answered(&mut self, index: u32, id: u32) {
        // A client that had closed its sending side was still there.
        self.exchanges.at_mut(id).ended = None;
        let exchange = self.exchanges.at(id);
        let (status, at) = (exchange.status, exchange.answered_at);
        let wanted = status >= 500 || exchange.is(Exchange::ATTEMPTED) || self.has_suspects(index);
        if wanted {
            self.answer_came(id, at);
            self.queue(id, at + SETTLE);
        }
    }
}
