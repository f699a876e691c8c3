//! The second reading finds the packets of a verdict, and no more than its share.

use super::build::*;
use crate::sources::packets::excerpt::{Excerpt, PER_VERDICT, What};

fn raced() -> Wire {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let mut back = wire.at(0.0).open("10.0.0.1:4000", "10.0.0.2:9000");
    let mut other = wire.at(0.0).open("10.0.0.8:5000", "10.0.0.1:80");
    for (at, path) in [(1.0, "/first"), (900.0, "/second")] {
        wire.at(at).send(&mut front, CLIENT, &request("POST", path));
        wire.at(at)
            .lost(&mut back, CLIENT, 0x18, &request("POST", path));
        wire.at(at)
            .send(&mut other, CLIENT, b"GET /healthy HTTP/1.1\r\n");
        if at < 2.0 {
            wire.arrives(&mut back, CLIENT);
            wire.at(2.0).send(&mut back, SERVER, &response(200));
            wire.at(2.0).send(&mut front, SERVER, &response(200));
        }
    }
    wire.at(900.1).fin(&mut back, SERVER);
    wire.at(900.2).send(&mut front, SERVER, &response(502));
    wire.at(920.0).reset(&mut back, SERVER);
    wire
}

fn excerpt(packets: &[Packet]) -> Excerpt {
    let mut excerpt = Excerpt::of(&verdicts(packets, &[]));
    for (i, packet) in packets.iter().enumerate() {
        excerpt.segment(&packet.segment(i as u64 + 1));
    }
    excerpt
}

#[test]
fn a_verdicts_packets_are_those_of_its_connections_and_time() {
    let excerpt = excerpt(&raced().packets);
    let (packets, left_out) = excerpt.packets(0);
    let seen: Vec<(What, bool)> = packets.iter().map(|p| (p.what, p.from_client)).collect();
    assert_eq!(
        seen,
        [
            (What::Request, true),
            (What::Request, true),
            (What::Fin, false),
            (What::Response(502), false),
            (What::Reset, false),
        ]
    );
    assert_eq!((left_out, excerpt.frames().count()), (0, 5));
    assert!(excerpt.packets(1).0.is_empty());
}

#[test]
fn a_long_exchange_keeps_its_beginning_and_its_end() {
    let mut packets = raced().packets;
    let fin = packets.iter().position(|p| p.flags & 1 != 0).unwrap();
    let mut ack = packets[fin - 1].clone();
    (ack.from, ack.to) = (
        "10.0.0.2:9000".parse().unwrap(),
        "10.0.0.1:4000".parse().unwrap(),
    );
    (ack.length, ack.flags, ack.at) = (0, 0x10, packets[fin].at);
    ack.payload.clear();
    let fin_packet = packets[fin].clone();
    (ack.seq, ack.ack) = (fin_packet.seq, fin_packet.ack);
    for _ in 0..1000 {
        packets.insert(fin, ack.clone());
    }
    let excerpt = excerpt(&packets);
    let (kept, left_out) = excerpt.packets(0);
    assert_eq!(
        (kept.len(), left_out),
        (PER_VERDICT, 1005 - PER_VERDICT as u64)
    );
    assert_eq!(kept[0].what, What::Request);
    assert_eq!(kept[PER_VERDICT - 1].what, What::Reset);
}
