//! What a connection is found by: both of its ends, and whose loopback they are on.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use crate::signal::FlowId;

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
