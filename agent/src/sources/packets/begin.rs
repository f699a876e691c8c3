//! How connections begin: SYNs, their repetitions and answers, and connections seen under two addresses.

use crate::signal::Nanos;

use super::flow::{Direction, Flow};
use super::hosts::Handshake;
use super::parse::Stage;
use super::segment::Segment;
use super::tcp::REPEATED;
use super::{MILLISECOND, Packets, SECOND, SKEW};

/// A translated packet is captured again this soon. Its first sequence number alone may be another's:
/// some stacks, and captures made by hand, begin all with the same.
const TRANSLATED: Nanos = 10 * MILLISECOND;
/// Of the first segment seen of an older connection more is compared.
const TRANSLATED_LATE: Nanos = SECOND;

impl Packets {
    /// A SYN begins a connection, repeats its beginning, or answers one. `None`: nothing more to do.
    pub(super) fn syn(
        &mut self,
        mut index: u32,
        sender: usize,
        s: &Segment<'_>,
        at: Nanos,
    ) -> Option<u32> {
        let flow = self.flows.at(index);
        let side = &flow.sides[sender];
        let begins = s.seq.wrapping_add(1);
        if side.is(Direction::SYN) && flow.bounds[sender].start == begins {
            return self.repeated_syn(index, sender, s, at);
        }
        // Other sequence numbers: the ports are used again.
        let fresh = flow.spoke == 2 && !side.is(Direction::FOLLOWED | Direction::SYN);
        let answers = s.flags.ack() && flow.sides[1 - sender].is(Direction::SYN);
        let answers = answers && flow.bounds[1 - sender].start == s.ack;
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
        flow.bounds[sender].start = begins;
        side.parse.stage = Stage::Start;
        if s.flags.ack() {
            let other = &mut flow.sides[client];
            if !other.is(Direction::FOLLOWED) {
                // The client's own SYN is not in the capture.
                other.set(Direction::FOLLOWED);
                other.next = s.ack;
                other.parse.stage = Stage::Start;
            }
        }
        if flow.syn_at == 0 {
            flow.syn_at = at;
            flow.syns = 1;
        }
        let (from, to) = (flow.client(), flow.server());
        if !s.flags.ack() && self.owners.is_own_connect(from, self.space, s.at) {
            self.flows.at_mut(index).set(Flow::TWIN);
            return Some(index);
        }
        if first {
            self.hosts.connection(from, to);
        }
        if s.flags.ack() {
            if self.hosts.twins {
                self.tell_apart(s.ack.wrapping_sub(1));
            }
        } else if !self.is_twin(index, syn_key(s.seq), (at, s.at)) {
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
    pub(super) fn is_twin(&mut self, index: u32, key: u64, (at, stamp): (Nanos, Nanos)) -> bool {
        let syn = self.flows.at(index).syn_at != 0;
        let first = Handshake {
            key,
            at,
            stamp,
            soon: if syn { TRANSLATED } else { TRANSLATED_LATE },
            flow: index,
            twin: None,
        };
        let Some((other, apart)) = self.hosts.handshake(first) else {
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
        // Translation changes one end, or the ports of none; a client's port with its address.
        let alike = match mine.0.port() == theirs.0.port() {
            true => mine != theirs,
            false => mine.0.ip() != theirs.0.ip() && mine.1.port() == theirs.1.port(),
        };
        // What was answered before was not on its way any more.
        let over = |then: Nanos| syn && apart > SKEW && then != 0 && then + SKEW < at;
        let alike = alike && !over(other.established_at) && !over(other.reset_at);
        if alike {
            self.hosts.translated(mine.0.ip(), theirs.0.ip());
            self.hosts.translated(mine.1.ip(), theirs.1.ip());
            self.hosts.twins = true;
            self.flows.at_mut(index).set(Flow::TWIN);
            if let Some(first) = self.hosts.began_with(key) {
                first.twin = Some(index);
            }
        }
        alike
    }

    /// What is one connection has one answer. Where two were taken for one that differ in this, both are
    /// followed. `seq`: with which their SYNs came.
    fn tell_apart(&mut self, seq: u32) {
        let Some(first) = self.hosts.began_with(syn_key(seq)) else {
            return;
        };
        let Some(twin) = first.twin else { return };
        let one = first.flow;
        let answer = |index: u32| {
            let flow = self.flows.peek(index)?;
            let asked = flow.by_client().start == seq.wrapping_add(1);
            let answered = asked && flow.to_client().is(Direction::SYN);
            answered.then(|| {
                (
                    flow.by_server().start,
                    flow.client().ip(),
                    flow.server().ip(),
                )
            })
        };
        let (Some(a), Some(b)) = (answer(one), answer(twin)) else {
            return;
        };
        if a.0 != b.0 {
            self.hosts.are_two(a.1, b.1);
            self.hosts.are_two(a.2, b.2);
            self.flows.at_mut(twin).bits &= !Flow::TWIN;
        }
        if let Some(first) = self.hosts.began_with(syn_key(seq)) {
            first.twin = None;
        }
    }

    pub(super) fn established(&mut self, index: u32, sender: usize, at: Nanos) {
        let flow = self.flows.at_mut(index);
        let whole = flow.sides.iter().all(|side| side.is(Direction::SYN));
        if whole && sender == usize::from(flow.client) {
            flow.set(Flow::ESTABLISHED);
            flow.established_at = at;
            if flow.syns == 1 {
                let took = at.saturating_sub(flow.syn_at) / 1000;
                flow.round_trip_us = u32::try_from(took).unwrap_or(u32::MAX);
            }
        }
        // The answer to its SYN may be missing from the capture: who acknowledges has had it.
        if sender == usize::from(flow.client) && flow.is(Flow::SUSPECT) {
            self.cleared(index);
        }
    }
}

/// What a translation leaves as it is of a SYN.
fn syn_key(seq: u32) -> u64 {
    u64::from(seq) << 1 | 1
}
