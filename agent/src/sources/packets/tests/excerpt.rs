//! The second reading finds the packets of a verdict, and no more than its share.

use super::build::*;
use crate::packet::{Connection, What};
use crate::signal::Source;
use crate::sources::packets::excerpt::{Excerpt, PER_VERDICT};

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
    let mut excerpt = Excerpt::default();
    for decided in verdicts(packets, &[]) {
        excerpt.add(&decided, |_| 0);
    }
    for (i, packet) in packets.iter().enumerate() {
        excerpt.segment(&packet.segment(i as u64 + 1), 0);
    }
    excerpt
}

#[test]
fn a_verdicts_packets_are_those_of_its_connections_and_time() {
    let mut excerpt = excerpt(&raced().packets);
    let (packets, left_out) = excerpt.take(0);
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
    assert_eq!(left_out, 0);
    let of: Vec<_> = packets.iter().map(|p| p.connection).collect();
    let (down, up) = (Connection::Downstream, Connection::Attempt(0));
    assert_eq!(of, [down, up, up, down, up]);
    assert!(excerpt.take(1).0.is_empty());
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
    let mut excerpt = excerpt(&packets);
    let (kept, left_out) = excerpt.take(0);
    assert_eq!(
        (kept.len(), left_out),
        (PER_VERDICT, 1005 - PER_VERDICT as u64)
    );
    assert_eq!(kept[0].what, What::Request);
    assert_eq!(kept[PER_VERDICT - 1].what, What::Reset);
}

#[test]
fn a_body_that_looks_like_a_head_is_none() {
    let mut wire = raced();
    let mut front = wire.connection("10.0.0.9:5000", "10.0.0.1:80");
    wire.packets.retain(|p| p.at < BEGIN + 905 * MS);
    let sent = wire.packets.iter().rposition(|p| p.from == front.client);
    let mut body = wire.packets[sent.unwrap()].clone();
    body.seq = body.seq.wrapping_add(body.length);
    body.payload = b"GET /secret HTTP/1.1\r\n".to_vec();
    body.length = body.payload.len() as u32;
    wire.packets.insert(sent.unwrap() + 1, body);
    wire.at(1000.0)
        .send(&mut front, CLIENT, b"GET /next HTTP/1.1\r\n\r\n");
    let mut excerpt = excerpt(&wire.packets);
    let (packets, _) = excerpt.take(0);
    let seen: Vec<What> = packets
        .iter()
        .filter(|p| p.connection == Connection::Downstream)
        .map(|p| p.what)
        .collect();
    assert_eq!(seen, [What::Request, What::Data, What::Response(502)]);
}

#[test]
fn probes_know_a_request_by_its_method_and_path_however_late_it_was_read() {
    let mut wire = raced();
    // On the client's connection, right before: bytes that look like another request.
    let second = wire
        .packets
        .iter()
        .position(|p| p.payload.starts_with(b"POST /second") && p.from.port() == 5000);
    let second = second.unwrap();
    let mut before = wire.packets[second].clone();
    before.at -= 5 * MS;
    before.seq = before.seq.wrapping_sub(30);
    before.payload = b"POST /secret HTTP/1.1\r\n".to_vec();
    wire.packets.insert(second, before);
    let mut excerpt = Excerpt::default();
    for mut decided in verdicts(&raced().packets, &[]) {
        let (_, source, response) = decided.response.as_mut().unwrap();
        *source = Source::Kernel;
        // The proxy was busy.
        *response.request_at.as_mut().unwrap() += 200 * MS;
        for tried in &mut decided.attempts {
            tried.source = Source::Kernel;
            tried.attempt.request.as_mut().unwrap().at += MS / 20;
        }
        excerpt.add(&decided, |_| 0);
    }
    for (i, packet) in wire.packets.iter().enumerate() {
        excerpt.segment(&packet.segment(i as u64 + 1), 0);
    }
    let (packets, _) = excerpt.take(0);
    let seen: Vec<What> = packets.iter().map(|p| p.what).collect();
    assert_eq!(
        seen,
        [
            What::Data,
            What::Request,
            What::Request,
            What::Fin,
            What::Response(502),
            What::Reset,
        ]
    );
}

#[test]
fn each_loopback_has_packets_of_its_own() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    let mut back = wire.at(1.1).open("127.0.0.1:4000", "127.0.0.1:9000");
    wire.at(1.2).send(&mut back, CLIENT, &request("GET", "/a"));
    wire.at(1.3).fin(&mut back, SERVER);
    wire.at(1.4).send(&mut front, SERVER, &response(502));
    let decided = verdicts(&wire.packets, &[]);
    let mut excerpt = Excerpt::default();
    excerpt.add(&decided[0], |_| 3);
    for (space, found) in [(2, false), (3, true)] {
        for (i, packet) in wire.packets.iter().enumerate() {
            excerpt.segment(&packet.segment(i as u64 + 1), space);
        }
        assert_eq!(!excerpt.take(0).0.is_empty(), found);
    }
}
