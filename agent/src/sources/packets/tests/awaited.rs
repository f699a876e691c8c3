//! Failed attempts whose response is not there yet: kept until it is, and no longer than a proxy may try.

use super::build::*;
use crate::signal::Fact;
use crate::sources::packets::Packets;
use crate::sources::packets::awaited::AWAITED;

const SECOND: f64 = 1000.0;

/// A request that a proxy passes on to a server that closes at once.
fn closed_at_once(wire: &mut Wire, at: f64, i: u16) -> Connection {
    let ask = request("GET", &format!("/{i}"));
    let mut front = wire
        .at(at)
        .open(&format!("10.0.0.9:{}", 5000 + i), "10.0.0.1:80");
    wire.at(at + 1.0).send(&mut front, CLIENT, &ask);
    let mut back = wire
        .at(at + 1.1)
        .open(&format!("10.0.0.1:{}", 6000 + i), "10.0.0.2:9000");
    wire.at(at + 1.2).send(&mut back, CLIENT, &ask);
    wire.at(at + 1.3).ack(&mut back, SERVER);
    wire.at(at + 2.0).fin(&mut back, SERVER);
    wire.at(at + 2.1).fin(&mut back, CLIENT);
    front
}

/// Others' packets: connections are forgotten while such come.
fn meanwhile(wire: &mut Wire, from: f64, to: f64) {
    let mut other = wire.at(from).open("10.7.0.1:7000", "10.7.0.2:7001");
    let mut at = from;
    while at < to {
        at += 100.0;
        wire.at(at).ack(&mut other, CLIENT);
    }
}

