//! HTTP's own turns: requests sent ahead, answers without the body that they announce, and ends
//! that cross.

use super::build::*;
use crate::signal::Opening;
use crate::sources::packets::Packets;
use crate::sources::packets::segment::Flags;

/// A client's connection and the proxy's, and what the upstream answers passed on.
fn answered(wire: &mut Wire, ends: &mut [Connection; 2], at: f64, bytes: &[u8]) {
    let [front, back] = ends;
    wire.at(at).send(back, SERVER, bytes);
    wire.at(at + 0.1).send(front, SERVER, bytes);
}

fn ends(wire: &mut Wire) -> [Connection; 2] {
    let front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let back = wire.at(1.0).open("10.0.0.1:4000", "10.0.0.2:9000");
    [front, back]
}

#[test]
fn requests_sent_ahead_are_answered_in_their_order() {
    let mut wire = Wire::default();
    let mut ends = ends(&mut wire);
    let [one, two] = ["/one", "/two"].map(|path| request("GET", path));
    let both = [one.clone(), two.clone()].concat();
    wire.at(2.0).send(&mut ends[0], CLIENT, &both);
    wire.at(2.1).send(&mut ends[1], CLIENT, &one);
    answered(&mut wire, &mut ends, 3.0, &response(200));
    wire.at(3.2).send(&mut ends[1], CLIENT, &two);
    answered(&mut wire, &mut ends, 4.0, &response(503));
    let decided = verdicts(&wire.packets, &[]);
    let labels: Vec<String> = decided.iter().map(label).collect();
    assert_eq!(labels, ["verdict 503 upstream_answered proven"]);
    let (_, _, failed) = decided[0].response.as_ref().unwrap();
    let Some(Opening::HttpRequest { path, .. }) = &failed.request else {
        panic!("{:?}", failed.request);
    };
    assert_eq!(path, "/two");
}

#[test]
fn an_answer_to_head_has_no_body() {
    let mut wire = Wire::default();
    let mut ends = ends(&mut wire);
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
    for (at, method, bytes) in [
        (2.0, "HEAD", &announced[..]),
        (5.0, "GET", &response(503)[..]),
    ] {
        wire.at(at)
            .send(&mut ends[0], CLIENT, &request(method, "/a"));
        wire.at(at + 0.1)
            .send(&mut ends[1], CLIENT, &request(method, "/a"));
        answered(&mut wire, &mut ends, at + 1.0, bytes);
    }
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 upstream_answered proven"]
    );
}

#[test]
fn ends_that_cross_are_no_failure() {
    let mut wire = Wire::default();
    let mut ends = ends(&mut wire);
    wire.at(2.0)
        .send(&mut ends[0], CLIENT, &request("GET", "/a"));
    wire.at(2.1)
        .send(&mut ends[1], CLIENT, &request("GET", "/a"));
    answered(&mut wire, &mut ends, 3.0, &response(200));
    for end in &mut ends {
        for side in [CLIENT, SERVER] {
            wire.at(900.0).lost(end, side, Flags::FIN | Flags::ACK, b"");
        }
        for side in [CLIENT, SERVER] {
            wire.arrives(end, side);
        }
        for side in [CLIENT, SERVER] {
            wire.at(901.0).ack(end, side);
        }
    }
    // The same ports again: nothing of the first connections is left.
    wire.at(2000.0);
    for end in &mut ends {
        end.seq = end.seq.map(|seq| seq.wrapping_add(1_000_000));
        wire.syn(end);
        wire.push(end, SERVER, Flags::SYN | Flags::ACK, b"");
        wire.ack(end, CLIENT);
    }
    assert!(labels(&wire.packets).is_empty());
    wire.at(2001.0)
        .send(&mut ends[0], CLIENT, &request("GET", "/b"));
    wire.at(2001.1)
        .send(&mut ends[1], CLIENT, &request("GET", "/b"));
    answered(&mut wire, &mut ends, 2002.0, &response(503));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 upstream_answered proven"]
    );
}

/// Heads that have begun take no more than so much memory: what finds no room is not followed, and what
/// comes next of it begins nothing.
#[test]
fn the_rest_of_a_head_that_found_no_room_is_no_answer() {
    let mut wire = Wire::default();
    let begun = format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(30_000));
    let mut all: Vec<Connection> = (0..160)
        .map(|i| {
            let client = format!("10.0.0.9:{}", 5000 + i);
            let mut c = wire.at(f64::from(i)).open(&client, "10.0.0.1:80");
            wire.send(&mut c, CLIENT, &request("GET", "/a"));
            wire.send(&mut c, SERVER, begun.as_bytes());
            c
        })
        .collect();
    for c in &mut all {
        wire.at(200.0).send(c, SERVER, b"xx\r\n\r\n");
    }
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    for (i, packet) in wire.packets.iter().enumerate() {
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    let lost = source.counts().heads;
    assert!((1..160).contains(&lost), "{lost}");
    let answered = |id: &u32| source.exchanges.at(*id).status == 200;
    let read = source.exchanges.ids().filter(answered).count() as u64;
    assert_eq!(read + lost, 160);
    let other = |id: &u32| source.exchanges.at(*id).answer.is_some();
    assert_eq!(source.exchanges.ids().filter(other).count(), 0);
}
