//! Any segments on a few connections of a proxy: signals and verdicts come of it, and an end.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use why502::signal::Signal;
use why502::sources::packets::Packets;
use why502::sources::packets::segment::{Flags, Frame, Segment};
use why502::track::Tracker;

/// Two clients, the proxy's two ports, two upstreams.
const ENDS: [([u8; 4], u16); 6] = [
    ([10, 0, 0, 1], 50_001),
    ([10, 0, 0, 1], 50_002),
    ([10, 0, 0, 2], 80),
    ([10, 0, 0, 2], 40_001),
    ([10, 0, 0, 3], 9000),
    ([10, 0, 0, 4], 9001),
];
const STEP: usize = 8;

fn end(number: u8) -> SocketAddr {
    let (address, port) = ENDS[usize::from(number) % ENDS.len()];
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port)
}

fuzz_target!(|input: &[u8]| {
    let mut packets = Packets::new(&[]);
    let mut tracker = Tracker::default();
    let mut signals: Vec<Signal> = Vec::new();
    let (mut rest, mut at, mut number) = (input, 1_000_000_000_u64, 0);
    while let Some((step, after)) = rest.split_at_checked(STEP) {
        let length = usize::from(step[7]).min(after.len());
        let (payload, after) = after.split_at(length);
        rest = after;
        number += 1;
        // Clocks step back as well.
        at = at
            .wrapping_add(u64::from(step[6]) * 3_000_000)
            .saturating_sub(u64::from(step[5] & 3) * 1_000_000);
        packets.segment(
            &Segment {
                at,
                frame: Frame {
                    number,
                    interface: 0,
                },
                from: end(step[0]),
                to: end(step[1]),
                seq: u32::from(step[2]).wrapping_mul(0x0101_0000),
                ack: u32::from(step[3]).wrapping_mul(0x0101_0000),
                flags: Flags(step[4]),
                window: u16::from(step[5]),
                length: length as u32 + u32::from(step[5] >> 7),
                payload,
            },
            &mut signals,
        );
        for signal in signals.drain(..) {
            tracker.observe(&signal);
        }
    }
    packets.finish(&mut signals);
    for signal in signals.drain(..) {
        tracker.observe(&signal);
    }
    tracker.finish();
});
