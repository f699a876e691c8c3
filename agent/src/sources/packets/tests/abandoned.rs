//! Connects that nobody answered and requests that nobody acknowledged, for clients by TLS.

use crate::signal::{End, Fact, Signal};

use super::build::*;
use super::opaque::{BACK, answered, asked, finish, in_front, tls13};

const TIMEOUT: &str = "verdict - connect_timeout/unknown_path likely (accept_queue)";

/// A SYN to `server` that is repeated as Linux does, and never answered.
fn unanswered(wire: &mut Wire, at: f64, server: &str) {
    let c = wire.connection("10.0.0.1:4100", server);
    for after in [0.0, 1000.0, 3000.0] {
        let mut same = c.clone();
        wire.at(at + after).syn(&mut same);
    }
}

/// A healthy exchange with the upstream, so that time goes on and the proxy is known to ask.
fn goes_on(wire: &mut Wire, at: f64, server: &str) {
    let port = 5000 + (at as u16 % 10_000);
    let mut c = wire.at(at).open(&format!("10.0.0.1:{port}"), server);
    wire.at(at + 0.1)
        .send(&mut c, CLIENT, &request("GET", &format!("/{at}")));
    wire.at(at + 1.0).send(&mut c, SERVER, &response(200));
}

fn told(wire: &mut Wire) -> Vec<String> {
    wire.packets.sort_by_key(|packet| packet.at);
    labels(&wire.packets)
}

#[test]
fn a_connect_that_nobody_answered_is_told_when_no_syn_comes_any_more() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    unanswered(&mut wire, 1.0, BACK.1);
    goes_on(&mut wire, 7000.0, BACK.1);
    // The next SYN may still come.
    assert_eq!(told(&mut wire), [""; 0]);
    goes_on(&mut wire, 20_000.0, BACK.1);
    goes_on(&mut wire, 40_000.0, BACK.1);
    assert_eq!(told(&mut wire), [TIMEOUT]);
    // Not only at the capture's end.
    let signals = signals(&wire.packets, &[]);
    let given_up = |s: &Signal| match &s.fact {
        Fact::AttemptEnded(attempt) => attempt.end == End::ConnectGivenUp,
        _ => false,
    };
    let told = signals.iter().position(given_up).unwrap();
    assert!(signals[told..].iter().any(|s| s.at > BEGIN + 39_000 * MS));
    assert!(signals[..told].iter().all(|s| s.at < BEGIN + 39_000 * MS));
}

#[test]
fn a_connect_without_a_request_that_waits_is_a_health_check() {
    let mut wire = Wire::default();
    let mut front = tls13(&mut wire, 0.0, super::opaque::FRONT, b"");
    finish(&mut wire, 0.5, &mut front);
    asked(&mut wire, 0.6, &mut front);
    answered(&mut wire, 5.0, &mut front, 9000);
    unanswered(&mut wire, 100.0, BACK.1);
    goes_on(&mut wire, 20_000.0, BACK.1);
    assert_eq!(told(&mut wire), [""; 0]);
}

#[test]
fn a_connect_after_which_another_server_was_asked_may_have_been_made_good() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    unanswered(&mut wire, 1.0, BACK.1);
    goes_on(&mut wire, 6000.0, "10.0.0.3:9000");
    goes_on(&mut wire, 20_000.0, BACK.1);
    assert_eq!(told(&mut wire), [""; 0]);
}

#[test]
fn a_connect_may_be_for_a_client_in_the_clear() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    let mut clear = wire.at(0.8).open("10.0.0.9:5001", "10.0.0.1:80");
    wire.send(&mut clear, CLIENT, &request("GET", "/clear"));
    unanswered(&mut wire, 1.0, BACK.1);
    goes_on(&mut wire, 20_000.0, BACK.1);
    wire.at(60_000.0).send(&mut clear, SERVER, &response(504));
    goes_on(&mut wire, 61_000.0, BACK.1);
    let told = told(&mut wire);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("verdict 504 connect_timeout"),
        "{told:?}"
    );
}

/// What holds the request back holds back the FIN of the proxy that gives it up.
#[test]
fn a_request_that_was_sent_in_vain_is_told_at_the_captures_end() {
    let at_end = |times: u32, taken: bool, read: bool| {
        let mut wire = Wire::default();
        if !read {
            in_front(&mut wire);
        }
        let mut back = wire.at(1.0).open(BACK.0, BACK.1);
        let mut sent = back.clone();
        for i in 0..times {
            let mut same = back.clone();
            wire.at(2.0 + 500.0 * f64::from(i)).lost(
                &mut same,
                CLIENT,
                0x18,
                &request("GET", "/x"),
            );
            sent = same;
        }
        back = sent;
        if taken {
            wire.arrives(&mut back, CLIENT);
            wire.at(8000.0).ack(&mut back, SERVER);
        }
        goes_on(&mut wire, 9000.0, BACK.1);
        told(&mut wire)
    };
    assert_eq!(
        at_end(6, false, false),
        ["verdict - request_unacknowledged likely (accept_queue)"]
    );
    assert_eq!(at_end(6, true, false), [""; 0]);
    assert_eq!(at_end(2, false, false), [""; 0]);
    assert_eq!(at_end(6, false, true), [""; 0]);
}
