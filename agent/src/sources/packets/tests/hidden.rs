//! Failures that a proxy hides behind a good answer: what is told of them, and what is not.

use super::build::*;
use super::crowd::*;
use super::opaque::{answered, asked, finish, tls13};

#[test]
fn a_failure_that_the_proxy_hides_is_told_unless_it_may_be_none() {
    let hidden = |refused: f64, by_itself: bool| {
        let mut crowd = Crowd::default();
        let sorry = crowd.ask(1.0, "/hidden");
        let forwarded = crowd.ask(1.05, "/well");
        crowd.refused(refused, "10.0.0.2:9000");
        crowd.forward(1.2, "/well", 200);
        crowd.answer(1.3, sorry, 200);
        crowd.answer(3.0, forwarded, 200);
        if by_itself {
            let file = crowd.ask(500.0, "/file");
            crowd.answer(500.1, file, 200);
        }
        // The capture goes on.
        let last = crowd.ask(3000.0, "/last");
        crowd.forward(3000.1, "/last", 200);
        crowd.answer(3002.0, last, 200);
        crowd.told()
    };
    assert_eq!(
        hidden(1.1, false),
        [format!("/hidden verdict 200 {REFUSED}")]
    );
    // Refused before it was asked for, if only by so much as clocks of two interfaces may differ.
    let told = hidden(0.9, false);
    assert!(
        told.iter().all(|line| !line.contains("verdict")),
        "{told:?}"
    );
    // What answers some requests by itself may have answered this one; whose connect it was stays open.
    let told = hidden(1.1, true);
    assert!(
        told.iter().all(|line| !line.contains("verdict")),
        "{told:?}"
    );
}

/// Two proxies: what one of them was refused hides behind none of the other's answers.
#[test]
fn a_refusal_hides_behind_an_answer_of_its_own_proxy() {
    let mut crowd = Crowd::default();
    let mut other = crowd.wire.at(0.5).open("10.0.0.9:4000", "10.0.0.5:80");
    let ask = request("GET", "/other");
    crowd.wire.send(&mut other, CLIENT, &ask);
    let hidden = crowd.ask(1.0, "/hidden");
    crowd.refused(1.1, "10.0.0.2:9000");
    crowd.wire.at(1.2).send(&mut other, SERVER, &response(200));
    crowd.answer(1.3, hidden, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    assert_eq!(crowd.told(), [format!("/hidden verdict 200 {REFUSED}")]);
}

/// An older request was answered by its upstream: it hides nothing.
#[test]
fn a_refusal_hides_behind_no_answer_of_an_upstream() {
    let mut crowd = Crowd::default();
    let well = crowd.ask(0.95, "/well");
    let hidden = crowd.ask(1.0, "/hidden");
    crowd.forward(1.02, "/well", 200);
    crowd.refused(1.1, "10.0.0.2:9000");
    crowd.answer(2.1, well, 200);
    crowd.answer(2.2, hidden, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    assert_eq!(crowd.told(), [format!("/hidden verdict 200 {REFUSED}")]);
}

/// Two have asked alike, and both were answered by an upstream, long before the proxy had passed that on:
/// whichever answer was whose.
#[test]
fn a_refusal_hides_behind_no_answer_that_an_attempt_alike_had_long_before() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/same"), crowd.ask(1.2, "/same"));
    crowd.forward(1.1, "/same", 200);
    crowd.forward(1.3, "/same", 200);
    crowd.refused(50.0, "10.0.0.2:9000");
    crowd.answer(52.0, a, 200);
    crowd.answer(53.0, b, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    let told = crowd.told();
    assert!(told.iter().all(|l| !l.contains("verdict")), "{told:?}");
}

/// The second server was asked for another path than the client's, and answered.
#[test]
fn a_refusal_hides_behind_no_answer_to_a_rewritten_path() {
    let told = |tried: &str| {
        let mut crowd = Crowd::default();
        let asked = crowd.ask(1.0, "/api/x");
        crowd.refused(1.1, "10.0.0.2:9000");
        crowd.forward(1.3, tried, 200);
        crowd.answer(2.4, asked, 200);
        let last = crowd.ask(3000.0, "/last");
        crowd.forward(3000.1, "/last", 200);
        crowd.answer(3002.0, last, 200);
        let told = crowd.told();
        told.iter().any(|l| l.contains("verdict"))
    };
    assert!(!told("/x"));
    // Of a client of its own.
    assert!(told("/y"));
}

/// Of two that it may hide behind the later one is answered first: the proxy needs no upstream for that,
/// so the refusal is neither's.
#[test]
fn a_refusal_hides_behind_no_answer_that_is_not_the_oldest_requests() {
    let mut crowd = Crowd::default();
    let (first, second) = (crowd.ask(1.0, "/first"), crowd.ask(1.05, "/second"));
    crowd.refused(1.1, "10.0.0.2:9000");
    crowd.answer(1.2, second, 200);
    crowd.answer(1.3, first, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    let told = crowd.told();
    assert!(told.iter().all(|l| !l.contains("verdict")), "{told:?}");
}

/// The proxy was seen to connect there for no request: it may have done so again.
#[test]
fn a_check_that_is_refused_hides_behind_no_answer() {
    let mut crowd = Crowd::default();
    let begin = crowd.ask(0.0, "/begin");
    crowd.forward(0.1, "/begin", 200);
    crowd.answer(2.0, begin, 200);
    crowd.refused(500.0, "10.0.0.2:9000");
    let beside = crowd.ask(1001.0, "/beside");
    crowd.refused(1001.1, "10.0.0.2:9000");
    crowd.answer(1001.3, beside, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    let told = crowd.told();
    assert!(told.iter().all(|l| !l.contains("verdict")), "{told:?}");
}

/// The proxy has an upstream that it asks by TLS: the answer may have come from there.
#[test]
fn a_refusal_hides_behind_no_answer_that_cannot_be_read() {
    let mut crowd = Crowd::default();
    let hidden = crowd.ask(1.0, "/hidden");
    let mut back = tls13(
        &mut crowd.wire,
        1.05,
        ("10.0.0.1:30000", "10.0.0.3:9443"),
        b"",
    );
    crowd.refused(1.1, "10.0.0.2:9000");
    finish(&mut crowd.wire, 1.5, &mut back);
    asked(&mut crowd.wire, 1.6, &mut back);
    answered(&mut crowd.wire, 1.7, &mut back, 9000);
    crowd.answer(2.0, hidden, 200);
    let last = crowd.ask(3000.0, "/last");
    crowd.forward(3000.1, "/last", 200);
    crowd.answer(3002.0, last, 200);
    let told = crowd.told();
    assert!(told.iter().all(|l| !l.contains("verdict")), "{told:?}");
}
