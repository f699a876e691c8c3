//! Follows connections segment by segment: order, repetition, acknowledgements, resets.

use std::net::SocketAddr;

use crate::signal::{Nanos, Signal};

use super::flow::{Direction, Flow, NONE, ahead, before};
use super::key::{Key, flow_id};
use super::reorder::Held;
use super::segment::{Segment, Unreachable};
use super::serving::bit;
use super::stream::Place;
use super::talk::Bytes;
use super::{MILLISECOND, Packets};

/// The same bytes again sooner than this are the same packet, captured twice: no retransmission
/// timer is that short.
pub(super) const REPEATED: Nanos = 2 * MILLISECOND;
/// One old connection is looked at for so many segments; a connection has more than that.
pub(super) const SWEEP: u32 = 4;
/// A reset or an acknowledgement further off than this belongs to another connection.
pub(super) const NEAR: u32 = 1 << 24;

impl Packets {
    #[inline]
    pub(super) fn follow(
        &mut self,
        segment: &Segment<'_>,
        place: &Place,
        next: Option<&Segment<'_>>,
        out: &mut Vec<Signal>,
    ) {
        let stamp = |s: &Segment<'_>| (s.at, s.frame.interface);
        let at = self.clock(stamp(segment), next.map(stamp), out);
        self.segments = self.segments.wrapping_add(1);
        if self.segments.is_multiple_of(SWEEP) {
            self.sweep();
        }
        let known = place.index.filter(|at| self.flows.holds(*at, &place.key));
        let plain = |index| self.plain(index, place.sender, segment, at);
        if !known.is_some_and(plain) {
            self.any(known, place, segment, at, out);
        }
    }

    /// What most segments are: an acknowledgement on an established connection, alone or with more
    /// of a body. False where the segment is something else; then nothing has been done.
    #[inline]
    fn plain(&mut self, index: u32, sender: usize, s: &Segment<'_>, at: Nanos) -> bool {
        if self.several_spaces {
            return false;
        }
        let flow = self.flows.at_mut(index);
        let established = flow.bits & (Flow::ESTABLISHED | Flow::TWIN) == Flow::ESTABLISHED;
        if !s.flags.only_acknowledge() || !established {
            return false;
        }
        let end = s.seq.wrapping_add(s.length);
        let side = &mut flow.sides[sender];
        if s.length > 0 {
            let followed = side.bits & (Direction::FOLLOWED | Direction::HELD);
            let in_order = followed == Direction::FOLLOWED && s.seq == side.next;
            if !in_order || !side.parse.within_body(s.length) {
                return false;
            }
            side.next = end;
            side.last_at = side.last_at.max(at);
            flow.spoke = sender as u8;
        }
        side.window = s.window;
        acknowledge(&mut flow.sides[1 - sender], s.ack);
        flow.seen_at = flow.seen_at.max(at);
        if s.length > 0 {
            self.body(index, sender, end);
        }
        true
    }

