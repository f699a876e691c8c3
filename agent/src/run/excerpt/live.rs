//! Live: the packets of verdicts, out of the frames of the last seconds, a moment after each verdict.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;

use anyhow::Result;

use super::{Awaited, Pipeline, Search as Found, Waiting, report, see, wanted};
use crate::cli::warning;
use crate::clock::Clock;
use crate::packet::PacketSeen;
use crate::signal::{FlowId, Nanos};
use crate::sources::packets::decode::decode;
use crate::sources::packets::excerpt::Excerpt;
use crate::sources::packets::raw::{OwnedFrame, RawFrame};
use crate::sources::packets::ring::Ring;
use crate::sources::packets::space_of;
use crate::track::Decided;

/// For what is kept of all verdicts until the end.
const ROOM: usize = 64 << 20;
/// Verdicts of so long are looked for together: it means to look through all frames.
const TOGETHER: Nanos = 500_000_000;
/// Frames come at most this late.
const LATE: Nanos = 200_000_000;

/// Looks for the packets of verdicts in the ring of frames.
#[derive(Debug)]
pub(in crate::run) struct Search {
    ring: Arc<Ring>,
    /// The verdicts come from packets themselves, not from probes beside them.
    pub(super) from_packets: bool,
    /// Oldest first.
    batches: VecDeque<Batch>,
    /// The frames of all verdicts, by their numbers in the ring.
    kept: BTreeMap<u64, OwnedFrame>,
    bytes: usize,
    room: usize,
    left_out: usize,
    too_late: usize,
}

/// Verdicts of about one time.
#[derive(Debug)]
struct Batch {
    excerpt: Excerpt,
    /// The place of its first verdict among all.
    first: usize,
    began: Nanos,
}

impl Search {
    pub(in crate::run) fn new(ring: Arc<Ring>, from_packets: bool) -> Search {
        Search {
            ring,
            from_packets,
            batches: VecDeque::new(),
            kept: BTreeMap::new(),
            bytes: 0,
            room: ROOM,
            left_out: 0,
            too_late: 0,
        }
    }

    /// `netns`: the network namespace of the proxy's process; `place`: the verdict's among all.
    pub(super) fn add(&mut self, decided: &Decided, netns: Option<u32>, place: usize) {
        let began = decided.decided;
        let fits = |batch: &Batch| began < batch.began + TOGETHER;
        if !self.batches.back().is_some_and(fits) {
            self.batches.push_back(Batch {
                excerpt: Excerpt::default(),
                first: place,
                began,
            });
        }
        let Some(batch) = self.batches.back_mut() else {
            return;
        };
        if self.from_packets {
            batch.excerpt.add(decided, space_of);
        } else {
            // Of an unknown loopback no packet is taken rather than another's.
            let known = netns.and_then(|netns| self.ring.interface(netns));
            let space = known.unwrap_or(u32::MAX);
            batch.excerpt.add(decided, |_: FlowId| space);
        }
    }

    /// Looks for the packets of verdicts that are old enough. How many have lost some.
    pub(super) fn look(&mut self, now: Nanos, clock: Clock, verdicts: &mut [Waiting]) -> u64 {
        let before = self.too_late;
        while let Some(batch) = self.batches.front()
            && batch.excerpt.ends().saturating_add(LATE) <= now
            && let Some(batch) = self.batches.pop_front()
        {
            let next = self.batches.front().map_or(verdicts.len(), |b| b.first);
            self.find(batch.excerpt, clock, &mut verdicts[batch.first..next]);
        }
        if before == 0 && self.too_late > 0 {
            warning!(
                "the first packets of an exchange were gone before it failed: the last {} MB of \
                 packets are kept",
                self.ring.room() >> 20
            );
        }
        (self.too_late - before) as u64
    }

