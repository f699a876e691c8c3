//! Follows connections segment by segment: order, repetition, acknowledgements, and how they end.

use std::net::SocketAddr;

use crate::signal::{Nanos, Signal};

use super::flow::{Direction, Flow, Key, ahead, before, flow_id};
use super::reorder::Held;
use super::segment::{Segment, Unreachable};
use super::serving::bit;
use super::{MILLISECOND, Packets};

/// The same bytes again sooner than this are the same packet, captured twice: no retransmission
/// timer is that short.
const REPEATED: Nanos = 2 * MILLISECOND;
/// One old connection is looked at for so many segments; a connection has more than that.
const SWEEP: u32 = 4;
/// A reset or an acknowledgement further off than this belongs to another connection.
const NEAR: u32 = 1 << 24;

impl Packets {
    /// Takes in one segment; what it makes known goes to `out`.
    pub fn segment(&mut self, segment: &Segment<'_>, out: &mut Vec<Signal>) {
        let at = self.clock(segment.at, out);
        self.segments = self.segments.wrapping_add(1);
        if self.segments.is_multiple_of(SWEEP) {
            self.sweep();
        }
        let (key, sender) = self.key(segment.from, segment.to);
        let hash = key.hash();
        let flags = segment.flags;
        let index = match self.flows.find(&key, hash) {
            Some(index) => index,
            // What cannot begin anything is not worth an entry.
            None if !flags.syn() && segment.length == 0 && !flags.fin() => return,
            None if flags.rst() => return,
            None => self.open(key, at),
        };
        let index = if flags.syn() && !flags.rst() {
            match self.syn(index, sender, segment, at) {
                Some(index) => index,
                None => return,
            }
        } else {
            index
        };
        let flow = self.flows.at_mut(index);
        flow.seen_at = flow.seen_at.max(at);
        flow.seen_in |= bit(self.space);
        if flow.is(Flow::TWIN) {
            return;
        }
        if flags.ack() && !flags.rst() {
            acknowledge(&mut flow.sides[1 - sender], segment.ack);
            if !flow.is(Flow::ESTABLISHED) && !flags.syn() {
                self.established(index, sender, at);
            }
        }
        let flow = self.flows.at_mut(index);
        if flags.rst() {
            self.reset(index, sender, segment, at, out);
            return;
        }
        flow.sides[sender].window = segment.window;
        // Data with a SYN is rare, and the SYN takes the first sequence number.
        if segment.length > 0 || flags.fin() {
            let seq = segment.seq.wrapping_add(u32::from(flags.syn()));
            self.data(index, sender, seq, segment, at, out);
        }
    }

    /// A router or the host said that a segment could not be delivered.
    pub fn unreachable(&mut self, error: &Unreachable, out: &mut Vec<Signal>) {
        let at = self.clock(error.at, out);
        let (key, sender) = self.key(error.from, error.to);
        let Some(index) = self.flows.find(&key, key.hash()) else {
            return;
        };
        let flow = self.flows.at(index);
        let side = &flow.sides[sender];
        // The quoted segment has to be this connection's own SYN.
        let syn = side.is(Direction::SYN) && error.seq == side.next.wrapping_sub(1);
        if syn && !flow.is(Flow::ESTABLISHED) && !flow.is(Flow::TWIN) {
            self.connect_failed(index, error.errno, at);
        }
    }

    /// Nearly always there is one namespace, and nothing to look at.
    #[inline]
    fn key(&self, from: SocketAddr, to: SocketAddr) -> (Key, usize) {
        let (key, sender) = Key::new(from, to);
        match self.space {
            0 => (key, sender),
            space => (key.within(space), sender),
        }
    }

    fn open(&mut self, key: Key, at: Nanos) -> u32 {
        if self.flows.is_full() {
            self.evict();
        }
        self.ids += 1;
        let id = flow_id(self.ids, &key);
        let mut flow = Flow::new(key, id, at);
        flow.set(Flow::JOINED);
        self.flows.insert(flow)
    }

