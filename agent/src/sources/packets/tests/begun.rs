//! Connections whose beginning is not in the capture, or not all of it.

use super::build::*;
use super::missing::{BACK, told};
use crate::sources::packets::Packets;
use crate::sources::packets::segment::Flags;

/// Of the handshake some is missing: the connection is there all the same.
#[test]
fn a_connect_whose_answer_is_missing_was_answered() {
    for (pause, missing) in [(0.1, 1), (400.0, 1), (400.0, 2)] {
        let mut wire = Wire::default();
        let mut back = wire.at(0.0).open(BACK.0, BACK.1);
        let begun = 1.0 + pause;
        wire.at(begun)
            .send(&mut back, CLIENT, &request("GET", "/1"));
        wire.at(begun + 1.0).send(&mut back, SERVER, &response(200));
        wire.at(begun + 1.1).ack(&mut back, CLIENT);
        wire.at(1000.0)
            .send(&mut back, CLIENT, &request("GET", "/2"));
        wire.at(1000.1).ack(&mut back, SERVER);
        wire.at(3000.0).fin(&mut back, SERVER);
        wire.packets.drain(1..1 + missing);
        let told = told(wire);
        assert_eq!(told.len(), 1, "{pause} {missing}: {told:?}");
        assert_eq!(told[0].0, " /2", "{pause} {missing}");
        assert!(
            told[0].1.starts_with("verdict - upstream_closed_early"),
            "{told:?}"
        );
    }
}

/// Even of its handshake nothing but the SYN is there.
#[test]
fn a_failure_is_the_requests_and_not_its_connects() {
    let mut wire = Wire::default();
    let mut back = wire.at(0.0).open(BACK.0, BACK.1);
    wire.at(400.0)
        .send(&mut back, CLIENT, &request("GET", "/1"));
    wire.at(400.1).ack(&mut back, SERVER);
    wire.at(3000.0).fin(&mut back, SERVER);
    wire.packets.drain(1..3);
    let told = told(wire);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, " /1", "{told:?}");
}

/// And one that is closed while it is idle has not failed.
#[test]
fn an_idle_connection_whose_handshake_is_missing_does_not_fail() {
    let mut wire = Wire::default();
    let mut back = wire.at(0.0).open(BACK.0, BACK.1);
    wire.at(1.0).send(&mut back, CLIENT, &request("GET", "/1"));
    wire.at(2.0).send(&mut back, SERVER, &response(200));
    wire.at(1000.0).fin(&mut back, SERVER);
    wire.packets.remove(1);
    assert!(told(wire).is_empty());
}

/// How the second connection between the same ends began is missing.
#[test]
fn ports_used_again_without_a_beginning_are_another_connection() {
    const FAR: u32 = 0x2000_0000;
    const BEHIND: u32 = FAR.wrapping_neg();
    /// As after some milliseconds, by the clock that numbers begin with.
    const SOON: u32 = 0x2_0000;
    let ends: [(&str, &[u32]); 3] = [
        ("closed", &[FAR, BEHIND, SOON]),
        ("reset", &[FAR, BEHIND]),
        // Of an idle connection what comes from ahead may be its own, with a gap before it.
        ("idle", &[BEHIND]),
    ];
    for (end, jumps) in ends {
        for jumps in jumps.iter().flat_map(|a| jumps.iter().map(|b| [*a, *b])) {
            let mut wire = Wire::default();
            let mut back = wire.at(0.0).open(BACK.0, BACK.1);
            wire.at(1.0).send(&mut back, CLIENT, &request("GET", "/1"));
            wire.at(2.0).send(&mut back, SERVER, &response(200));
            match end {
                "closed" => {
                    wire.at(10.0).fin(&mut back, SERVER);
                    wire.at(10.1).fin(&mut back, CLIENT);
                    wire.at(10.2).ack(&mut back, SERVER);
                }
                "reset" => wire.at(10.0).push(&mut back, SERVER, 0x14, b""),
                _ => {}
            }
            let mut again = wire.connection(BACK.0, BACK.1);
            for (side, jump) in jumps.into_iter().enumerate() {
                again.seq[side] = back.seq[side].wrapping_add(jump);
                wire.arrives(&mut again, side);
            }
            wire.at(500.0)
                .send(&mut again, CLIENT, &request("GET", "/2"));
            wire.at(501.0).send(&mut again, SERVER, &response(200));
            wire.at(501.1).ack(&mut again, CLIENT);
            wire.at(1000.0)
                .send(&mut again, CLIENT, &request("GET", "/3"));
            wire.at(1000.1).ack(&mut again, SERVER);
            wire.at(3000.0).fin(&mut again, SERVER);
            let told = told(wire);
            assert_eq!(told.len(), 1, "{end} {jumps:x?}: {told:?}");
            assert_eq!(told[0].0, " /3", "{end} {jumps:x?}");
            let label = &told[0].1;
            assert!(
                label.starts_with("verdict - upstream_closed_early"),
                "{end} {jumps:x?}: {label}"
            );
        }
    }
}

/// Ends of connections whose ports are used again are not in the capture: they are forgotten all the same.
#[test]
fn connections_whose_ports_are_used_again_are_forgotten_soon() {
    let mut wire = Wire::default();
    for i in 0..100 {
        let mut front = wire.connection("10.0.0.9:5000", "10.0.0.1:80");
        front.seq[CLIENT] = front.seq[CLIENT].wrapping_add(i * 1_000_003);
        wire.at(f64::from(i)).syn(&mut front);
        wire.push(&mut front, SERVER, Flags::SYN | Flags::ACK, b"");
        wire.ack(&mut front, CLIENT);
    }
    let mut other = wire.at(200.0).open("10.0.0.8:4000", "10.0.0.1:80");
    for i in 0..2000 {
        wire.at(1000.0 + f64::from(i) * 5.0).ack(&mut other, CLIENT);
    }
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    for (i, packet) in wire.packets.iter().enumerate() {
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    // The last one with these ports is as good as any.
    let kept = |at: &u32| source.flows.peek(*at).is_some();
    assert_eq!((0..200).filter(kept).count(), 2);
}
