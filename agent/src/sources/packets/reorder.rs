//! Segments that came before the bytes they follow: a small buffer, shared by all connections.

use crate::signal::Nanos;

use super::talk::Bytes;

/// Segments held at once, over all connections.
const CAP: usize = 64;
/// Of one direction; more than these are not reordered but missing some.
const PER_DIRECTION: usize = 8;
/// So long a missing segment is waited for.
const PATIENCE: Nanos = 100_000_000;
/// Kept of each payload: heads are short.
const KEPT: usize = 2048;

#[derive(Debug)]
pub(super) struct Held {
    pub flow: u32,
    pub side: usize,
    pub seq: u32,
    pub ack: u32,
    pub fin: bool,
    pub at: Nanos,
    pub length: u32,
    pub payload: Vec<u8>,
}

impl Held {
    pub(super) fn new(flow: u32, side: usize, bytes: &Bytes<'_>, fin: bool) -> Held {
        Held {
            flow,
            side,
            seq: bytes.seq,
            ack: bytes.ack,
            fin,
            at: bytes.at,
            length: bytes.length,
            payload: bytes.there[..bytes.there.len().min(KEPT)].to_vec(),
        }
    }

    pub(super) fn bytes(&self) -> Bytes<'_> {
        Bytes {
            seq: self.seq,
            ack: self.ack,
            there: &self.payload,
            length: self.length,
            at: self.at,
        }
    }
}

#[derive(Default)]
pub(super) struct Reorder {
    held: Vec<Held>,
}

impl Reorder {
    /// Keeps a segment; false when the direction has waited long enough, or there is no room.
    pub(super) fn hold(&mut self, segment: Held) -> bool {
        let same = |h: &&Held| h.flow == segment.flow && h.side == segment.side;
        let (mut count, mut oldest) = (0, segment.at);
        for held in self.held.iter().filter(same) {
            if held.seq == segment.seq && held.length == segment.length {
                return true;
            }
            count += 1;
            oldest = oldest.min(held.at);
        }
        let late = segment.at.saturating_sub(oldest) > PATIENCE;
        self.held.push(segment);
        count < PER_DIRECTION && !late && self.held.len() <= CAP
    }

    /// The segment of a direction that begins at or before `next`, else with `force` the first of them.
    pub(super) fn take(&mut self, flow: u32, side: usize, next: u32, force: bool) -> Option<Held> {
        let first = (0..self.held.len())
            .filter(|i| self.held[*i].flow == flow && self.held[*i].side == side)
            .min_by_key(|i| self.held[*i].seq.wrapping_sub(next) as i32)?;
        let reached = (self.held[first].seq.wrapping_sub(next) as i32) <= 0;
        (reached || force).then(|| self.held.swap_remove(first))
    }

    /// A direction that has waited too long, if there is one.
    pub(super) fn overdue(&self, now: Nanos) -> Option<(u32, usize)> {
        let late = |h: &&Held| now.saturating_sub(h.at) > PATIENCE;
        self.held.iter().find(late).map(|h| (h.flow, h.side))
    }

    pub(super) fn any(&self) -> Option<(u32, usize)> {
        self.held.first().map(|h| (h.flow, h.side))
    }

    pub(super) fn waits(&self, flow: u32, side: usize) -> bool {
        self.held.iter().any(|h| h.flow == flow && h.side == side)
    }
}
