//! Many segments one after the other, each looked for in memory long before it is followed.
//!
//! Nothing but faster than one by one: with more connections than fit in the processor's caches,
//! following a segment would mostly wait for its connection.

use crate::signal::Signal;

use super::Packets;
use super::flow::{Flow, NONE};
use super::key::Key;
use super::prefetch;
use super::segment::Segment;
use super::tcp::SWEEP;

/// Segments from one step of a segment to its next: as long as memory takes, and few enough for the
/// first-level cache.
const APART: usize = 16;
/// Segments under way, and room for the next ones: a power of two.
const RING: usize = 64;

/// Of a payload, what is looked at where a message begins in it.
const HEAD: usize = 256;

/// Where a segment belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub key: Key,
    pub hash: u64,
    /// Which side of the key sent it.
    pub sender: usize,
    /// The connection, as far as it was looked for.
    pub index: Option<u32>,
}

/// Takes in segments, in their order; `finish` follows those that are still under way.
///
/// Between two segments that are followed, one has what it needs besides its connection asked for, and one
/// that comes later its connection: there is always something to do while memory answers.
pub struct Stream<'p, 'a> {
    packets: &'p mut Packets,
    segments: Vec<Segment<'a>>,
    places: Vec<Place>,
    /// Segments so far, and those of them that are that far.
    taken: usize,
    fetched: usize,
    followed: usize,
}

impl<'a> Stream<'_, 'a> {
    /// What is made known goes to `out`.
    ///
    /// In one piece with what makes the segment, which is then written once, where it will be read.
    #[inline(always)]
    pub fn take(&mut self, segment: Segment<'a>, out: &mut Vec<Signal>) {
        let place = self.packets.look_for(&segment);
        if self.taken < RING {
            self.segments.push(segment);
            self.places.push(place);
        } else {
            self.segments[self.taken % RING] = segment;
            self.places[self.taken % RING] = place;
        }
        self.taken += 1;
        if self.taken - self.fetched > APART {
            self.fetch();
            if self.taken - self.followed > 2 * APART {
                self.follow(out);
            }
        }
    }

    pub fn finish(mut self, out: &mut Vec<Signal>) {
        while self.followed < self.taken {
            if self.fetched < self.taken {
                self.fetch();
            }
            self.follow(out);
        }
    }

    fn fetch(&mut self) {
        let at = self.fetched % RING;
        self.packets.fetch(&self.segments[at], &self.places[at]);
        if self.fetched.is_multiple_of(APART) {
            self.packets.fetch_beside();
        }
        self.fetched += 1;
    }

    fn follow(&mut self, out: &mut Vec<Signal>) {
        let at = self.followed % RING;
        self.followed += 1;
        let next = (self.followed < self.taken).then(|| &self.segments[self.followed % RING]);
        self.packets
            .follow(&self.segments[at], &self.places[at], next, out);
    }
}

impl Packets {
    /// Takes in segments one by one.
    pub fn stream<'a>(&mut self) -> Stream<'_, 'a> {
        Stream {
            packets: self,
            segments: Vec::with_capacity(RING),
            places: Vec::with_capacity(RING),
            taken: 0,
            fetched: 0,
            followed: 0,
        }
    }

    /// Takes in segments, in their order.
    pub fn segments(&mut self, segments: &[Segment<'_>], out: &mut Vec<Signal>) {
        let mut stream = self.stream();
        for segment in segments {
            stream.take(*segment, out);
        }
        stream.finish(out);
    }

    /// Takes in one segment.
    pub fn segment(&mut self, segment: &Segment<'_>, out: &mut Vec<Signal>) {
        let place = self.place(segment);
        self.follow(segment, &place, None, out);
    }

    /// In one piece with what keeps it: handed over, it would be read as it was just written.
    #[inline(always)]
    fn place(&self, segment: &Segment<'_>) -> Place {
        let (key, sender) = self.key(segment.from, segment.to);
        Place {
            key,
            hash: self.flows.hash(&key),
            sender,
            index: None,
        }
    }

    /// The same, and asks for its connection.
    #[inline(always)]
    fn look_for(&self, segment: &Segment<'_>) -> Place {
        let mut place = self.place(segment);
        place.index = self.flows.likely(place.hash);
        if let Some(at) = place.index {
            self.flows.at(at).prefetch();
        }
        place
    }

    /// Asks for what following this segment will need besides its connection.
    #[inline(always)]
    fn fetch(&self, segment: &Segment<'_>, place: &Place) {
        // It may have been forgotten since it was found.
        let Some(flow) = place.index.and_then(|at| self.flows.peek(at)) else {
            return;
        };
        let request = segment.length > 0 && place.sender == usize::from(flow.client);
        if request || !segment.flags.only_acknowledge() || !flow.is(Flow::ESTABLISHED) {
            flow.prefetch_rest();
        }
        if segment.length > 0 {
            prefetch::bytes(segment.payload.as_ptr(), segment.payload.len().min(HEAD));
            if flow.oldest != NONE {
                self.exchanges.prefetch(flow.oldest);
            }
        }
    }

    /// Asks for what the next segments will need, whichever they are.
    fn fetch_beside(&self) {
        const TURNS: u32 = APART as u32 / SWEEP;
        self.flows.prefetch_next(TURNS, 2);
        self.exchanges.prefetch_next(4);
    }
}
