//! `/proc/PID/net/{tcp,tcp6,udp,udp6}`: the other end of a socket, by its inode; who listens where.

use std::collections::HashMap;
use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::signal::Address;

/// Every connected socket's other end, by inode. Listening sockets have none.
pub(super) fn peers(table: &str) -> HashMap<u64, Address> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let remote = fields.nth(2)?;
        // tx_queue:rx_queue, tr:tm->when, retrnsmt, uid, timeout, inode
        let inode: u64 = fields.nth(6)?.parse().ok()?;
        Some((inode, address(remote)?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The listening sockets of a TCP table: address and inode. They come first in it.
pub(super) fn listening(table: impl BufRead) -> Vec<(SocketAddr, u64)> {
    const MOST: usize = 4096;
    let row = |line: String| {
        let mut fields = line.split_ascii_whitespace();
        let local = socket_address(fields.nth(1)?)?;
        let inode = fields.nth(7)?.parse().ok()?;
        Some((local, inode))
    };
    let listens = |line: &String| line.split_ascii_whitespace().nth(3) == Some("0A");
    let rows = table.lines().skip(1).map_while(Result::ok);
    rows.take_while(listens)
        .filter_map(row)
        .take(MOST)
        .collect()
}

/// Handshakes with this listener that have begun and not ended (SYN_RECV).
pub(super) fn half_open(table: impl BufRead, listener: SocketAddr) -> u32 {
    let called = |local: SocketAddr| {
        let any = listener.ip().is_unspecified();
        local.port() == listener.port() && (any || local.ip() == listener.ip())
    };
    let is = |line: &String| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1).and_then(socket_address);
        fields.nth(1) == Some("03") && local.is_some_and(called)
    };
    let rows = table.lines().skip(1).map_while(Result::ok);
    rows.filter(is).count() as u32
}

/// `/proc/PID/net/fib_trie`: the IPv4 addresses that are this host's own.
pub(super) fn local_v4(table: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.map(IpAddr::V4)
            && !found.contains(&address)
        {
            // Each is in the table of local and in that of all routes.
            found.push(address);
        }
    }
    found
}

/// `/proc/PID/net/if_inet6`: the IPv6 addresses of its interfaces.
pub(super) fn local_v6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_ascii_whitespace().next()?;
        let bits = (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok());
        Some(IpAddr::V6(Ipv6Addr::from_bits(bits??)))
    };
    table.lines().filter_map(address).collect()
}

/// `/proc/PID/net/unix`: whether this socket was told to listen (`__SO_ACCEPTCON`).
pub(super) fn unix_listens(table: &str, inode: u64) -> bool {
    table.lines().skip(1).any(|line| {
        // Num, RefCount, Protocol, Flags, Type, St, Inode
        let mut fields = line.split_ascii_whitespace();
        let flags = fields.nth(3).and_then(|f| u32::from_str_radix(f, 16).ok());
        let found = fields.nth(2).and_then(|f| f.parse::<u64>().ok());
        found == Some(inode) && flags.is_some_and(|flags| flags & 0x10000 != 0)
    })
}

/// The table that lists sockets of this protocol, by the name that `system.sockprotoname` gives.
pub(super) fn table(protocol: &str) -> Option<&'static str> {
    match protocol {
        "TCP" | "MPTCP" => Some("net/tcp"),
        "TCPv6" | "MPTCPv6" => Some("net/tcp6"),
        "UDP" => Some("net/udp"),
        "UDPv6" => Some("net/udp6"),
        _ => None,
    }
}

fn address(text: &str) -> Option<Address> {
    Some(Address(socket_address(text)?.to_string()))
}

/// Hexadecimal words as the host keeps them in memory, the port in network order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16)
        .ok()
        .filter(|port| *port != 0)?;
    let mut bytes = Vec::with_capacity(16);
    for i in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(i..i + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(table: &str, inode: u64) -> Option<Address> {
        peers(table).remove(&inode)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn counts_the_handshakes_of_a_listener() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100090A:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
            \x20  1: 0100090A:2328 0200090A:9C40 03 00000000:00000000 01:00000042 00000001     0        0 0 1\n\
            \x20  2: 0100090A:2328 0200090A:9C41 03 00000000:00000000 01:00000042 00000001     0        0 0 1\n\
            \x20  3: 0100090A:2328 0200090A:9C42 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n\
            \x20  4: 0100007F:2328 0100007F:9C43 03 00000000:00000000 01:00000042 00000001     0        0 0 1\n\
            \x20  5: 0100090A:2329 0200090A:9C44 03 00000000:00000000 01:00000042 00000001     0        0 0 1\n";
        let of = |listener: &str| half_open(table.as_bytes(), listener.parse().unwrap());
        assert_eq!(of("10.9.0.1:9000"), 2);
        assert_eq!(of("0.0.0.0:9000"), 3);
        assert_eq!(of("10.9.0.1:9001"), 1);
        assert_eq!(of("10.9.0.1:9002"), 0);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn finds_the_other_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1F90 0200007F:1538 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 4 30 10 -1\n\
   9: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1\n\
   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:1538 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
   2: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:1538 01 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(peer(table, 4711), Some(Address("127.0.0.2:5432".into())));
        assert_eq!(peer(table, 4712), Some(Address("127.0.0.2:5432".into())));
        assert_eq!(peer(table, 4713), Some(Address("[::1]:5432".into())));
        assert_eq!(peer(table, 1), None);
        assert_eq!(peer(table, 4714), None, "it listens");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn those_who_listen_come_first() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
   1: 0500000A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
   2: 0100007F:1F90 0200007F:1538 01 00000000:00000000 00:00000000 00000000     0        0 4713 1\n\
   3: 00000000:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1\n";
        let found = listening(table.as_bytes());
        let expected = [("0.0.0.0:8080", 4711), ("10.0.0.5:80", 4712)];
        assert_eq!(
            found,
            expected.map(|(a, inode)| (a.parse().unwrap(), inode))
        );
        assert_eq!(listening(&b"x\ny z 0A\n"[..]), []);
    }

    #[test]
    fn local_addresses_are_those_that_the_kernel_delivers_here() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n\
Local:\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        let expected = ["10.0.0.5", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(local_v4(table), expected);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
20010db8000000000000000000000007 02 40 00 80     eth0\nx 1\n\n";
        let expected = ["::1", "2001:db8::7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(local_v6(table), expected);
    }

    #[test]
    fn unix_listeners_by_their_flags() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/a b.sock\n\
0000000000000000: 00000003 00000000 00000000 0001 03 4712\n";
        assert!(unix_listens(table, 4711));
        assert!(!unix_listens(table, 4712) && !unix_listens(table, 1) && !unix_listens("", 1));
    }

    #[test]
    fn rubbish_is_nothing() {
        for bad in [
            "",
            "x",
            "x:y",
            "0100:1F90",
            "é00007F:1F90",
            "0100007F0100007F:1F90",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert_eq!(peer("\n1 2\n", 0), None);
    }
}
