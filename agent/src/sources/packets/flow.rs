//! One TCP connection as packets show it: its ends, and what each direction has sent and acknowledged.
//!
//! Nothing here knows HTTP's meaning; the entry is compact because there may be a million of them.

use std::net::{IpAddr, SocketAddr};

use crate::signal::{FlowId, Nanos};

use super::key::Key;
use super::parse::Parse;
use super::prefetch::prefetch;
use super::serving::Spaces;
use super::tcp::NEAR;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// Whether `a` comes before `b` in sequence space, which wraps.
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// How far `b` lies ahead of `a`; 0 if it lies behind.
pub(super) fn ahead(a: u32, b: u32) -> u32 {
    if before(a, b) { b.wrapping_sub(a) } else { 0 }
}

/// What one side has sent, and what the other has acknowledged of it: as far as every packet may
/// change it.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// The sequence number after the last byte that was followed in order.
    pub next: u32,
    /// The highest acknowledgement of this direction's bytes, by the other side.
    pub acked: u32,
    /// The last new payload's time.
    pub last_at: Nanos,
    pub parse: Parse,
    /// As last advertised by this side, not scaled.
    pub window: u16,
    pub bits: u8,
}

/// A direction's beginning and end, and what else few packets change.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// The first sequence number after its SYN.
    pub start: u32,
    pub fin_seq: u32,
    /// What the FIN acknowledged of the other direction.
    pub fin_ack: u32,
    /// Sent again since the newest request began.
    pub retransmits: u16,
    pub fin_at: Nanos,
}

impl Direction {
    /// `next` is known.
    pub(super) const FOLLOWED: u8 = 1;
    pub(super) const ACKED: u8 = 2;
    pub(super) const FIN: u8 = 4;
    /// Segments of this direction wait in the reorder buffer.
    pub(super) const HELD: u8 = 8;
    /// Bytes since the newest message's start are missing from the capture.
    pub(super) const GAP: u8 = 16;
    /// Its SYN was seen.
    pub(super) const SYN: u8 = 32;
    /// Its sender ended others at the moment at which it ended this, and no timer did so.
    pub(super) const TOGETHER: u8 = 64;

    pub(super) fn is(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u8) {
        self.bits |= bit;
    }

    pub(super) fn clear(&mut self, bit: u8) {
        self.bits &= !bit;
    }

    /// Bytes are missing from the capture: skipped, or acknowledged and never seen.
    pub(super) fn incomplete(&self) -> bool {
        let end = self.next.wrapping_add(u32::from(self.is(Self::FIN)));
        let unseen = self.is(Self::ACKED) && (!self.is(Self::FOLLOWED) || before(end, self.acked));
        self.is(Self::GAP) || self.is(Self::HELD) || unseen
    }

    /// All that was sent is known, and this acknowledges it.
    pub(super) fn is_whole(&self, ack: u32) -> bool {
        let fin = u32::from(self.is(Self::FIN));
        !self.incomplete() && self.is(Self::FOLLOWED) && ack.wrapping_sub(self.next) <= fin
    }
}

/// One connection. Times of 0 mean never.
///
/// Four cache lines: two that each packet needs, one that requests need, and one for the rest.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Flow {
    pub key: Key,
    pub seen_at: Nanos,
    /// Its identity in signals, never used again; 0 where there is no connection.
    pub id: FlowId,
    /// Its oldest exchange without a whole response.
    pub oldest: u32,
    pub bits: u16,
    /// Which side of the key began the connection.
    pub client: u8,
    /// Who sent payload last (0, 1), 2 before any.
    pub spoke: u8,
    pub sides: [Direction; 2],

    pub bounds: [Bounds; 2],
    /// Its newest exchange, where it has an oldest one.
    pub newest: u32,
    pub requests: u32,
    /// The longest idle time after which it was used again.
    pub longest_reuse: Nanos,

    pub syn_at: Nanos,
    pub established_at: Nanos,
    pub reset_at: Nanos,
    /// The reset's acknowledgement.
    pub reset_ack: u32,
    /// SYNs sent.
    pub syns: u8,
    /// Exchanges that wait to be judged.
    pub queued: u8,
    /// Round trip of the handshake in microseconds.
    pub round_trip_us: u32,
    /// The process of a proxy that asks on it, by its place among those that are known, from 1.
    pub asker: u16,
    /// The network namespaces in which it was seen.
    pub seen_in: Spaces,
}

impl Flow {
    /// The connection's beginning was not captured.
    pub(super) const JOINED: u16 = 1;
    /// Which side is the client is known.
    pub(super) const ORIENTED: u16 = 2;
    /// The reset came from the server.
    pub(super) const RESET_BY_SERVER: u16 = 4;
    /// The reset had the ACK flag.
    pub(super) const RESET_ACK: u16 = 8;
    /// It is not followed: it is under other addresses, or it is our own.
    pub(super) const TWIN: u16 = 16;
    /// Its client is a proxy: a request on it was seen before on a downstream.
    pub(super) const UPSTREAM: u16 = 32;
    pub(super) const ESTABLISHED: u16 = 64;
    /// Its end has been told.
    pub(super) const OVER: u16 = 128;
    /// Registered as a connect that gets no answer, or failed.
    pub(super) const SUSPECT: u16 = 256;
    pub(super) const ROLE_CHECKED: u16 = 512;
    /// What it carries is not understood (TLS, HTTP/2, …).
    pub(super) const OPAQUE: u16 = 1024;
    pub(super) const RESET_BY_CLIENT: u16 = 2048;
    /// Taken up again after bytes that were not followed.
    pub(super) const RESUMED: u16 = 4096;
    /// Its ports are used again: it is no longer found by its ends.
    pub(super) const DETACHED: u16 = 8192;
    /// Its client is known to have sent a request in the clear.
    pub(super) const ASKED: u16 = 16384;
    /// It has had an answer without a request, which may have been captured later.
    pub(super) const EARLY: u16 = 32768;

