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

/// Segments of a group: enough work to wait behind, and few enough for the first-level cache.
const GROUP: usize = 16;
/// Groups under way: one is found, one has the rest asked for, one is followed.
const GROUPS: usize = 3;

/// Where the frames of a capture begin is known only from those before them: for each payload as many
/// bytes are asked for, whatever they are, so far behind it: further than what is under way.
const AHEAD: usize = 64 * 1024;
/// With a few headers of frames without a payload.
const HEADERS: usize = 192;
/// Larger payloads are few.
const LONGEST: usize = 2048;

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

/// Segments that are followed one after the other.
struct Group<'a> {
    segments: Vec<Segment<'a>>,
    places: Vec<Place>,
}

/// Takes in segments, in their order; `finish` follows those that are still under way.
///
/// While one group of them is followed, what the next one needs besides its connections is on its
/// way from memory, and the connections of the one after that.
pub struct Stream<'p, 'a> {
    packets: &'p mut Packets,
    groups: [Group<'a>; GROUPS],
    /// Which of them is the newest; before it is the one that came before, and so on around.
    newest: usize,
    /// Whether what lies behind these segments is worth asking for.
    far: bool,
}

impl<'a> Stream<'_, 'a> {
    /// What is made known goes to `out`.
    ///
    /// In one piece with what makes the segment, which is then written once, where it will be read.
    #[inline(always)]
    pub fn take(&mut self, segment: Segment<'a>, out: &mut Vec<Signal>) {
        let newest = &mut self.groups[self.newest];
        newest.segments.push(segment);
        if newest.segments.len() == GROUP {
            self.turn(out);
        }
    }

    pub fn finish(mut self, out: &mut Vec<Signal>) {
        for _ in 0..GROUPS {
            self.turn(out);
        }
    }

    /// Each group goes one step further.
    fn turn(&mut self, out: &mut Vec<Signal>) {
        let back = |groups: usize| (self.newest + GROUPS - groups) % GROUPS;
        let (middle, oldest) = (back(1), back(2));
        self.packets.find(&mut self.groups[self.newest]);
        self.packets.fetch(&self.groups[middle]);
        let after = self.groups[middle].segments.first();
        let Group { segments, places } = &self.groups[oldest];
        for (i, (segment, place)) in segments.iter().zip(places).enumerate() {
            let next = segments.get(i + 1).or(after);
            if self.far && !segment.payload.is_empty() {
                let behind = segment.payload.as_ptr().wrapping_add(AHEAD);
                prefetch::bytes(behind, segment.payload.len().min(LONGEST) + HEADERS);
            }
            self.packets.follow(segment, place, next, out);
        }
        self.groups[oldest].segments.clear();
        self.groups[oldest].places.clear();
        self.newest = oldest;
    }
}

impl Packets {
    /// Takes in segments one by one. `far`: of frames that lie one behind the other in a file's own
    /// pages.
    pub fn stream<'a>(&mut self, far: bool) -> Stream<'_, 'a> {
        Stream {
            far,
            packets: self,
            groups: std::array::from_fn(|_| Group {
                segments: Vec::with_capacity(GROUP),
                places: Vec::with_capacity(GROUP),
            }),
            newest: 0,
        }
    }

    /// Takes in segments, in their order.
    pub fn segments(&mut self, segments: &[Segment<'_>], out: &mut Vec<Signal>) {
        let mut stream = self.stream(false);
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

    /// Finds connections, and asks for them.
    fn find(&self, group: &mut Group<'_>) {
        let places = group.segments.iter().map(|segment| self.place(segment));
        group.places.extend(places);
        for place in &mut group.places {
            place.index = self.flows.likely(place.hash);
            if let Some(at) = place.index {
                self.flows.at(at).prefetch();
            }
        }
    }

    /// Asks for what following these segments will need besides their connections.
    fn fetch(&self, group: &Group<'_>) {
        const TURNS: u32 = GROUP as u32 / SWEEP;
        self.flows.prefetch_next(TURNS, 2);
        self.exchanges.prefetch_next(4);
        for (place, segment) in group.places.iter().zip(&group.segments) {
            // It may have been forgotten since it was found.
            let Some(flow) = place.index.and_then(|at| self.flows.peek(at)) else {
                continue;
            };
            let request = segment.length > 0 && place.sender == usize::from(flow.client);
            if request || !segment.flags.only_acknowledge() || !flow.is(Flow::ESTABLISHED) {
                flow.prefetch_rest();
            }
            if segment.length > 0 && flow.oldest != NONE {
                self.exchanges.prefetch(flow.oldest);
            }
        }
    }
}
