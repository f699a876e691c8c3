//! Any text as requests and responses, whole or in pieces, between clients, a proxy and upstreams:
//! pieces tell the same however they are handed over, and nothing of users' traffic gets out.
//!
//! A message begins with 0xFF and a byte that says whose it is and what becomes of it; its bytes
//! are the rest, up to the next 0xFF.

#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use why502::sources::packets::file::BATCH;
use why502::sources::packets::segment::Flags;
use why502_fuzz::{Event, explain, signals};

const MARK: u8 = 0xff;
const MILLISECOND: u64 = 1_000_000;
/// Bytes of a segment.
const PIECES: [usize; 4] = [1400, 100, 7, 1];
/// More pieces of a message than this only take time.
const MOST_PIECES: usize = 200;

/// Client and server of each connection, and their next sequence numbers.
struct Connection {
    ends: [SocketAddr; 2],
    next: [u32; 2],
}

fn connections() -> [Connection; 4] {
    let end = |last: u8, port: u16| SocketAddr::from(([10, 0, 0, last], port));
    [
        [end(1, 50_001), end(2, 80)],
        [end(1, 50_002), end(2, 80)],
        [end(2, 40_001), end(3, 9000)],
        [end(2, 40_002), end(4, 9001)],
    ]
    .map(|ends| Connection {
        ends,
        next: [1000, 2000],
    })
}

fuzz_target!(|input: &[u8]| {
    let mut connections = connections();
    let mut events = Vec::new();
    let mut at = 1_000_000_000;
    for message in input.split(|byte| *byte == MARK) {
        let Some((&how, bytes)) = message.split_first() else {
            continue;
        };
        let connection = &mut connections[usize::from(how & 3)];
        let sender = usize::from(how >> 2 & 1);
        let size = PIECES[usize::from(how >> 3 & 3)];
        let fate = how >> 5;
        let first = events.len();
        let mut segment = |payload: &[u8], flags: u8| {
            at += MILLISECOND / 10;
            let seq = connection.next[sender];
            let kept = if fate == 6 {
                payload.len() / 2
            } else {
                payload.len()
            };
            events.push(Event::Segment {
                at,
                interface: 0,
                from: connection.ends[sender],
                to: connection.ends[1 - sender],
                seq,
                ack: connection.next[1 - sender],
                flags: Flags(flags),
                window: 512,
                length: payload.len() as u32,
                payload: payload[..kept].to_vec(),
            });
            let taken = payload.len() as u32 + u32::from(flags & (Flags::FIN | Flags::SYN) != 0);
            connection.next[sender] = seq.wrapping_add(taken);
        };
        if bytes.is_empty() && fate == 0 {
            segment(&[], Flags::SYN | if sender == 1 { Flags::ACK } else { 0 });
        }
        for piece in bytes.chunks(size).take(MOST_PIECES) {
            segment(piece, Flags::ACK);
        }
        match fate {
            1 => segment(&[], Flags::ACK | Flags::FIN),
            2 => segment(&[], Flags::ACK | Flags::RST),
            // The capture lacks some.
            3 => connection.next[sender] = connection.next[sender].wrapping_add(100),
            4 => reverse(&mut events[first..]),
            5 => at += 5000 * MILLISECOND,
            _ => {}
        }
    }
    let told = signals(&events, BATCH);
    assert!(told == signals(&events, 1), "one by one or together");
    explain(&events, &told);
});

/// The last segment comes first; times stay in order.
fn reverse(events: &mut [Event]) {
    let mut times: Vec<u64> = Vec::new();
    for event in &*events {
        if let Event::Segment { at, .. } = event {
            times.push(*at);
        }
    }
    events.reverse();
    for (event, time) in events.iter_mut().zip(times) {
        if let Event::Segment { at, .. } = event {
            *at = time;
        }
    }
}