    /// Makes this entry a new connection's. In its place: a connection made elsewhere and moved
    /// here would be read word by word as it was just written, which stalls.
    pub(super) fn begin(&mut self, key: Key, id: FlowId, at: Nanos) {
        self.key = key;
        self.seen_at = at;
        self.id = id;
        self.oldest = NONE;
        self.bits = Flow::JOINED;
        self.client = 0;
        self.spoke = 2;
        for side in &mut self.sides {
            *side = Direction::default();
        }
        for bounds in &mut self.bounds {
            *bounds = Bounds::default();
        }
        self.newest = NONE;
        self.requests = 0;
        self.longest_reuse = 0;
        self.syn_at = 0;
        self.established_at = 0;
        self.reset_at = 0;
        self.reset_ack = 0;
        self.syns = 0;
        self.queued = 0;
        self.round_trip_us = 0;
        self.asker = 0;
        self.seen_in = 0;
    }

    /// Asks for the cache lines that each packet needs.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.key);
        prefetch(&self.sides);
    }

    /// The same for those that packets at a connection's or a request's beginning need as well.
    #[inline]
    pub(super) fn prefetch_rest(&self) {
        prefetch(&self.bounds);
        prefetch(&self.syn_at);
    }

    #[inline]
    pub(super) fn is(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u16) {
        self.bits |= bit;
    }

    pub(super) fn to_server(&self) -> &Direction {
        &self.sides[usize::from(self.client)]
    }

    pub(super) fn to_client(&self) -> &Direction {
        &self.sides[usize::from(self.client ^ 1)]
    }

    pub(super) fn by_client(&self) -> &Bounds {
        &self.bounds[usize::from(self.client)]
    }

    pub(super) fn by_server(&self) -> &Bounds {
        &self.bounds[usize::from(self.client ^ 1)]
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.key.address(usize::from(self.client))
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.key.address(usize::from(self.client ^ 1))
    }

    pub(super) fn client_ip(&self) -> IpAddr {
        self.key.ip(usize::from(self.client))
    }

    pub(super) fn server_ip(&self) -> IpAddr {
        self.key.ip(usize::from(self.client ^ 1))
    }

    /// Both are on loopback, each on that of another network namespace: nothing of one is about the
    /// other.
    pub(super) fn is_elsewhere(&self, other: &Flow) -> bool {
        let local = |flow: &Flow| flow.client_ip().is_loopback() && flow.server_ip().is_loopback();
        self.key.space() != other.key.space() && local(self) && local(other)
    }

    /// Up to where the client had heard the server when one of them ended the connection, as far as
    /// that is known: by the server's own number, or by what the client acknowledged.
    pub(super) fn heard(&self, sender: usize, seq: u32, ack: Option<u32>) -> u32 {
        match sender == usize::from(self.client) {
            true => ack.unwrap_or(self.to_client().next),
            false => seq,
        }
    }

    /// Whether an acknowledgement by this side can be of this connection. Of one that has only begun nothing
    /// from before the SYN can be acknowledged, nor anything far beyond: that answers the SYN for an older
    /// connection of the same ports. What is near may have been sent, and be captured later.
    pub(super) fn may_acknowledge(&self, sender: usize, ack: u32) -> bool {
        let begins = self.sides[1 - sender].is(Direction::SYN)
            && self.spoke == 2
            && !self.is(Flow::ESTABLISHED);
        !begins || ack.wrapping_sub(self.bounds[1 - sender].start) <= NEAR
    }

    /// How far a reset by this side lies beyond all that it was seen to send; `None` where the other side
    /// cannot have expected this number. It takes the very one that it expects (RFC 5961), or the one of a
    /// FIN that it has just had.
    pub(super) fn reset_beyond(&self, sender: usize, seq: u32) -> Option<u32> {
        let side = &self.sides[sender];
        if !side.is(Direction::FOLLOWED) {
            return Some(0);
        }
        let end = side.next.wrapping_add(u32::from(side.is(Direction::FIN)));
        let beyond = ahead(end, seq);
        let heard = if side.is(Direction::ACKED) {
            side.acked
        } else if side.is(Direction::SYN) {
            self.bounds[sender].start
        } else {
            side.next.wrapping_sub(NEAR)
        };
        // The first number that may have been expected when it was sent.
        let from = if before(side.next, heard) {
            side.next
        } else {
            heard
        };
        (beyond <= NEAR && !before(seq, from)).then_some(beyond)
    }

    pub(super) fn last_payload(&self) -> Nanos {
        self.sides[0].last_at.max(self.sides[1].last_at)
    }

    /// Nothing more is to come: reset, or closed both ways.
    pub(super) fn closed(&self) -> bool {
        let [a, b] = &self.sides;
        (a.is(Direction::FIN) && b.is(Direction::FIN)) || self.reset_at != 0
    }

    /// Some of its packets are known to be missing from the capture.
    pub(super) fn incomplete(&self) -> bool {
        self.sides.iter().any(Direction::incomplete)
    }
}

const _: () = assert!(size_of::<Flow>() == 256);
const _: () = assert!(std::mem::offset_of!(Flow, bounds) == 128);
const _: () = assert!(std::mem::offset_of!(Flow, syn_at) == 192);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(before(0xffff_fff0, 0x10));
        assert!(!before(0x10, 0xffff_fff0));
        assert_eq!(ahead(0xffff_fff0, 0x10), 0x20);
        assert_eq!(ahead(0x10, 0xffff_fff0), 0);
    }
}
