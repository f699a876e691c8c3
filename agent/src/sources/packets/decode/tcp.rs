//! The TCP header. Read by hand: a snap length may cut its options, which are not needed.

use std::net::SocketAddr;

use super::super::segment::{Flags, Segment};
use super::ip::Ends;
use super::{Decoded, Reason, Rest};

pub(super) const SMALLEST_HEADER: usize = 20;

pub(super) fn decode(ends: Ends, rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    let Some((header, _)) = rest.bytes.split_first_chunk::<SMALLEST_HEADER>() else {
        return Err(if rest.wire < SMALLEST_HEADER {
            Reason::Malformed
        } else {
            Reason::Truncated
        });
    };
    let number16 = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let number32 = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let length = usize::from(header[12] >> 4) * 4;
    if length < SMALLEST_HEADER || length > rest.wire {
        return Err(Reason::Malformed);
    }
    Ok(Decoded::Segment(Segment {
        at: rest.at,
        frame: rest.frame,
        from: SocketAddr::new(ends.from, number16(0)),
        to: SocketAddr::new(ends.to, number16(2)),
        seq: number32(4),
        ack: number32(8),
        flags: Flags(header[13]),
        window: number16(14),
        length: u32::try_from(rest.wire - length).unwrap_or(u32::MAX),
        payload: rest.bytes.get(length..).unwrap_or_default(),
    }))
}
