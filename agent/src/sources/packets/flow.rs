//! One TCP connection as packets show it: its ends, and what each direction has sent and acknowledged.
//!
//! Nothing here knows HTTP's meaning; the entry is compact because there may be a million of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::signal::{FlowId, Nanos};

use super::http::Parse;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    ips: [u64; 4],
    ports: [u16; 2],
    /// Whose loopback it is; 0 for addresses that mean one host everywhere.
    space: u32,
}

impl Key {
    /// The key, and which side of it sent (0 or 1).
    pub(super) fn new(from: SocketAddr, to: SocketAddr) -> (Key, usize) {
        let (a, b) = (words(from.ip()), words(to.ip()));
        let sender = usize::from((a, from.port()) > (b, to.port()));
        let key = if sender == 0 {
            Key {
                ips: [a.0, a.1, b.0, b.1],
                ports: [from.port(), to.port()],
                space: 0,
            }
        } else {
            Key {
                ips: [b.0, b.1, a.0, a.1],
                ports: [to.port(), from.port()],
                space: 0,
            }
        };
        (key, sender)
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

    pub(super) fn hash(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = rustc_hash::FxHasher::default();
        // The upper half of an IPv4 address is the same for all of them.
        hasher.write_u64(self.ips[0] ^ self.ips[2].rotate_left(32));
        hasher.write_u64(self.ips[1] ^ self.ips[3].rotate_left(29));
        hasher.write_u32(u32::from(self.ports[0]) << 16 | u32::from(self.ports[1]));
        hasher.finish()
    }

    pub(super) fn address(&self, side: usize) -> SocketAddr {
        SocketAddr::new(self.ip(side), self.ports[side])
    }

    pub(super) fn ip(&self, side: usize) -> IpAddr {
        let bits = u128::from(self.ips[2 * side]) << 64 | u128::from(self.ips[2 * side + 1]);
        Ipv6Addr::from_bits(bits).to_canonical()
    }
}

fn words(ip: IpAddr) -> (u64, u64) {
    match ip {
        IpAddr::V4(ip) => (0, 0xffff_0000_0000 | u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            ((bits >> 64) as u64, bits as u64)
        }
    }
}

/// What one side has sent, and what the other has acknowledged of it.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// The sequence number after the last byte that was followed in order.
    pub next: u32,
    /// The first sequence number after its SYN.
    pub start: u32,
    /// The highest acknowledgement of this direction's bytes, by the other side.
    pub acked: u32,
    pub fin_seq: u32,
    /// What the FIN acknowledged of the other direction.
    pub fin_ack: u32,
    pub fin_at: Nanos,
    /// The last new payload's time.
    pub last_at: Nanos,
    pub parse: Parse,
    /// Sent again since the newest request began.
    pub retransmits: u16,
    /// As last advertised by this side, not scaled.
    pub window: u16,
    pub bits: u8,
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
}

/// One connection. Times of 0 mean never.
#[derive(Debug)]
pub(super) struct Flow {
    pub key: Key,
    /// Its identity in signals, never used again.
    pub id: FlowId,
    pub syn_at: Nanos,
    pub established_at: Nanos,
    pub seen_at: Nanos,
    pub reset_at: Nanos,
    /// The longest idle time after which it was used again.
    pub longest_reuse: Nanos,
    pub sides: [Direction; 2],
    /// The reset's acknowledgement.
    pub reset_ack: u32,
    /// Round trip of the handshake in microseconds.
    pub round_trip_us: u32,
    /// Its exchanges without a whole response, oldest and newest.
    pub oldest: u32,
    pub newest: u32,
    pub requests: u32,
    pub bits: u16,
    /// Which side of the key began the connection.
    pub client: u8,
    /// Who sent payload last (0, 1), 2 before any.
    pub spoke: u8,
    /// SYNs sent.
    pub syns: u8,
    /// Exchanges that wait to be judged.
    pub queued: u8,
    /// The network namespaces in which it was seen.
    pub seen_in: Spaces,
    /// The process of a proxy that asks on it, by its place among those that are known, from 1.
    pub asker: u16,
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

    pub(super) fn new(key: Key, id: u64, at: Nanos) -> Flow {
        Flow {
            key,
            id,
            syn_at: 0,
            established_at: 0,
            seen_at: at,
            reset_at: 0,
            longest_reuse: 0,
            sides: [Direction::default(), Direction::default()],
            reset_ack: 0,
            round_trip_us: 0,
            oldest: NONE,
            newest: NONE,
            requests: 0,
            bits: 0,
            client: 0,
            spoke: 2,
            syns: 0,
            queued: 0,
            seen_in: 0,
            asker: 0,
        }
    }

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
        self.reset_at != 0 || (a.is(Direction::FIN) && b.is(Direction::FIN))
    }

    /// Some of its packets are known to be missing from the capture.
    pub(super) fn incomplete(&self) -> bool {
        self.sides.iter().any(Direction::incomplete)
    }
}

/// With the hash table's slot it stays within 256 bytes.
const _: () = assert!(size_of::<Option<Flow>>() <= 248);

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
