//! `/proc/PID/net/{tcp,tcp6,udp,udp6}`: the other end of a socket, by its inode.

use std::collections::HashMap;
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

/// Hexadecimal words as the host keeps them in memory, the port in network order.
fn address(text: &str) -> Option<Address> {
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
    Some(Address(
        SocketAddr::new(ip.to_canonical(), port).to_string(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(table: &str, inode: u64) -> Option<Address> {
        peers(table).remove(&inode)
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
