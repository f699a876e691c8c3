//! ICMP errors about a TCP segment, and the errno that Linux makes of each.

use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;

use super::super::segment::Unreachable;
use super::{Decoded, Rest, ip};

const HEADER: usize = 8;

/// An error that cannot be read tells nothing: it counts as understood.
#[cold]
pub(super) fn decode(protocol: IpNumber, router: IpAddr, rest: Rest<'_>) -> Decoded<'_> {
    unreachable(protocol, router, rest).map_or(Decoded::Other, Decoded::Unreachable)
}

fn unreachable(protocol: IpNumber, router: IpAddr, rest: Rest<'_>) -> Option<Unreachable> {
    let &[kind, code, ..] = rest.bytes else {
        return None;
    };
    let errno = if protocol == IpNumber::ICMP {
        errno_v4(kind, code)
    } else {
        errno_v6(kind, code)
    }?;
    let quoted = ip::slice(rest.after(HEADER).ok()?).ok()?;
    if quoted.protocol != IpNumber::TCP || quoted.fragmented {
        return None;
    }
    // A router quotes eight bytes at least: ports and sequence number.
    let &[a, b, c, d, e, f, g, h] = quoted.payload.bytes.first_chunk::<8>()?;
    Some(Unreachable {
        at: rest.at,
        frame: rest.frame,
        router,
        from: SocketAddr::new(quoted.ends.from, u16::from_be_bytes([a, b])),
        to: SocketAddr::new(quoted.ends.to, u16::from_be_bytes([c, d])),
        seq: u32::from_be_bytes([e, f, g, h]),
        errno,
    })
}

/// As Linux's `icmp_err_convert`; `None` where the connection goes on.
fn errno_v4(kind: u8, code: u8) -> Option<i32> {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const TIME_EXCEEDED: u8 = 11;
    match (kind, code) {
        (DESTINATION_UNREACHABLE, 0 | 6 | 9 | 11) => Some(libc::ENETUNREACH),
        (DESTINATION_UNREACHABLE, 1 | 10 | 12..=15) => Some(libc::EHOSTUNREACH),
        (DESTINATION_UNREACHABLE, 2) => Some(libc::ENOPROTOOPT),
        (DESTINATION_UNREACHABLE, 3) => Some(libc::ECONNREFUSED),
        // 4 asks for smaller packets.
        (DESTINATION_UNREACHABLE, 5) => Some(libc::EOPNOTSUPP),
        (DESTINATION_UNREACHABLE, 7) => Some(libc::EHOSTDOWN),
        (DESTINATION_UNREACHABLE, 8) => Some(libc::ENONET),
        (TIME_EXCEEDED, _) => Some(libc::EHOSTUNREACH),
        _ => None,
    }
}

/// As Linux's `icmpv6_err_convert`.
fn errno_v6(kind: u8, code: u8) -> Option<i32> {
    const DESTINATION_UNREACHABLE: u8 = 1;
    const TIME_EXCEEDED: u8 = 3;
    match (kind, code) {
        (DESTINATION_UNREACHABLE, 0) => Some(libc::ENETUNREACH),
        (DESTINATION_UNREACHABLE, 1 | 5 | 6) => Some(libc::EACCES),
        (DESTINATION_UNREACHABLE, 2 | 3) => Some(libc::EHOSTUNREACH),
        (DESTINATION_UNREACHABLE, 4) => Some(libc::ECONNREFUSED),
        (TIME_EXCEEDED, _) => Some(libc::EHOSTUNREACH),
        _ => None,
    }
}