    fn any(
        &mut self,
        known: Option<u32>,
        place: &Place,
        segment: &Segment<'_>,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let Place { key, sender, .. } = *place;
        let flags = segment.flags;
        let index = match known.or_else(|| self.flows.find(&key, place.hash)) {
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
        if self.several_spaces {
            flow.seen_in |= bit(self.space);
        }
        if flow.is(Flow::TWIN) {
            return;
        }
        if flags.rst() {
            self.reset(index, sender, segment, at, out);
            return;
        }
        let index = match self.is_anothers(index, sender, segment) {
            false => index,
            true => {
                // The ports are used again, and how that began is not in the capture.
                self.over(index, at);
                self.flows.detach(index);
                self.open(key, at)
            }
        };
        let flow = self.flows.at_mut(index);
        if flags.ack() {
            let known = flow.sides[1 - sender].acked;
            if flags.syn() && !flow.may_acknowledge(sender, known) {
                flow.sides[1 - sender].clear(Direction::ACKED);
            }
            if flow.may_acknowledge(sender, segment.ack) {
                acknowledge(&mut flow.sides[1 - sender], segment.ack);
            }
            if !flow.is(Flow::ESTABLISHED) && !flags.syn() {
                self.established(index, sender, at);
            }
        }
        let flow = self.flows.at_mut(index);
        flow.sides[sender].window = segment.window;
        // Data with a SYN is rare, and the SYN takes the first sequence number.
        if segment.length > 0 || flags.fin() {
            let seq = segment.seq.wrapping_add(u32::from(flags.syn()));
            self.data(index, sender, seq, segment, at, out);
        }
    }

    /// Whether these bytes cannot be of this connection: they lie behind its end, or it is idle or over
    /// and they are nowhere near.
    fn is_anothers(&self, index: u32, sender: usize, s: &Segment<'_>) -> bool {
        let flow = self.flows.at(index);
        let side = &flow.sides[sender];
        if s.length == 0 || s.flags.syn() || !side.is(Direction::FOLLOWED) {
            return false;
        }
        let behind = ahead(s.seq, side.next) > NEAR;
        let beyond = ahead(side.next, s.seq) > NEAR;
        let past_end = side.is(Direction::FIN) && before(flow.bounds[sender].fin_seq, s.seq);
        past_end || (behind && flow.oldest == NONE) || ((behind || beyond) && flow.closed())
    }

    /// A router or the host said that a segment could not be delivered.
    pub fn unreachable(&mut self, error: &Unreachable, out: &mut Vec<Signal>) {
        let at = self.clock((error.at, error.frame.interface), None, out);
        let (key, sender) = self.key(error.from, error.to);
        let Some(index) = self.flows.find(&key, self.flows.hash(&key)) else {
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
    pub(super) fn key(&self, from: SocketAddr, to: SocketAddr) -> (Key, usize) {
        let (key, sender) = Key::new(from, to);
        match self.space {
            0 => (key, sender),
            space => (key.within(space), sender),
        }
    }

    pub(super) fn open(&mut self, key: Key, at: Nanos) -> u32 {
        if self.flows.is_full() {
            self.evict();
        }
        self.ids += 1;
        let id = flow_id(self.ids, &key);
        let index = self.flows.insert(key, id, at);
        self.flows.at_mut(index).seen_in = bit(self.space);
        index
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
        }
        if s.length > 0 && !flow.is(Flow::ORIENTED) {
            self.orient(index, sender, s.payload);
            let key = u64::from(seq) << 32 | u64::from(s.ack);
            if self.is_twin(index, (key ^ u64::from(s.length) << 17) & !1, (at, s.at)) {
                return;
            }
        }
        let other = &self.flows.at(index).sides[1 - sender];
        if other.is(Direction::HELD) && s.flags.ack() && before(other.next, s.ack) {
            // Who sends this has what is waited for: it is missing, and what came after it came first.
            self.drain(index, 1 - sender, true, out);
        }
        let bytes = Bytes {
            seq,
            ack: s.ack,
            there: s.payload,
            length: s.length,
            at,
        };
        let flow = self.flows.at_mut(index);
        let side = &mut flow.sides[sender];
        let old = ahead(seq, side.next);
        if old == 0 && seq != side.next {
            side.set(Direction::HELD);
            let held = Held::new(index, sender, &bytes, fin);
            if !self.reorder.hold(held) {
                self.drain(index, sender, true, out);
            }
            return;
        }
        if old > 0 && old >= s.length {
            // A keep-alive probe repeats the last byte, or none.
            let probe = s.length <= 1;
            if s.length > 0 && !probe && at.saturating_sub(side.last_at) > REPEATED {
                let bounds = &mut flow.bounds[sender];
                bounds.retransmits = bounds.retransmits.saturating_add(1);
            }
            let new_fin = fin && !side.is(Direction::FIN) && old == s.length;
            if !new_fin {
                return;
            }
        }
        let held = side.is(Direction::HELD);
        self.in_order(index, sender, &bytes.after(old.min(s.length)), fin, out);
        if held {
            self.drain(index, sender, false, out);
        }
    }

    #[inline]
    fn in_order(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        fin: bool,
        out: &mut Vec<Signal>,
    ) {
        if bytes.length > 0 {
            self.payload(index, sender, bytes, out);
            let flow = self.flows.at_mut(index);
            flow.spoke = sender as u8;
            let side = &mut flow.sides[sender];
            side.next = bytes.seq.wrapping_add(bytes.length);
            side.last_at = side.last_at.max(bytes.at);
        }
        if fin {
            self.fin(index, sender, bytes, out);
        }
    }

    fn fin(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>, out: &mut Vec<Signal>) {
        let flow = self.flows.at_mut(index);
        let side = &mut flow.sides[sender];
        if !side.is(Direction::FIN) {
            side.set(Direction::FIN);
            let side_next = side.next;
            let bounds = &mut flow.bounds[sender];
            bounds.fin_seq = side_next;
            bounds.fin_ack = bytes.ack;
            bounds.fin_at = bytes.at;
            let heard = flow.heard(sender, side_next, Some(bytes.ack));
            self.leave_unheard(index, heard);
            self.closed(index, sender, bytes.at, out);
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
                self.in_order(index, sender, &held.bytes().after(old), held.fin, out);
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
        if !self.flows.at(index).is(Flow::ORIENTED) {
            return self.ended_unused(index, sender, at);
        }
        let flow = self.flows.at_mut(index);
        if flow.reset_at != 0 {
            return;
        }
        let by_server = sender != usize::from(flow.client);
        let (mine, other) = (&flow.sides[sender], &flow.sides[1 - sender]);
        if by_server && !mine.is(Direction::FOLLOWED) {
            // The answer to a SYN.
            let unused = flow.spoke == 2 && !flow.is(Flow::ESTABLISHED);
            let syn = other.is(Direction::SYN) && s.ack == flow.bounds[1 - sender].start && unused;
            let refused = s.flags.ack() && syn;
            if refused {
                self.connect_failed(index, 111, at);
            }
            return;
        }
        // Who is sent another one ignores it, as one that is not this connection's.
        let Some(beyond) = flow.reset_beyond(sender, s.seq) else {
            return;
        };
        if beyond > 0 {
            // It ended nothing, or bytes before it are missing: one looks like the other.
            self.counts.gaps += 1;
            flow.sides[sender].set(Direction::GAP);
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
        let heard = flow.heard(sender, s.seq, s.flags.ack().then_some(s.ack));
        self.leave_unheard(index, heard);
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