    fn find(&mut self, mut excerpt: Excerpt, clock: Clock, verdicts: &mut [Waiting]) {
        let from = (0..verdicts.len()).map(|i| excerpt.begins(i)).min();
        let from = clock.unix(from.unwrap_or_default());
        let frames = self.ring.snapshot();
        for raw in frames.frames(from) {
            let raw = RawFrame {
                at: clock.monotonic(raw.at),
                ..raw
            };
            see(&mut excerpt, &decode(&raw), raw.frame.interface);
        }
        let found: Vec<_> = (0..verdicts.len()).map(|i| excerpt.take(i)).collect();
        let numbers = found.iter().flat_map(|(packets, _)| packets);
        let mut wanted: HashMap<u64, Option<RawFrame<'_>>> =
            numbers.map(|packet| (packet.frame, None)).collect();
        for raw in frames.frames(from) {
            if let Some(place) = wanted.get_mut(&raw.frame.number) {
                *place = Some(raw);
            }
        }
        for (i, ((packets, left_out), waiting)) in found.into_iter().zip(verdicts).enumerate() {
            let mut fresh: Vec<&RawFrame<'_>> = packets
                .iter()
                .filter(|packet| !self.kept.contains_key(&packet.frame))
                .filter_map(|packet| wanted.get(&packet.frame)?.as_ref())
                .collect();
            fresh.dedup_by_key(|raw| raw.frame.number);
            let of_frame = |raw: &&RawFrame<'_>| raw.data.len() + size_of::<OwnedFrame>();
            let bytes =
                fresh.iter().map(of_frame).sum::<usize>() + packets.len() * size_of::<PacketSeen>();
            if self.bytes + bytes > self.room {
                self.left_out += 1;
                continue;
            }
            self.bytes += bytes;
            for raw in fresh {
                let frame = OwnedFrame::new(raw, Vec::with_capacity(raw.data.len()));
                self.kept.insert(raw.frame.number, frame);
            }
            let gone = |at| excerpt.begins(i) != Nanos::MAX && clock.unix(excerpt.begins(i)) <= at;
            self.too_late += usize::from(frames.forgotten.is_some_and(gone));
            (waiting.packets, waiting.left_out) = (packets, left_out);
        }
    }
}

