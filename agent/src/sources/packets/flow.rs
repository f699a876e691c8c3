//! One TCP connection as packets show it: its ends, and what each direction has sent and acknowledged.
//!
//! Nothing here knows HTTP's meaning; the entry is compact because there may be a million of them.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use crate::signal::{FlowId, Nanos};

use super::http::Parse;
use super::prefetch::prefetch;
use super::serving::Spaces;

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

/// What IPv4 addresses have above them where they are written as IPv6.
const MAPPED: u64 = 0xffff_0000_0000;

/// A connection's number leaves room for the number of the network namespace whose loopback it is on.
const SPACE_SHIFT: u32 = 48;

/// What signals call a connection.
pub(super) fn flow_id(number: u64, key: &Key) -> FlowId {
    u64::from(key.space) << SPACE_SHIFT | number
}

/// The network namespace whose loopback a connection is on; 0 for the first one, and for
/// connections that are not on loopback.
pub fn space_of(flow: FlowId) -> u32 {
    (flow >> SPACE_SHIFT) as u32
}

/// Both ends of a connection, the lower one first, so that both directions have one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    ips: [u64; 4],
    ports: [u16; 2],
    /// Whose loopback it is; 0 for addresses that mean one host everywhere.
    space: u32,
}

impl Key {
    /// The key, and which side of it sent (0 or 1).
    #[inline]
    pub(super) fn new(from: SocketAddr, to: SocketAddr) -> (Key, usize) {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            return Key::general(from, to);
        };
        // Which side sent is as good as random: nothing here is a branch that has to be guessed.
        let end = |v4: SocketAddrV4| u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port());
        let (from, to) = (end(from), end(to));
        let (low, high) = (from.min(to), from.max(to));
        let key = Key {
            ips: [0, MAPPED | low >> 16, 0, MAPPED | high >> 16],
            ports: [low as u16, high as u16],
            space: 0,
        };
        (key, usize::from(from > to))
    }

    fn general(from: SocketAddr, to: SocketAddr) -> (Key, usize) {
        let (a, b) = (words(from.ip()), words(to.ip()));
        let swapped = (a, from.port()) > (b, to.port());
        let ((a, b), (from, to)) = match swapped {
            true => ((b, a), (to, from)),
            false => ((a, b), (from, to)),
        };
        let key = Key {
            ips: [a.0, a.1, b.0, b.1],
            ports: [from.port(), to.port()],
            space: 0,
        };
        (key, usize::from(swapped))
    }

    /// The same in one of several network namespaces, each of which has a loopback of its own.
    pub(super) fn within(mut self, space: u32) -> Key {
        if self.ip(0).is_loopback() && self.ip(1).is_loopback() {
            self.space = space;
        }
        self
    }

    pub(super) fn space(&self) -> u32 {
        self.space
    }

    fn is_v4(&self, side: usize) -> bool {
        self.ips[2 * side] == 0 && self.ips[2 * side + 1] >> 32 == MAPPED >> 32
    }

    pub(super) fn address(&self, side: usize) -> SocketAddr {
        SocketAddr::new(self.ip(side), self.ports[side])
    }

    pub(super) fn ip(&self, side: usize) -> IpAddr {
        let low = self.ips[2 * side + 1];
        if self.is_v4(side) {
            return IpAddr::V4(Ipv4Addr::from_bits(low as u32));
        }
        let bits = u128::from(self.ips[2 * side]) << 64 | u128::from(low);
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let end = |side: usize| self.ips[2 * side + 1] << 16 | u64::from(self.ports[side]);
        hasher.write_u128(u128::from(end(0)) << 64 | u128::from(end(1)));
        if !(self.is_v4(0) && self.is_v4(1)) {
            let low = |side: usize| u128::from(self.ips[2 * side + 1]);
            hasher.write_u128(u128::from(self.ips[0]) << 64 | u128::from(self.ips[2]));
            hasher.write_u128(low(0) << 64 | low(1));
        }
    }
}

fn words(ip: IpAddr) -> (u64, u64) {
    match ip {
        IpAddr::V4(ip) => (0, MAPPED | u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            ((bits >> 64) as u64, bits as u64)
        }
    }
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
    /// The same connection is followed under other addresses.
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
        self.key.space != other.key.space && local(self) && local(other)
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
    fn each_network_namespace_has_a_loopback_of_its_own() {
        let key = |a: &str, b: &str, space| {
            let (key, _) = Key::new(a.parse().unwrap(), b.parse().unwrap());
            key.within(space)
        };
        let (a, b) = ("127.0.0.1:40000", "127.0.0.1:9000");
        assert!(key(a, b, 1) != key(a, b, 2));
        assert!(key(a, b, 1) == key(b, a, 1));
        assert_eq!(space_of(flow_id(7, &key(a, b, 2))), 2);
        assert!(flow_id(7, &key(a, b, 2)) != flow_id(7, &key(a, b, 1)));
        let (a, b) = ("10.0.0.1:40000", "10.0.0.2:9000");
        assert!(key(a, b, 1) == key(a, b, 2));
        assert_eq!(flow_id(7, &key(a, b, 2)), 7);
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(before(0xffff_fff0, 0x10));
        assert!(!before(0x10, 0xffff_fff0));
        assert_eq!(ahead(0xffff_fff0, 0x10), 0x20);
        assert_eq!(ahead(0x10, 0xffff_fff0), 0);
    }

    #[test]
    fn both_directions_have_one_key() {
        for (a, b) in [
            ("10.0.0.1:80", "10.0.0.2:4000"),
            ("[2001:db8::1]:80", "[fe80::1]:80"),
            ("127.0.0.1:1", "127.0.0.1:2"),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let (there, sender) = Key::new(a, b);
            let (back, answerer) = Key::new(b, a);
            assert_eq!((there, sender), (back, 1 - answerer));
            assert_eq!((there.address(sender), back.address(answerer)), (a, b));
        }
    }
}