    /// A SYN begins a connection, repeats its beginning, or answers one. `None`: nothing more to do.
    fn syn(&mut self, mut index: u32, sender: usize, s: &Segment<'_>, at: Nanos) -> Option<u32> {
        let flow = self.flows.at(index);
        let side = &flow.sides[sender];
        let begins = s.seq.wrapping_add(1);
        if side.is(Direction::SYN) && side.start == begins {
            return self.repeated_syn(index, sender, s, at);
        }
        // Other sequence numbers: the ports are used again.
        let fresh = flow.spoke == 2 && !side.is(Direction::FOLLOWED | Direction::SYN);
        let answers = s.flags.ack() && flow.sides[1 - sender].is(Direction::SYN);
        let answers = answers && flow.sides[1 - sender].start == s.ack;
        if !(fresh && (answers || !flow.sides[1 - sender].is(Direction::FOLLOWED))) {
            self.over(index, at);
            self.flows.detach(index);
            index = self.open(self.key(s.from, s.to).0, at);
        }
        let client = if s.flags.ack() { 1 - sender } else { sender };
        let flow = self.flows.at_mut(index);
        let first = !flow.is(Flow::ORIENTED);
        flow.client = client as u8;
        flow.set(Flow::ORIENTED);
        flow.bits &= !Flow::JOINED;
        let side = &mut flow.sides[sender];
        side.set(Direction::SYN | Direction::FOLLOWED);
        side.next = begins;
        side.start = begins;
        side.parse.message = begins;
        side.parse.stage = super::http::Stage::Start;
        if s.flags.ack() {
            let other = &mut flow.sides[client];
            if !other.is(Direction::FOLLOWED) {
                // The client's own SYN is not in the capture.
                other.set(Direction::FOLLOWED);
                other.next = s.ack;
                other.parse.message = s.ack;
                other.parse.stage = super::http::Stage::Start;
            }
        }
        if flow.syn_at == 0 {
            flow.syn_at = at;
            flow.syns = 1;
        }
        let (from, to) = (flow.client(), flow.server());
        if first {
            self.hosts.connection(from, to);
        }
        if !s.flags.ack() && !self.is_twin(index, u64::from(s.seq) << 1 | 1, at) {
            self.connecting(index, at);
        }
        Some(index)
    }

    /// The same SYN again: sent again, or captured twice.
    fn repeated_syn(
        &mut self,
        index: u32,
        sender: usize,
        s: &Segment<'_>,
        at: Nanos,
    ) -> Option<u32> {
        let flow = self.flows.at_mut(index);
        let again = at.saturating_sub(flow.seen_at) > REPEATED;
        flow.seen_at = flow.seen_at.max(at);
        let waits = !flow.is(Flow::ESTABLISHED | Flow::TWIN) && flow.client as usize == sender;
        if again && waits && !s.flags.ack() && flow.reset_at == 0 {
            flow.syns = flow.syns.saturating_add(1);
            let unanswered = !flow.sides[1 - sender].is(Direction::SYN);
            if unanswered && !flow.is(Flow::SUSPECT) {
                self.suspect(index);
            }
        }
        None
    }

    /// Whether the connection is one that is followed under other addresses; then they are noted.
    pub(super) fn is_twin(&mut self, index: u32, key: u64, at: Nanos) -> bool {
        let Some(other) = self.hosts.handshake(key, at, index) else {
            return false;
        };
        let Some(other) = self.flows.peek(other) else {
            return false;
        };
        let this = self.flows.at(index);
        let (mine, theirs) = (
            (this.client(), this.server()),
            (other.client(), other.server()),
        );
        // Translation changes one end, or the ports of none.
        let alike = mine != theirs
            && (mine.0.port() == theirs.0.port() || mine.1.port() == theirs.1.port());
        if alike {
            self.hosts.translated(mine.0.ip(), theirs.0.ip());
            self.hosts.translated(mine.1.ip(), theirs.1.ip());
            self.flows.at_mut(index).set(Flow::TWIN);
        }
        alike
    }

    fn established(&mut self, index: u32, sender: usize, at: Nanos) {
        let flow = self.flows.at_mut(index);
        let whole = flow.sides.iter().all(|side| side.is(Direction::SYN));
        if whole && sender == usize::from(flow.client) {
            flow.set(Flow::ESTABLISHED);
            flow.established_at = at;
            if flow.syns == 1 {
                let took = at.saturating_sub(flow.syn_at) / 1000;
                flow.round_trip_us = u32::try_from(took).unwrap_or(u32::MAX);
            }
            if flow.is(Flow::SUSPECT) {
                self.cleared(index);
            }
        }
    }

