//! Frames of the last seconds, for the packets of verdicts that are yet to come.
//!
//! What may be written later is all that is kept: headers and the lines that heads begin with,
//! unless payload is wanted too. Memory is bounded; the oldest frames go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::decode::{Decoded, headers};
use super::raw::{LinkType, RawFrame};
use super::segment::Frame;
use crate::signal::Nanos;
use crate::sources::wire;

/// At 100,000 packets a second the last six seconds: a verdict's packets are looked for within two.
const ROOM: usize = 64 << 20;
/// Frames come and go in pieces of this size.
const CHUNK: usize = 1 << 20;

/// What of a frame is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Headers, and the first line of a payload that begins a request or a response.
    Lines,
    Everything,
}

/// Filled by who captures, read by who has verdicts.
#[derive(Debug)]
pub struct Ring {
    keep: Keep,
    room: usize,
    frames: Mutex<Frames>,
}

#[derive(Debug, Default)]
struct Frames {
    full: VecDeque<Arc<Chunk>>,
    open: Chunk,
    /// Bytes in those that are full.
    bytes: usize,
    /// All that ever came.
    count: u64,
    forgotten: Option<Nanos>,
    /// By the inode of their network namespace.
    interfaces: BTreeMap<u64, u32>,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    heads: Vec<Head>,
    data: Vec<u8>,
    /// The newest frame's time.
    until: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    at: Nanos,
    number: u64,
    end: u32,
    original_length: u32,
    interface: u32,
    link_type: LinkType,
}

/// What the ring held at one moment.
#[derive(Debug)]
pub struct Snapshot {
    chunks: Vec<Arc<Chunk>>,
    /// Frames until this time are gone.
    pub forgotten: Option<Nanos>,
}

impl Ring {
    pub fn new(keep: Keep) -> Ring {
        Ring::with_room(keep, ROOM)
    }

    pub(crate) fn with_room(keep: Keep, room: usize) -> Ring {
        Ring {
            keep,
            room,
            frames: Mutex::default(),
        }
    }

    /// Keeps a frame of this interface, under the next number.
    pub fn push(&self, raw: &RawFrame<'_>, interface: u32, decoded: &Decoded<'_>) {
        let data = &raw.data[..self.kept(raw, decoded)];
        let mut frames = self.frames();
        frames.count += 1;
        let number = frames.count;
        let open = &mut frames.open;
        open.data.extend_from_slice(data);
        open.until = open.until.max(raw.at);
        open.heads.push(Head {
            at: raw.at,
            number,
            end: open.data.len() as u32,
            original_length: raw.original_length,
            interface,
            link_type: raw.link_type,
        });
        if open.bytes() >= CHUNK.min(self.room / 4) {
            frames.turn(self.room);
        }
    }

    /// Frames of this interface are captured in the network namespace with this inode.
    pub fn interface_is_in(&self, interface: u32, netns: u64) {
        self.frames().interfaces.insert(netns, interface);
    }

    /// The interface whose frames are captured in this network namespace.
    pub fn interface(&self, netns: u32) -> Option<u32> {
        let frames = self.frames();
        frames.interfaces.get(&u64::from(netns)).copied()
    }

    pub fn room(&self) -> usize {
        self.room
    }

    /// What is there now.
    pub fn snapshot(&self) -> Snapshot {
        let frames = self.frames();
        let mut chunks: Vec<_> = frames.full.iter().cloned().collect();
        chunks.push(Arc::new(frames.open.clone()));
        Snapshot {
            chunks,
            forgotten: frames.forgotten,
        }
    }