/// No more frames come: what is there is written.
pub(in crate::run) fn finish<W: Write>(
    pipeline: &mut Pipeline<W>,
    mut awaited: Awaited,
) -> Result<()> {
    let too_late = awaited.look(Nanos::MAX, pipeline.clock);
    pipeline.lost("excerpt", "forgotten", too_late);
    if let Found::Live(search) = &mut awaited.search {
        awaited.left_out += std::mem::take(&mut search.left_out);
    }
    pipeline.lost("excerpt", "left_out", awaited.left_out as u64);
    report(pipeline, &awaited);
    let (Some(pcap), Found::Live(search)) = (&mut pipeline.pcap, &awaited.search) else {
        return Ok(());
    };
    pcap.verdicts += awaited.verdicts.len();
    for wanted in wanted(&awaited) {
        if let Some(frame) = search.kept.get(&wanted.number) {
            pcap.write(&frame.as_raw(), &wanted)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::packets::Packets;
    use crate::sources::packets::decode::{Decoded as Frame, decode, headers};
    use crate::sources::packets::file::{Capture, Input};
    use crate::sources::packets::ring::Keep;
    use crate::track::{Tracker, render};

    /// A capture of timeouts, over five seconds.
    fn input() -> Input {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
        Input::open(&folder.join("r06-no-reply.pcap.gz")).unwrap()
    }

    /// The capture as it would have been followed live, with all of it in the ring.
    fn followed(ring: &Arc<Ring>) -> Vec<Decided> {
        let mut capture = Capture::from_input(input()).unwrap();
        let (mut packets, mut signals) = (Packets::new(&[]), Vec::new());
        while let Some(raw) = capture.next_frame() {
            let raw = raw.unwrap();
            let frame = decode(&raw);
            ring.push(&raw, 0, &frame);
            match frame {
                Frame::Segment(segment) => packets.segment(&segment, &mut signals),
                Frame::Unreachable(error) => packets.unreachable(&error, &mut signals),
                Frame::Other | Frame::NotUnderstood(_) => {}
            }
        }
        packets.finish(&mut signals);
        let mut tracker = Tracker::default();
        let mut decided: Vec<_> = signals.iter().flat_map(|s| tracker.observe(s)).collect();
        decided.extend(tracker.finish());
        assert!(decided.len() > 8);
        decided
    }

    fn awaited(search: Option<Search>, decided: &[Decided]) -> Awaited {
        let mut awaited = search.map_or_else(Awaited::default, Awaited::live);
        for (i, each) in decided.iter().enumerate() {
            let stamp = render::Stamp {
                id: i.to_string(),
                time: String::new(),
                node: String::new(),
            };
            let verdict = render::verdict(each, &Default::default(), stamp);
            assert!(awaited.take(each, verdict, 0, None, None).is_none());
        }
        awaited
    }

    /// What each verdict has, without the frames' numbers.
    fn found(awaited: &Awaited) -> Vec<Vec<String>> {
        let words = |packet: &PacketSeen| {
            format!(
                "{:?}",
                PacketSeen {
                    frame: 0,
                    ..*packet
                }
            )
        };
        let of = |waiting: &Waiting| waiting.packets.iter().map(words).collect();
        awaited.verdicts.iter().map(of).collect()
    }

    fn search(awaited: &Awaited) -> &Search {
        match &awaited.search {
            Found::Live(search) => search,
            Found::Again(_) => panic!("not live"),
        }
    }

    #[test]
    fn the_ring_gives_what_a_second_reading_gives_and_only_what_may_be_written() {
        let ring = Arc::new(Ring::new(Keep::Lines));
        let decided = followed(&ring);
        let mut live = awaited(Some(Search::new(ring, true)), &decided);
        assert_eq!(live.look(Nanos::MAX, Clock::from_offset(0)), 0);
        let mut again = awaited(None, &decided);
        again.read(input());
        assert_eq!(found(&live), found(&again));
        let kept = &search(&live).kept;
        let mut lines = 0;
        for wanted in wanted(&live) {
            let raw = kept[&wanted.number].as_raw();
            let payload = &raw.data[headers(&raw)..];
            lines += usize::from(wanted.begins_head && !payload.is_empty());
            let line = payload.is_empty() || payload.ends_with(b"\r\n");
            assert!(line && payload.iter().filter(|b| **b == b'\n').count() < 2);
        }
        assert!(lines > decided.len(), "{lines}");
    }

    #[test]
    fn verdicts_are_looked_for_when_their_last_packets_have_come() {
        let ring = Arc::new(Ring::new(Keep::Lines));
        let decided = followed(&ring);
        let mut live = awaited(Some(Search::new(ring, true)), &decided);
        let batches = search(&live).batches.len();
        assert!(batches > 1);
        let first = search(&live).batches[0].excerpt.ends() + LATE;
        live.look(first - 1, Clock::from_offset(0));
        assert_eq!(search(&live).batches.len(), batches);
        live.look(first, Clock::from_offset(0));
        assert!(search(&live).batches.len() < batches);
        assert!(!live.verdicts[0].packets.is_empty());
        assert!(live.verdicts[decided.len() - 1].packets.is_empty());
    }

    #[test]
    fn what_is_gone_or_has_no_room_is_counted() {
        let ring = Arc::new(Ring::with_room(Keep::Lines, 4096));
        let decided = followed(&ring);
        let mut live = awaited(Some(Search::new(ring, true)), &decided);
        let late = live.look(Nanos::MAX, Clock::from_offset(0));
        assert!((1..=decided.len() as u64).contains(&late), "{late}");

        let ring = Arc::new(Ring::new(Keep::Lines));
        let decided = followed(&ring);
        let mut small = Search::new(ring, true);
        small.room = 8192;
        let mut live = awaited(Some(small), &decided);
        live.look(Nanos::MAX, Clock::from_offset(0));
        let search = search(&live);
        let with = live.verdicts.iter().filter(|w| !w.packets.is_empty());
        assert_eq!(with.count() + search.left_out, decided.len());
        assert!(search.left_out > 0 && search.bytes <= 8192 && !search.kept.is_empty());
    }

    #[test]
    fn probes_times_are_told_apart_from_packets_times_by_the_clocks_offset() {
        let ring = Arc::new(Ring::new(Keep::Lines));
        let decided = followed(&ring);
        let offset = 1_000_000_007;
        let shifted: Vec<Decided> = decided
            .into_iter()
            .filter(|each| !each.attempts.is_empty())
            .map(|mut each| {
                each.at -= offset;
                each.decided -= offset;
                each.response = None;
                each.attempts.truncate(1);
                let attempt = &mut each.attempts[0].attempt;
                attempt.began -= offset;
                attempt.downstream = None;
                if let Some(request) = &mut attempt.request {
                    request.at -= offset;
                }
                if let Some(fin) = attempt.tcp.as_mut().and_then(|tcp| tcp.fin.as_mut()) {
                    fin.at -= offset;
                }
                each
            })
            .collect();
        let mut live = awaited(Some(Search::new(ring, true)), &shifted);
        live.look(Nanos::MAX, Clock::from_offset(offset as i64));
        for (waiting, decided) in live.verdicts.iter().zip(&shifted) {
            let near = |packet: &PacketSeen| packet.at.abs_diff(decided.at) < 5_000_000_000;
            assert!(waiting.packets.iter().any(near), "{waiting:?}");
        }
    }
}
