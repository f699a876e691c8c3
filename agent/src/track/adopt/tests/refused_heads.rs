//! Answers whose heads the proxy refused: told as it closes their connection, tied to nobody.

use serde_json::{Value, json};

use super::*;

/// What it was answered with, as it was told when the proxy closed the connection.
fn refused_answer(flow: u64, end: &str, fault: Value) -> Value {
    let mut one = attempt(flow, 7, sent("/a"), json!({"how": end}));
    one["received"] = 60.into();
    one["response"] = json!({"protocol": "http_response", "status": 200});
    one["fault"] = fault;
    one
}

#[test]
fn an_answer_that_was_refused_is_found_by_what_was_asked() {
    let told = |fault: Value| {
        let malformed = refused_answer(1, "answered", fault);
        let out = decided(&[(11 * MS, malformed), (11 * MS, bad_gateway(5))]);
        (out[0].diagnosis.cause, out[0].diagnosis.confidence)
    };
    let invalid = |confidence| (Cause::ResponseInvalid, confidence);
    assert_eq!(told(json!("malformed")), invalid(Confidence::Proven));
    assert_eq!(told(Value::Null), invalid(Confidence::Likely));
    // Nobody was told of a failure: the proxy passed it on, to a client that it closes for.
    let mut tracker = Tracker::default();
    let well = refused_answer(1, "peer_closed", Value::Null);
    let signal = json!({"at": MS, "source": "kernel", "fact": well});
    tracker.observe(&serde_json::from_value(signal).unwrap());
    assert_eq!(tracker.finish().len(), 0);
}

/// Varnish answers whatever goes wrong with 503.
#[test]
fn a_refused_answer_is_told_with_the_proxys_own_status() {
    let tied = |software: &str, status: u16| {
        let mut answer = bad_gateway(5);
        answer["status"] = status.into();
        let malformed = refused_answer(1, "answered", json!("malformed"));
        let out = verdicts_of(software, &[(11 * MS, malformed), (11 * MS, answer)]);
        (out[0].diagnosis.cause, out[0].diagnosis.confidence)
    };
    let invalid = (Cause::ResponseInvalid, Confidence::Proven);
    assert_eq!(tied("varnish", 503), invalid);
    assert_ne!(tied("varnish", 502), invalid);
    assert_ne!(tied("haproxy", 503), invalid);
}

#[test]
fn what_surely_failed_is_chosen_before_an_answer_that_may_have_been_taken() {
    let out = decided(&[
        (11 * MS, refused_answer(1, "answered", Value::Null)),
        (11 * MS, attempt(2, 7, sent("/a"), json!({"how": "reset"}))),
        (11 * MS, bad_gateway(5)),
    ]);
    assert_eq!(out[0].attempts[0].attempt.flow, 2);
}

/// Its close is told before the response, or after.
#[test]
fn an_answer_that_was_refused_is_told_once() {
    let close = || refused_answer(1, "answered", json!("malformed"));
    let mut linked = close();
    linked["fault"] = Value::Null;
    linked["downstream"] = read(5, asked("/a"));
    let mut answer = bad_gateway(5);
    answer["last_attempt"] = linked;
    for signals in [
        [(11 * MS, close()), (11 * MS, answer.clone())],
        [(11 * MS, answer), (11 * MS, close())],
    ] {
        let out = all_of("haproxy", &signals);
        let [one] = &out[..] else {
            panic!("{out:#?}");
        };
        assert_eq!(one.attempts.len(), 1, "{one:#?}");
        assert!(one.attempts[0].attempt.downstream.is_some());
        assert_eq!(one.diagnosis.cause, Cause::ResponseInvalid);
        assert_eq!(one.diagnosis.confidence, Confidence::Proven);
    }
}