fn read(wire: &mut Wire) -> (Packets, Vec<crate::signal::Signal>) {
    wire.packets.sort_by_key(|packet| packet.at);
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    for (i, packet) in wire.packets.iter().enumerate() {
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    (source, out)
}

#[test]
fn a_failed_attempt_is_told_with_its_response_however_late_that_comes() {
    for (status, told) in [
        (200, "nearmiss 200 upstream_closed_early/no_bytes likely"),
        (504, "verdict 504 read_timeout_no_reply likely"),
    ] {
        let mut wire = Wire::default();
        let mut front = closed_at_once(&mut wire, 0.0, 0);
        let ask = request("GET", "/0");
        let mut next = wire.at(2.3).open("10.0.0.1:4000", "10.0.0.3:9000");
        wire.send(&mut next, CLIENT, &ask);
        wire.at(2.5).ack(&mut next, SERVER);
        let over = 60.0 * SECOND;
        match status {
            200 => wire.at(over).send(&mut next, SERVER, &response(200)),
            _ => wire.at(over).fin(&mut next, CLIENT),
        }
        wire.at(over + 0.1)
            .send(&mut front, SERVER, &response(status));
        meanwhile(&mut wire, 10.0, over + 10.0 * SECOND);
        wire.packets.sort_by_key(|packet| packet.at);
        let decided = verdicts(&wire.packets, &[]);
        let labels: Vec<String> = decided.iter().map(label).collect();
        assert!(
            labels.len() == 1 && labels[0].starts_with(told),
            "{labels:?}"
        );
        let tried = decided[0].attempts.iter();
        let tried: Vec<&str> = tried.map(|t| t.attempt.upstream.0.as_str()).collect();
        assert_eq!(tried[0], "10.0.0.2:9000", "{tried:?}");
    }
}

/// Requests whose responses never come, as where their ends are not in the capture.
#[test]
fn an_attempt_that_no_response_claims_is_forgotten_in_time() {
    let mut wire = Wire::default();
    for i in 0..50 {
        closed_at_once(&mut wire, f64::from(i), i);
    }
    meanwhile(&mut wire, 100.0, 80.0 * SECOND);
    let (mut source, mut out) = read(&mut wire);
    assert_eq!((source.awaited, source.exchanges.live()), (50, 100));
    source.tick(BEGIN + 92_000 * MS, &mut out);
    assert_eq!(source.awaited, 0);
    let mut wire = Wire::default();
    meanwhile(&mut wire, 92.0 * SECOND, 152.0 * SECOND);
    for packet in &wire.packets {
        source.segment(&packet.segment(1), &mut out);
    }
    // The requests themselves are still open.
    assert_eq!(source.exchanges.live(), 50);
}

/// Three attempts for two requests alike, of which each has its answer.
#[test]
fn an_attempt_too_many_is_forgotten_with_the_responses() {
    let mut wire = Wire::default();
    let mut fronts: Vec<_> = (0..2)
        .map(|i| {
            let from = format!("10.0.0.9:{}", 5000 + i);
            let mut front = wire.at(0.0).open(&from, "10.0.0.1:80");
            wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
            front
        })
        .collect();
    for i in 0..3 {
        let from = format!("10.0.0.1:{}", 6000 + i);
        let mut back = wire.at(1.5).open(&from, "10.0.0.2:9000");
        wire.at(2.0).send(&mut back, CLIENT, &request("GET", "/a"));
        wire.at(3.0).fin(&mut back, SERVER);
        wire.at(3.1).fin(&mut back, CLIENT);
    }
    for front in &mut fronts {
        wire.at(400.0).send(front, SERVER, &response(502));
    }
    meanwhile(&mut wire, 500.0, 40.0 * SECOND);
    let (source, _) = read(&mut wire);
    assert_eq!((source.awaited, source.exchanges.live()), (0, 0));
}

/// The same where the proxy asks from another address than it is asked at, which is learned late: the
/// requests are seen, so what is left over is nobody else's failure.
#[test]
fn an_attempt_too_many_is_no_verdict_of_its_own() {
    let mut wire = Wire::default();
    let ask = request("GET", "/a");
    let open = |wire: &mut Wire, from: String, to: &str| {
        let mut c = wire.open(&from, to);
        wire.send(&mut c, CLIENT, &ask);
        c
    };
    let mut fronts: Vec<_> = (0..2)
        .map(|i| {
            let from = format!("127.0.0.1:{}", 5000 + i);
            open(wire.at(1.0), from, "127.0.0.1:8080")
        })
        .collect();
    for i in 0..4 {
        let at = if i < 2 { 20.0 } else { 1600.0 };
        let from = format!("10.9.0.1:{}", 6000 + i);
        let mut back = open(wire.at(at), from, "10.9.0.2:9000");
        wire.at(at + 1.0).ack(&mut back, SERVER);
        wire.at(at + 1500.0).fin(&mut back, CLIENT);
    }
    for front in &mut fronts {
        wire.at(3100.2).send(front, SERVER, &response(504));
    }
    meanwhile(&mut wire, 10.0, 10.0 * SECOND);
    wire.packets.sort_by_key(|packet| packet.at);
    let told = labels(&wire.packets);
    let verdicts = told.iter().filter(|l| l.starts_with("verdict"));
    assert!(told.iter().all(|l| !l.starts_with("verdict -")), "{told:?}");
    assert_eq!(verdicts.count(), 2, "{told:?}");
}

#[test]
fn what_is_awaited_is_bounded_and_the_rest_counted() {
    let mut wire = Wire::default();
    let more = 10;
    for i in 0..(AWAITED + more) as u16 {
        let ask = request("GET", &format!("/{i}"));
        let mut front = wire.connection(&format!("10.0.0.9:{}", 5000 + i), "10.0.0.1:80");
        wire.at(1.0).send(&mut front, CLIENT, &ask);
        let mut back = wire.connection(&format!("10.0.0.1:{}", 5000 + i), "10.0.0.2:9000");
        wire.at(1.1).send(&mut back, CLIENT, &ask);
        wire.at(1.2).fin(&mut back, SERVER);
    }
    let (mut source, mut out) = read(&mut wire);
    source.tick(BEGIN + 600 * MS, &mut out);
    assert_eq!(source.awaited, AWAITED);
    let lost = out.iter().find_map(|signal| match &signal.fact {
        Fact::SignalsLost { reason, count, .. } if reason == "attempts" => Some(*count),
        _ => None,
    });
    assert_eq!(lost, Some(more as u64));
}
