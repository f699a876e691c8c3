//! Requests seen on connections, whichever side of a proxy they are on: kept until answered, and found by content.

use std::collections::VecDeque;
use std::hash::Hasher;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::signal::{End, Nanos, Opening};
use crate::sources::wire;

use super::arena::Arena;
use super::flow::NONE;
use super::http;
use super::prefetch::{self, prefetch};

/// Kept of a request line and of a Host.
const LINE: usize = 1024;
const HOST: usize = 255;
/// An answered request is compared with its other side for so long; a failed one for longer.
const KEPT: Nanos = 1_000_000_000;
const KEPT_FAILED: Nanos = 30_000_000_000;
/// Answered ones kept at most.
const RING: usize = 8192;
/// Forgotten together.
const AT_ONCE: usize = 32;

/// One request and what came of it. Times of 0 mean never.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Exchange {
    pub flow: u32,
    /// The connection's identity: its place may have been given to another.
    pub flow_id: u64,
    /// The next one on the same connection.
    pub next: u32,
    /// Of method and target; 0 where they are not understood.
    pub content: u64,
    /// The first byte's time.
    pub at: Nanos,
    /// Sequence numbers: the request's first byte, and after the last that was seen.
    pub start: u32,
    pub end: u32,
    /// What the request's first segment acknowledged: the response begins there, if nothing is pipelined.
    pub ack: u32,
    /// Which request of its connection, from 1.
    pub ordinal: u32,
    /// Since the last response's last byte; for a connection's first request, `Nanos::MAX`.
    idle: Nanos,
    /// The final status; 0 while none was seen, or where it is no HTTP.
    pub status: u16,
    pub first_byte_at: Nanos,
    /// When the response's head was there.
    pub answered_at: Nanos,
    /// The sequence number at which the response begins.
    pub response_start: u32,
    /// How the connection ended before a response, as its client saw it.
    pub ended: Option<Box<Ended>>,
    pub bits: u16,
    /// Method, target and Host, as an HTTP head; empty for other protocols.
    head: Vec<u8>,
    /// What it is where it is not HTTP/1.
    pub opening: Option<Box<Opening>>,
    /// What the response is where it is not HTTP/1.
    pub answer: Option<Box<Opening>>,
}

/// Two cache lines.
const _: () = assert!(size_of::<Exchange>() == 128);

/// How a connection ended under a request, with the facts of that moment.
#[derive(Debug)]
pub(super) struct Ended {
    pub at: Nanos,
    pub how: End,
    /// Bytes of the request acknowledged.
    pub acked: u32,
    pub retransmits: u16,
    pub zero_window: bool,
    /// Bytes of a response that came without its head's end, and what they begin with.
    pub received: u32,
    pub response: Option<Opening>,
}

impl Exchange {
    /// The response is whole, or will not become so.
    pub(super) const DONE: u16 = 1;
    /// It waits to be judged.
    pub(super) const QUEUED: u16 = 2;
    /// An attempt to get it answered failed.
    pub(super) const ATTEMPTED: u16 = 4;
    /// It has been told as an attempt of another.
    pub(super) const TOLD: u16 = 8;
    pub(super) const HEAD: u16 = 16;
    pub(super) const CONNECT: u16 = 32;
    /// Found again after bytes that were not followed.
    pub(super) const RESUMED: u16 = 64;
    /// A connect without a request.
    pub(super) const BARE: u16 = 128;
    /// In the ring of the answered.
    pub(super) const KEPT: u16 = 256;
    pub(super) const USED: u16 = 512;
    /// Ended badly, and its downstream is still waiting for an answer.
    pub(super) const AWAITED: u16 = 1024;
    /// Its judgement was put off once for a reset that may be on its way.
    pub(super) const PUT_OFF: u16 = 2048;
    /// It has been told with its attempts, as a request to a proxy.
    pub(super) const JUDGED: u16 = 4096;
    /// It was looked at whether it hides a failed connect.
    pub(super) const LATER: u16 = 8192;
    /// It may have been no request, or what answered it no answer: both cannot be read.
    pub(super) const DOUBTFUL: u16 = 16384;
    /// Its target was cut: others begin alike.
    pub(super) const CUT: u16 = 32768;

    /// Reads from it, so that it is there when it is needed.
    #[inline]
    fn fetch(&self) -> u32 {
        u32::from(self.bits) ^ self.at as u32
    }

    pub(super) fn is(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u16) {
        self.bits |= bit;
    }

    pub(super) fn clear(&mut self, bit: u16) {
        self.bits &= !bit;
    }

