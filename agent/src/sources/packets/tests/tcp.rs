//! TCP as captures have it: repeated, reordered, cut, and with ports used again.

use super::build::*;
use crate::sources::packets::Packets;

/// A slow exchange that ends in a 504, its request in two segments.
fn slow() -> Wire {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let text = request("GET", "/slow");
    wire.at(1.0).send(&mut front, CLIENT, &text);
    let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
    wire.at(1.2).send(&mut back, CLIENT, &text[..9]);
    wire.at(1.21).send(&mut back, CLIENT, &text[9..]);
    wire.at(1.4).ack(&mut back, SERVER);
    wire.at(1001.5).fin(&mut back, CLIENT);
    wire.at(1001.6).send(&mut front, SERVER, &response(504));
    wire
}

const SLOW: &str = "verdict 504 read_timeout_no_reply likely (upstream_read, upstream_accepted)";

#[test]
fn a_head_in_pieces_is_put_together() {
    assert_eq!(labels(&slow().packets), [SLOW]);
}

#[test]
fn every_packet_twice_changes_nothing() {
    let once = slow().packets;
    let twice: Vec<Packet> = once
        .iter()
        .flat_map(|p| {
            let mut copy = p.clone();
            copy.at += 20_000;
            [p.clone(), copy]
        })
        .collect();
    assert_eq!(labels(&twice), [SLOW]);
}

#[test]
fn segments_out_of_order_are_put_in_order() {
    let mut packets = slow().packets;
    let second = packets
        .iter()
        .position(|p| p.to.port() == 9000 && p.length > 0)
        .unwrap();
    packets.swap(second, second + 1);
    assert_eq!(labels(&packets), [SLOW]);
}

#[test]
fn a_snap_length_leaves_enough() {
    let mut packets = slow().packets;
    for packet in &mut packets {
        packet.payload.truncate(24);
    }
    assert_eq!(labels(&packets), [SLOW]);
}

#[test]
fn a_clock_that_steps_back_neither_panics_nor_stops() {
    let mut packets = slow().packets;
    let half = packets.len() / 2;
    for packet in &mut packets[half..] {
        packet.at -= 3_600_000 * MS;
    }
    assert_eq!(labels(&packets).len(), 1);
    for packet in &mut packets {
        packet.at = 0;
    }
    labels(&packets);
}

/// Two interfaces, one of which lags by a minute: what takes a second takes no hours.
#[test]
fn clocks_of_two_interfaces_do_not_drive_each_other() {
    let mut wire = slow();
    let mut other = wire.at(50.0).open("10.0.0.8:6000", "10.0.0.7:80");
    for i in 0..20 {
        let at = 60.0 + 40.0 * f64::from(i);
        wire.at(at).ack(&mut other, CLIENT);
    }
    wire.packets.sort_by_key(|packet| packet.at);
    let mut source = Packets::new(&[]);
    let mut out = Vec::new();
    for (i, packet) in wire.packets.iter().enumerate() {
        let mut segment = packet.segment(i as u64 + 1);
        if segment.from.port() == 6000 || segment.to.port() == 6000 {
            segment.frame.interface = 1;
            segment.at -= 60_000 * MS;
        }
        source.segment(&segment, &mut out);
    }
    source.finish(&mut out);
    let last = out.iter().map(|signal| signal.at).max();
    assert!(last.unwrap() < BEGIN + 3_000 * MS);
}

#[test]
fn ports_used_again_are_another_connection() {
    let mut wire = slow();
    let mut front = wire.at(1500.0).open("10.0.0.9:5001", "10.0.0.1:80");
    wire.at(1500.1)
        .send(&mut front, CLIENT, &request("GET", "/again"));
    let mut back = wire.connection("10.0.0.1:4000", "10.0.0.2:9000");
    let mut other = wire.connection("10.0.0.1:4444", "10.0.0.2:9000");
    std::mem::swap(&mut back, &mut other);
    back.client = other.client;
    wire.at(1500.2).syn(&mut back);
    wire.push(&mut back, SERVER, 0x12, b"");
    wire.ack(&mut back, CLIENT);
    wire.send(&mut back, CLIENT, &request("GET", "/again"));
    wire.at(1501.0).send(&mut back, SERVER, &response(503));
    wire.at(1501.1).send(&mut front, SERVER, &response(503));
    assert_eq!(
        labels(&wire.packets),
        [SLOW, "verdict 503 upstream_answered proven"]
    );
}

#[test]
fn bytes_missing_from_the_capture_leave_nothing_proven() {
    let (mut wire, mut front, mut back) = passed_on("/a");
    wire.at(2.0).send(&mut back, SERVER, &response(503));
    wire.at(2.05).send(&mut back, SERVER, b"not captured");
    wire.packets.pop();
    wire.at(2.06).ack(&mut back, CLIENT);
    wire.at(2.1).send(&mut front, SERVER, &response(503));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 upstream_answered likely (packets)"]
    );
}