    fn kept(&self, raw: &RawFrame<'_>, decoded: &Decoded<'_>) -> usize {
        let headers = match decoded {
            _ if self.keep == Keep::Everything => return raw.data.len(),
            Decoded::Other | Decoded::NotUnderstood(_) => return 0,
            Decoded::Segment(_) | Decoded::Unreachable(_) => headers(raw),
        };
        let payload = raw.data.get(headers..).unwrap_or_default();
        let begins_head = wire::method(payload).is_some() || wire::status(payload).is_some();
        let line = match begins_head {
            true => memchr::memchr(b'\n', payload).map_or(payload.len(), |end| end + 1),
            false => 0,
        };
        headers + line
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        // Every frame is whole: a panic elsewhere does not spoil them.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frames {
    /// Begins a new chunk, and lets the oldest go where there are too many.
    fn turn(&mut self, room: usize) {
        let mut chunk = std::mem::take(&mut self.open);
        chunk.heads.shrink_to_fit();
        chunk.data.shrink_to_fit();
        self.bytes += chunk.bytes();
        self.full.push_back(Arc::new(chunk));
        while self.bytes > room
            && let Some(gone) = self.full.pop_front()
        {
            self.bytes -= gone.bytes();
            self.forgotten = self.forgotten.max(Some(gone.until));
        }
    }
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.data.len() + self.heads.len() * size_of::<Head>()
    }
}

impl Snapshot {
    /// The frames not older than `from`, and perhaps some that are, in the order in which they came.
    pub fn frames(&self, from: Nanos) -> impl Iterator<Item = RawFrame<'_>> {
        let wanted = move |chunk: &&Arc<Chunk>| chunk.until >= from;
        self.chunks.iter().filter(wanted).flat_map(|chunk| {
            let mut start = 0;
            chunk.heads.iter().map(move |head| {
                let end = head.end as usize;
                let data = &chunk.data[std::mem::replace(&mut start, end)..end];
                RawFrame {
                    at: head.at,
                    frame: Frame {
                        number: head.number,
                        interface: head.interface,
                    },
                    link_type: head.link_type,
                    original_length: head.original_length,
                    data,
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::decode::decode;
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4000, 80, 1, 1000);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn push(ring: &Ring, at: Nanos, data: &[u8]) {
        let raw = RawFrame {
            at,
            frame: Frame {
                number: 1,
                interface: 0,
            },
            link_type: LinkType::RAW,
            original_length: data.len() as u32,
            data,
        };
        ring.push(&raw, 3, &decode(&raw));
    }

    #[test]
    fn a_frame_comes_back_with_its_headers_and_its_line() {
        let ring = Ring::new(Keep::Lines);
        let whole = packet(b"GET /a?b HTTP/1.1\r\nCookie: secret\r\n\r\nsecret");
        for data in [&whole, &packet(b"secret"), &packet(b""), &vec![0x45]] {
            push(&ring, 7, data);
        }
        let snapshot = ring.snapshot();
        let frames: Vec<_> = snapshot.frames(0).collect();
        let lengths = frames.iter().map(|frame| frame.data.len());
        assert_eq!(lengths.collect::<Vec<_>>(), [40 + 19, 40, 40, 0]);
        assert_eq!(frames[0].data, &whole[..59]);
        assert_eq!(frames[0].original_length as usize, whole.len());
        assert_eq!((frames[3].frame.number, frames[3].frame.interface), (4, 3));
        // It is still known how much there was.
        let Decoded::Segment(segment) = decode(&frames[1]) else {
            panic!("not a segment")
        };
        assert_eq!(segment.length, 6);
        assert_eq!(snapshot.forgotten, None);

        let ring = Ring::new(Keep::Everything);
        push(&ring, 7, &whole);
        let snapshot = ring.snapshot();
        assert_eq!(snapshot.frames(0).next().unwrap().data, whole);
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room_and_it_is_said_how_old_they_were() {
        let room = 64 * 1024;
        let ring = Ring::with_room(Keep::Lines, room);
        let data = packet(b"");
        for at in 0..10_000 {
            push(&ring, at, &data);
        }
        let snapshot = ring.snapshot();
        let times: Vec<Nanos> = snapshot.frames(0).map(|frame| frame.at).collect();
        let each = data.len() + size_of::<Head>();
        assert!(times.len() * each <= room + room / 4 && times.len() * each > room / 2);
        let first = 10_000 - times.len() as u64;
        assert_eq!(times, (first..10_000).collect::<Vec<_>>());
        assert_eq!(snapshot.forgotten, Some(first - 1));
        // Only chunks that may hold one are looked through.
        let late = snapshot.frames(9_900).count();
        assert!((100..times.len()).contains(&late));
    }
}