    /// Makes this entry a new request's; like `Flow::begin` in its place.
    fn begin(&mut self, flow: u32, flow_id: u64, at: Nanos) {
        self.flow = flow;
        self.flow_id = flow_id;
        self.next = NONE;
        self.content = 0;
        self.at = at;
        self.start = 0;
        self.end = 0;
        self.ack = 0;
        self.ordinal = 0;
        self.idle = Nanos::MAX;
        self.status = 0;
        self.first_byte_at = 0;
        self.answered_at = 0;
        self.response_start = 0;
        self.ended = None;
        self.bits = Exchange::USED;
        self.head.clear();
        self.opening = None;
        self.answer = None;
    }

    /// Its request begins only here: what came before was a handshake.
    pub(super) fn asked(&mut self, at: Nanos, seq: u32, ack: u32) {
        (self.at, self.start, self.end, self.ack) = (at, seq, seq, ack);
        (self.first_byte_at, self.answered_at, self.response_start) = (0, 0, 0);
    }

    pub(super) fn set_idle(&mut self, idle: Option<Nanos>) {
        self.idle = idle.unwrap_or(Nanos::MAX);
    }

    /// How long the connection had been idle before the request.
    pub(super) fn idle(&self) -> Option<Nanos> {
        Some(self.idle).filter(|idle| *idle != Nanos::MAX)
    }

    /// What the request is, in the words of signals.
    pub(super) fn opening(&self) -> Opening {
        match &self.opening {
            Some(opening) => (**opening).clone(),
            None => wire::request(&self.head),
        }
    }

    /// Its request line.
    pub(super) fn line(&self) -> &[u8] {
        let end = memchr::memchr(b'\r', &self.head);
        &self.head[..end.unwrap_or(self.head.len())]
    }

    /// When it was over for its client: answered, or its connection ended.
    pub(super) fn over_at(&self) -> Option<Nanos> {
        match (&self.ended, self.answered_at) {
            (Some(ended), _) => Some(ended.at),
            (None, 0) => None,
            (None, at) => Some(at),
        }
    }

    /// Remembers method, target and host, and what to compare them by.
    pub(super) fn keep_request(&mut self, line: &[u8], host: Option<&[u8]>) {
        self.head.clear();
        let host_line = host.map_or(0, |host| host.len().min(HOST)) + "\r\nHost: \r\n\r\n".len();
        self.head.reserve(line.len().min(LINE) + host_line);
        self.head.extend_from_slice(&line[..line.len().min(LINE)]);
        if let Some((method, target)) = http::method_and_target(line) {
            self.content = content(method, target);
            if method == b"HEAD" {
                self.set(Self::HEAD);
            } else if method == b"CONNECT" {
                self.set(Self::CONNECT);
            }
        }
        // A line that was cut before its end has no host either.
        if line.len() <= LINE && host.is_some_and(|host| host.len() <= HOST) {
            self.head.extend_from_slice(b"\r\nHost: ");
            self.head.extend_from_slice(host.unwrap_or_default());
            self.head.extend_from_slice(b"\r\n\r\n");
        } else if line.len() <= LINE {
            self.head.extend_from_slice(b"\r\n");
        }
    }

    /// The same from uwsgi variables, which are compared but not shown as HTTP.
    pub(super) fn keep_variables(&mut self, request: &http::Uwsgi<'_>) {
        if !request.method.is_empty() && !request.target.is_empty() {
            self.content = content(request.method, wire::origin_form(request.target));
        }
        self.opening = Some(Box::new(Opening::Uwsgi));
    }

    /// The request line's end is not in the capture: what there is of it may begin others, too.
    pub(super) fn cut_line(&mut self) {
        let end = self.head.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
        self.head.truncate(end.map_or(0, |end| end + 1));
        // Behind a second space the target is whole.
        if self.head.iter().filter(|b| **b == b' ').count() < 2 {
            self.set(Self::CUT);
        }
    }
}

fn tag(content: u64) -> u32 {
    (content >> 16) as u32
}

/// What requests are compared by.
pub(super) fn content(method: &[u8], target: &[u8]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(method);
    hasher.write_u8(b' ');
    hasher.write(target);
    hasher.finish() | 1
}

/// Some exchanges. Equal requests are few, nearly always: none of this needs an allocation.
pub(super) type Ids = SmallVec<[u32; 8]>;

/// Part of the content beside the exchange's number: others are nearly never looked at in vain.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    id: u32,
}

/// All exchanges that may still matter.
#[derive(Default)]
pub(super) struct Exchanges {
    all: Arena<Exchange, 16384>,
    /// Those with a content, by it.
    by_content: HashTable<Slot>,
    /// Answered ones, by the time at which they may go.
    recent: VecDeque<(Nanos, u32)>,
    recent_failed: VecDeque<(Nanos, u32)>,
}

impl Exchanges {
    pub(super) fn live(&self) -> usize {
        self.all.in_use()
    }

