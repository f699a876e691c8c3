//! Requests in the clear whose upstream is asked by TLS: one verdict each, and none that says too much.

use super::build::*;
use super::opaque::{BACK, asked, finish, in_front, record, tls13};

const FRONT: (&str, &str) = ("10.0.0.9:6000", "10.0.0.1:80");

fn front(wire: &mut Wire, at: f64, client: &str, path: &str) -> Connection {
    let mut front = wire.at(at).open(client, FRONT.1);
    wire.at(at + 0.1)
        .send(&mut front, CLIENT, &request("GET", path));
    front
}

/// A TLS attempt that the upstream closes after its request.
fn failed(wire: &mut Wire, at: f64, from: &str, until: f64) {
    let mut back = tls13(wire, at, (from, BACK.1), b"");
    finish(wire, at + 0.5, &mut back);
    asked(wire, at + 0.6, &mut back);
    wire.at(until).ack(&mut back, SERVER);
    wire.at(until).fin(&mut back, SERVER);
    wire.at(until + 0.1).fin(&mut back, CLIENT);
}

/// Another TLS attempt, answered well.
fn healthy(wire: &mut Wire, at: f64, from: &str, until: f64) {
    let mut back = tls13(wire, at, (from, BACK.1), b"");
    finish(wire, at + 0.5, &mut back);
    asked(wire, at + 0.6, &mut back);
    wire.at(until).send(&mut back, SERVER, &record(23, 9000));
    wire.ack(&mut back, CLIENT);
}

/// In the order of time, as a capture has them.
fn told(mut wire: Wire) -> Vec<String> {
    wire.packets.sort_by_key(|packet| packet.at);
    labels(&wire.packets)
}

const ONE: &str = "verdict 502 upstream_closed_early/no_bytes likely (upstream_read)";
const TIED: &str =
    "verdict 502 upstream_closed_early/no_bytes likely (upstream_read, exchange_link)";
const UNCLEAR: &str = "verdict 502 unknown unknown (upstream_side, proxy_log)";

#[test]
fn the_only_attempt_is_the_responses_own() {
    // With TLS clients elsewhere it is not sure how many requests there are.
    for (encrypted, expected) in [(false, ONE), (true, TIED)] {
        for later in [false, true] {
            let mut wire = Wire::default();
            if encrypted {
                in_front(&mut wire);
            }
            let mut front = front(&mut wire, 100.0, FRONT.0, "/");
            failed(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
            wire.at(150.2).send(&mut front, SERVER, &response(502));
            if later {
                // Not at the capture's end.
                healthy(&mut wire, 5000.0, "10.0.0.1:4002", 5010.0);
            }
            assert_eq!(told(wire), [expected], "{encrypted} {later}");
        }
    }
}

#[test]
fn attempts_one_after_the_other_are_one_verdict() {
    let mut wire = Wire::default();
    let mut front = front(&mut wire, 100.0, FRONT.0, "/");
    failed(&mut wire, 101.0, "10.0.0.1:4001", 1150.0);
    failed(&mut wire, 1151.0, "10.0.0.1:4002", 3200.0);
    wire.at(3200.2).send(&mut front, SERVER, &response(502));
    assert_eq!(told(wire), [ONE]);
}

/// Each response is told, none of them twice, and it is not said that there was no attempt.
#[test]
fn where_several_are_possible_none_is_named() {
    // Another one was answered meanwhile, perhaps with what was passed on.
    let mut wire = Wire::default();
    let mut one = front(&mut wire, 100.0, FRONT.0, "/");
    failed(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
    healthy(&mut wire, 102.0, "10.0.0.1:4002", 149.0);
    wire.at(150.2).send(&mut one, SERVER, &response(502));
    assert_eq!(told(wire), [UNCLEAR]);

    // Two at once.
    let mut wire = Wire::default();
    let mut one = front(&mut wire, 100.0, FRONT.0, "/");
    let mut two = front(&mut wire, 100.0, "10.0.0.9:6001", "/b");
    failed(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
    failed(&mut wire, 101.0, "10.0.0.1:4002", 150.1);
    wire.at(150.2).send(&mut one, SERVER, &response(502));
    wire.at(150.3).send(&mut two, SERVER, &response(502));
    assert_eq!(told(wire), [UNCLEAR, UNCLEAR]);

    // One attempt for two responses.
    let mut wire = Wire::default();
    let mut one = front(&mut wire, 100.0, FRONT.0, "/");
    let mut two = front(&mut wire, 100.0, "10.0.0.9:6001", "/b");
    failed(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
    wire.at(150.2).send(&mut one, SERVER, &response(502));
    wire.at(150.3).send(&mut two, SERVER, &response(502));
    assert_eq!(told(wire), [UNCLEAR, UNCLEAR]);
}

/// What failed long before the response, or was still open, is not why.
#[test]
fn only_what_ended_just_before_is_the_responses_own() {
    let mut wire = Wire::default();
    let mut front = front(&mut wire, 100.0, FRONT.0, "/");
    failed(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
    wire.at(900.0).send(&mut front, SERVER, &response(502));
    assert_eq!(told(wire), [UNCLEAR]);
}

/// The proxy's TLS connection is older than the capture, and nothing of it can be followed.
#[test]
fn an_older_connection_is_no_lack_of_attempts() {
    let mut wire = Wire::default();
    let mut back = wire.connection(BACK.0, BACK.1);
    wire.at(10.0).send(&mut back, CLIENT, &record(23, 300));
    wire.at(11.0).send(&mut back, SERVER, &record(23, 900));
    let mut front = front(&mut wire, 100.0, FRONT.0, "/");
    wire.at(101.0).send(&mut back, CLIENT, &record(23, 300));
    wire.at(150.0).fin(&mut back, SERVER);
    wire.at(150.2).send(&mut front, SERVER, &response(502));
    assert_eq!(told(wire), [UNCLEAR]);
}

/// A request that cannot be read went to the upstream: its proxy did not answer by itself, and a
/// connect that fails meanwhile says nothing of its response.
#[test]
fn a_proxy_with_unread_upstreams_does_not_answer_by_itself() {
    let refused = |wire: &mut Wire, at: f64, from: &str| {
        let mut connect = wire.connection(from, "10.0.0.3:9000");
        wire.at(at).syn(&mut connect);
        wire.at(at + 0.1).push(&mut connect, SERVER, 0x14, b"");
    };
    let mut wire = Wire::default();
    let mut one = front(&mut wire, 100.0, FRONT.0, "/");
    healthy(&mut wire, 101.0, "10.0.0.1:4001", 150.0);
    refused(&mut wire, 149.9, "10.0.0.1:4002");
    wire.at(150.2).send(&mut one, SERVER, &response(200));
    let mut two = front(&mut wire, 3000.0, "10.0.0.9:6001", "/b");
    refused(&mut wire, 3100.0, "10.0.0.1:4003");
    wire.at(3100.2).send(&mut two, SERVER, &response(502));
    assert_eq!(
        told(wire),
        ["verdict 502 connection_refused likely (exchange_link)"]
    );
}
