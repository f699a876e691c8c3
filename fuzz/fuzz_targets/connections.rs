//! Any segments and ICMP errors on a few connections of a proxy, in several network namespaces,
//! with losses and clocks that step: verdicts come of it, their packets, and an end.

#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use why502::sources::packets::file::BATCH;
use why502::sources::packets::segment::{Flags, Frame, Unreachable};
use why502_fuzz::{Event, explain, signals};

/// Two clients, the proxy's two ports, two upstreams.
const ENDS: [([u8; 4], u16); 6] = [
    ([10, 0, 0, 1], 50_001),
    ([10, 0, 0, 1], 50_002),
    ([10, 0, 0, 2], 80),
    ([10, 0, 0, 2], 40_001),
    ([10, 0, 0, 3], 9000),
    ([127, 0, 0, 1], 9001),
];
const STEP: usize = 10;
/// Flags that no segment has say that this is none.
const NONE: u8 = 0xc0;

fn end(number: u8) -> SocketAddr {
    SocketAddr::from(ENDS[usize::from(number) % ENDS.len()])
}

fuzz_target!(|input: &[u8]| {
    let mut events = Vec::new();
    let (mut rest, mut at) = (input, 1_000_000_000_u64);
    while let Some((step, after)) = rest.split_at_checked(STEP) {
        // Clocks step back as well.
        at = at
            .wrapping_add(u64::from(step[6]) * 3_000_000)
            .saturating_sub(u64::from(step[5] & 3) * 1_000_000);
        let frame = Frame {
            number: events.len() as u64 + 1,
            interface: u32::from(step[9] >> 6),
        };
        let (from, to) = (end(step[0]), end(step[1]));
        let seq = u32::from(step[2]).wrapping_mul(0x0101_0000);
        rest = after;
        if step[4] & NONE == NONE {
            events.push(match step[4] & 3 {
                0 => Event::Unreachable(Unreachable {
                    at,
                    frame,
                    router: to.ip(),
                    from,
                    to,
                    seq,
                    errno: i32::from(step[3]),
                }),
                1 => Event::Namespace(u32::from(step[3] & 3)),
                2 => Event::Lost(u64::from(step[3])),
                _ => Event::Tick(at),
            });
            continue;
        }
        // Up to 4095 bytes: more than any head may have unfinished.
        let length = usize::from(u16::from_le_bytes([step[7], step[8]]) & 0x0fff);
        let (payload, after) = after.split_at(length.min(after.len()));
        rest = after;
        events.push(Event::Segment {
            at,
            interface: frame.interface,
            from,
            to,
            seq,
            ack: u32::from(step[3]).wrapping_mul(0x0101_0000),
            flags: Flags(step[4]),
            window: u16::from(step[5]),
            length: payload.len() as u32 + u32::from(step[5] >> 7),
            payload: payload.to_vec(),
        });
    }
    explain(&events, &signals(&events, BATCH));
});