    pub(super) fn at(&self, id: u32) -> &Exchange {
        self.all.at(id)
    }

    pub(super) fn at_mut(&mut self, id: u32) -> &mut Exchange {
        self.all.at_mut(id)
    }

    /// A new one, its buffers those of one that is gone.
    pub(super) fn begin(&mut self, flow: u32, flow_id: u64, at: Nanos) -> u32 {
        let id = self.all.take();
        self.all.at_mut(id).begin(flow, flow_id, at);
        id
    }

    /// Asks for so many entries that will be taken next, and for half as many of the heads that they
    /// will be given: those entries were asked for before.
    pub(super) fn prefetch_next(&self, count: usize) {
        self.all.next(count).for_each(prefetch);
        for Exchange { head, .. } in self.all.next(count / 2) {
            prefetch::bytes(head.as_ptr(), head.capacity());
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, id: u32) {
        prefetch(self.at(id));
    }

    /// Enters it under its content; says whether there are others.
    pub(super) fn index(&mut self, id: u32) -> bool {
        let content = self.at(id).content;
        if content == 0 {
            return false;
        }
        // Looked for first: what was just written would be waited for.
        let alike = self
            .by_content
            .find(content, |slot| self.holds(slot, content))
            .is_some();
        let tag = tag(content);
        let all = &self.all;
        self.by_content
            .insert_unique(content, Slot { tag, id }, |slot| all.at(slot.id).content);
        alike
    }

    fn holds(&self, slot: &Slot, content: u64) -> bool {
        slot.tag == tag(content) && self.at(slot.id).content == content
    }

    /// All with this content, in the order of their times.
    pub(super) fn alike(&self, content: u64) -> Ids {
        if content == 0 {
            return Ids::new();
        }
        let mut ids: Ids = self
            .by_content
            .iter_hash(content)
            .filter(|slot| self.holds(slot, content))
            .map(|slot| slot.id)
            .collect();
        ids.sort_unstable_by_key(|id| (self.at(*id).at, *id));
        ids
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.all.used()).filter(|id| self.at(*id).is(Exchange::USED))
    }

    /// Its response is whole: it is kept for a while, in case its other side asks for it.
    pub(super) fn answered(&mut self, id: u32, now: Nanos) {
        let exchange = self.at_mut(id);
        exchange.set(Exchange::DONE | Exchange::KEPT);
        if exchange.status >= 500 {
            self.recent_failed.push_back((now + KEPT_FAILED, id));
        } else {
            self.recent.push_back((now + KEPT, id));
        }
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Nanos) {
        for failed in [false, true] {
            while self.fetch_over(failed, now) {
                for _ in 0..AT_ONCE {
                    let ring = self.ring(failed);
                    let crowded = ring.len() > RING;
                    match ring.front() {
                        Some(&(at, id)) if crowded || at <= now => {
                            ring.pop_front();
                            self.at_mut(id).clear(Exchange::KEPT);
                            self.release(id);
                        }
                        _ => break,
                    }
                }
            }
        }
    }

    fn ring(&mut self, failed: bool) -> &mut VecDeque<(Nanos, u32)> {
        match failed {
            true => &mut self.recent_failed,
            false => &mut self.recent,
        }
    }

    /// Those of a ring that will be forgotten next come from memory together; false when there are
    /// none.
    fn fetch_over(&self, failed: bool, now: Nanos) -> bool {
        let ring = match failed {
            true => &self.recent_failed,
            false => &self.recent,
        };
        let crowded = ring.len() > RING;
        let over = || {
            let over = ring.iter().take_while(|(at, _)| crowded || *at <= now);
            over.take(AT_ONCE).map(|(_, id)| *id)
        };
        let sum = over().fold(0, |sum, id| sum ^ self.at(id).fetch());
        let slot = |id: u32| self.by_content.find(self.at(id).content, |s| s.id == id);
        let sum = over().fold(sum, |sum, id| sum ^ slot(id).map_or(0, |slot| slot.tag));
        std::hint::black_box(sum);
        over().next().is_some()
    }

    /// Frees it, unless something still needs it.
    pub(super) fn release(&mut self, id: u32) {
        let exchange = self.at(id);
        let needed = Exchange::QUEUED | Exchange::KEPT | Exchange::AWAITED;
        if exchange.bits & needed != 0
            || !exchange.is(Exchange::DONE)
            || !exchange.is(Exchange::USED)
        {
            return;
        }
        let content = exchange.content;
        if content != 0
            && let Ok(entry) = self.by_content.find_entry(content, |slot| slot.id == id)
        {
            entry.remove();
        }
        let exchange = self.at_mut(id);
        exchange.bits = 0;
        exchange.ended = None;
        exchange.content = 0;
        self.all.give_back(id);
    }
}