    fn data(
        &mut self,
        index: u32,
        sender: usize,
        seq: u32,
        s: &Segment<'_>,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at_mut(index);
        let side = &mut flow.sides[sender];
        let fin = s.flags.fin();
        if !side.is(Direction::FOLLOWED) {
            side.set(Direction::FOLLOWED);
            side.next = seq;
            side.parse.message = seq;
        }
        if s.length > 0 && !flow.is(Flow::ORIENTED) {
            self.orient(index, sender, s.payload);
            let key = u64::from(seq) << 32 | u64::from(s.ack);
            if self.is_twin(index, (key ^ u64::from(s.length) << 17) & !1, at) {
                return;
            }
        }
        let flow = self.flows.at_mut(index);
        let side = &mut flow.sides[sender];
        let old = ahead(seq, side.next);
        if old == 0 && seq != side.next {
            let held = Held {
                flow: index,
                side: sender,
                seq,
                ack: s.ack,
                fin,
                at,
                length: s.length,
                payload: s.payload.to_vec(),
            };
            side.set(Direction::HELD);
            if !self.reorder.hold(held) {
                self.drain(index, sender, true, out);
            }
            return;
        }
        if old > 0 && old >= s.length {
            // A keep-alive probe repeats the last byte, or none.
            let probe = s.length <= 1;
            if s.length > 0 && !probe && at.saturating_sub(side.last_at) > REPEATED {
                side.retransmits = side.retransmits.saturating_add(1);
            }
            let new_fin = fin && !side.is(Direction::FIN) && old == s.length;
            if !new_fin {
                return;
            }
        }
        let old = old.min(s.length);
        let payload = s.payload.get(old as usize..).unwrap_or_default();
        let length = s.length - old;
        let seq = seq.wrapping_add(old);
        self.in_order(index, sender, seq, s.ack, payload, length, fin, at, out);
        if self.flows.at(index).sides[sender].is(Direction::HELD) {
            self.drain(index, sender, false, out);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a segment's parts, with its payload cut"
    )]
    fn in_order(
        &mut self,
        index: u32,
        sender: usize,
        seq: u32,
        ack: u32,
        payload: &[u8],
        length: u32,
        fin: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        if length > 0 {
            self.payload(index, sender, seq, ack, payload, length, at, out);
            let flow = self.flows.at_mut(index);
            flow.spoke = sender as u8;
            let side = &mut flow.sides[sender];
            side.next = seq.wrapping_add(length);
            side.last_at = side.last_at.max(at);
        }
        let side = &mut self.flows.at_mut(index).sides[sender];
        if fin && !side.is(Direction::FIN) {
            side.set(Direction::FIN);
            side.fin_seq = side.next;
            side.fin_ack = ack;
            side.fin_at = at;
            self.closed(index, sender, at, out);
        }
    }

    /// Takes up what waited for bytes that came, or with `force` what will wait no longer.
    pub(super) fn drain(&mut self, index: u32, sender: usize, force: bool, out: &mut Vec<Signal>) {
        loop {
            let Some(flow) = self.flows.peek(index) else {
                while self.reorder.take(index, sender, 0, true).is_some() {}
                return;
            };
            let next = flow.sides[sender].next;
            let Some(held) = self.reorder.take(index, sender, next, force) else {
                break;
            };
            let missing = ahead(next, held.seq);
            if missing > 0 {
                self.gap(index, sender, missing);
            }
            let old = ahead(held.seq, next).min(held.length);
            if old < held.length || held.fin {
                let payload = held.payload.get(old as usize..).unwrap_or_default();
                let seq = held.seq.wrapping_add(old);
                let length = held.length - old;
                self.in_order(
                    index, sender, seq, held.ack, payload, length, held.fin, held.at, out,
                );
            }
        }
        let left = self.reorder.waits(index, sender);
        if !left && self.flows.peek(index).is_some() {
            self.flows.at_mut(index).sides[sender].clear(Direction::HELD);
        }
    }

    fn gap(&mut self, index: u32, sender: usize, missing: u32) {
        self.counts.gaps += 1;
        self.drop_partial(index, sender as u8);
        let side = &mut self.flows.at_mut(index).sides[sender];
        side.set(Direction::GAP);
        side.parse.gap(missing);
        side.next = side.next.wrapping_add(missing);
    }

    fn reset(
        &mut self,
        index: u32,
        sender: usize,
        s: &Segment<'_>,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        for side in 0..2 {
            if self.flows.at(index).sides[side].is(Direction::HELD) {
                self.drain(index, side, true, out);
            }
        }
        let flow = self.flows.at_mut(index);
        if flow.reset_at != 0 || !flow.is(Flow::ORIENTED) {
            return;
        }
        let by_server = sender != usize::from(flow.client);
        let (mine, other) = (&flow.sides[sender], &flow.sides[1 - sender]);
        if by_server && !mine.is(Direction::FOLLOWED) {
            // The answer to a SYN.
            let unused = flow.spoke == 2 && !flow.is(Flow::ESTABLISHED);
            let syn = other.is(Direction::SYN) && s.ack == other.start && unused;
            let refused = s.flags.ack() && syn;
            if refused {
                self.connect_failed(index, 111, at);
            }
            return;
        }
        if mine.is(Direction::FOLLOWED)
            && s.seq
                .wrapping_sub(mine.next)
                .min(mine.next.wrapping_sub(s.seq))
                > NEAR
        {
            return;
        }
        flow.reset_at = at;
        flow.set(if by_server {
            Flow::RESET_BY_SERVER
        } else {
            Flow::RESET_BY_CLIENT
        });
        if s.flags.ack() {
            flow.set(Flow::RESET_ACK);
            flow.reset_ack = s.ack;
        }
        self.was_reset(index, by_server, at, out);
    }
}

fn acknowledge(side: &mut Direction, ack: u32) {
    if !side.is(Direction::ACKED) {
        side.set(Direction::ACKED);
        side.acked = ack;
    } else if before(side.acked, ack) && ack.wrapping_sub(side.acked) < NEAR * 64 {
        side.acked = ack;
    }
}
