//! Which attempt led to a response, and how sure that is.

mod handshakes;
mod refused_heads;
mod threads;

use serde_json::{Value, json};

use super::fit::NSCD;
use super::*;
use crate::cause::Cause;
use crate::signal::Signal;
use crate::track::Decided;
use crate::verdict::{Confidence, Kind};

const MS: Nanos = 1_000_000;

fn asked(path: &str) -> Value {
    json!({
        "protocol": "http_request", "method": "GET", "path": path, "path_complete": true,
        "host": null,
    })
}

/// HAProxy read several clients before it began this attempt.
fn attempt(flow: u64, thread: u32, request: Value, end: Value) -> Value {
    json!({
        "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": thread,
        "downstream": null, "retry_of": null, "upstream": "10.0.0.2:9009", "local": null,
        "began": 10 * MS, "connected": null, "reused": false, "requests_before": 0,
        "idle_ns": null, "request": request, "received": 0, "response": null, "end": end,
        "tcp": null, "peer": null, "queue": null,
    })
}

fn sent(path: &str) -> Value {
    json!({"at": 10 * MS, "bytes": 50, "opening": asked(path), "write_errno": null})
}

fn response(downstream: u64, path: &str) -> Value {
    json!({
        "kind": "response_sent", "proxy": 1, "thread": 7, "downstream": downstream,
        "ordinal": 1, "status": 504, "client": null, "proxy_address": null,
        "request": asked(path), "request_at": 9 * MS, "adjacent": null, "last_attempt": null,
    })
}

/// What the thread had read last when it began the attempt.
fn read(downstream: u64, request: Value) -> Value {
    json!({
        "flow": downstream, "ordinal": 1, "order": "after_read", "client": null,
        "proxy_address": null, "request": request, "state": "open", "read_before_ns": null,
    })
}

fn refused() -> Value {
    json!({"how": "connect_failed", "errno": 111})
}

fn all_of(software: &str, signals: &[(Nanos, Value)]) -> Vec<Decided> {
    let process = json!({
        "kind": "process_seen", "pid": 1, "parent": 0, "name": "proxy", "software": software,
        "settings": [], "started": 0, "netns": 0, "sagemaker": false,
    });
    let mut tracker = Tracker::default();
    let mut out = Vec::new();
    for (at, fact) in std::iter::once(&(MS, process)).chain(signals) {
        let signal = json!({"at": at, "source": "kernel", "fact": fact});
        let signal: Signal = serde_json::from_value(signal).unwrap();
        out.extend(tracker.observe(&signal));
    }
    out.extend(tracker.finish());
    out
}

fn verdicts_of(software: &str, signals: &[(Nanos, Value)]) -> Vec<Decided> {
    let mut out = all_of(software, signals);
    out.retain(|decided| decided.kind == Kind::Verdict);
    out
}

fn decided(signals: &[(Nanos, Value)]) -> Vec<Decided> {
    verdicts_of("haproxy", signals)
}

fn confidence(signals: &[(Nanos, Value)]) -> Vec<Confidence> {
    let decided = decided(signals);
    decided
        .iter()
        .map(|verdict| verdict.diagnosis.confidence)
        .collect()
}

#[test]
fn what_was_asked_tells_whose_attempt_it_was() {
    let given_up = || json!({"how": "given_up"});
    let out = decided(&[
        (2000 * MS, response(5, "/a")),
        (2000 * MS, response(6, "/b")),
        (2001 * MS, attempt(1, 7, sent("/b"), given_up())),
        (2001 * MS, attempt(2, 7, sent("/a"), given_up())),
    ]);
    assert_eq!(out.len(), 2);
    for verdict in out {
        let (_, _, response) = verdict.response.as_ref().unwrap();
        let flow = if response.downstream == 5 { 2 } else { 1 };
        assert_eq!(verdict.attempts[0].attempt.flow, flow);
        assert_eq!(response.adjacent, Some(flow));
    }
}

#[test]
fn what_fails_as_a_request_leaves_its_queue_may_be_anothers() {
    let tied = |waited: Nanos, request: Value, how: &str, status: u16| {
        let mut one = attempt(1, 7, request, json!({"how": how, "errno": 111}));
        one["began"] = (9 * MS + waited).into();
        let end = 9 * MS + waited + MS;
        let mut answer = response(5, "/a");
        answer["status"] = status.into();
        let out = decided(&[(end, one), (end, answer)]);
        let [verdict] = &out[..] else {
            panic!("{out:?}");
        };
        let (_, _, response) = verdict.response.as_ref().unwrap();
        response.adjacent.is_some()
    };
    assert!(tied(MS, sent("/a"), "reset", 502));
    assert!(!tied(1000 * MS, sent("/a"), "reset", 502));
    // Another client's that was tried again, as this one found no room.
    assert!(!tied(MS, sent("/a"), "reset", 503));
    assert!(tied(MS, sent("/a"), "given_up", 504));
    // Its timer answers 504: the client of a request like this one has left.
    assert!(!tied(MS, sent("/a"), "given_up", 503));
    // What a connect is for cannot be told.
    assert!(!tied(MS, Value::Null, "connect_failed", 502));
}

/// The next client's connect fails a moment after the answer. One that was begun before it may have led
/// to it.
#[test]
fn what_was_begun_after_the_answer_did_not_lead_to_it() {
    let tied = |began: Nanos| {
        let mut next = attempt(
            2,
            7,
            Value::Null,
            json!({"how": "connect_failed", "errno": 111}),
        );
        next["began"] = began.into();
        let mut answer = response(5, "/a");
        answer["status"] = 502.into();
        let out = decided(&[
            (11 * MS, attempt(1, 7, sent("/a"), json!({"how": "reset"}))),
            (11 * MS, answer),
            (12 * MS, next),
        ]);
        let (_, _, response) = out[0].response.as_ref().unwrap();
        response.adjacent.is_some()
    };
    assert!(tied(11 * MS + MS / 2));
    assert!(!tied(11 * MS - MS / 2));
}

#[test]
fn nothing_is_adjacent_to_what_another_like_it_may_be() {
    let given_up = || json!({"how": "given_up"});
    let adjacent = |signals: &[(Nanos, Value)]| -> Vec<bool> {
        let tied = |d: &Decided| {
            d.response
                .as_ref()
                .is_some_and(|(.., r)| r.adjacent.is_some())
        };
        decided(signals).iter().map(tied).collect()
    };
    let alone = [
        (2000 * MS, response(5, "/a")),
        (2001 * MS, attempt(1, 7, sent("/a"), given_up())),
    ];
    assert_eq!(adjacent(&alone), [true]);
    // Two requests alike, with one attempt or two between them.
    let mut twins = alone.to_vec();
    twins.insert(1, (2000 * MS, response(6, "/a")));
    assert_eq!(adjacent(&twins), [false, false]);
    twins.push((2001 * MS, attempt(2, 7, sent("/a"), given_up())));
    assert_eq!(adjacent(&twins), [false, false]);
    let two_attempts = [alone[0].clone(), alone[1].clone(), twins[3].clone()];
    assert_eq!(adjacent(&two_attempts), [false]);
    // Too far apart: something else may have answered it.
    let later = [alone[0].clone(), (2010 * MS, alone[1].1.clone())];
    assert_eq!(adjacent(&later), [false]);
    assert_ne!(confidence(&later), [Confidence::Proven]);
}

/// Whichever of them was whose, what it failed of is the same.
#[test]
fn of_requests_alike_each_is_proven_where_all_failed_of_the_same() {
    let waited = |flow: u64, accepted: bool| {
        let mut one = attempt(flow, 7, sent("/a"), json!({"how": "given_up"}));
        one["peer"] = json!({"accepted": accepted, "read": false, "reader": null, "closed": null});
        (2001 * MS, one)
    };
    let answered = |downstream: u64| (2000 * MS, response(downstream, "/a"));
    let proven = Confidence::Proven;
    let both = [waited(1, true), answered(5), answered(6), waited(2, true)];
    assert_eq!(confidence(&both), [proven; 2]);
    let differ = [waited(1, true), answered(5), answered(6), waited(2, false)];
    assert!(!confidence(&differ).contains(&proven));
    // One of the clients was told by the proxy alone.
    let third = [&both[..], &[answered(7)]].concat();
    assert!(!confidence(&third).contains(&proven));
    // The first of them is decided when the second one's comes.
    let later = |(at, one): (Nanos, Value)| (at + MS, one);
    let spread = [
        waited(1, true),
        answered(5),
        later(answered(6)),
        later(waited(2, true)),
    ];
    assert_eq!(confidence(&spread), [proven; 2]);
}

fn bad_gateway(downstream: u64) -> Value {
    let mut one = response(downstream, "/a");
    one["status"] = 502.into();
    one
}

#[test]
fn of_requests_alike_the_one_read_first_is_sent_first() {
    let at = |flow: u64, began: Nanos| {
        let mut one = attempt(flow, 7, Value::Null, refused());
        one["began"] = began.into();
        one
    };
    let asked = |downstream: u64, at: Nanos| {
        let mut one = response(downstream, "/a");
        one["request_at"] = at.into();
        one
    };
    let out = decided(&[
        (20 * MS, at(1, 10 * MS)),
        (20 * MS + MS / 10, at(2, 12 * MS)),
        (20 * MS + MS / 5, asked(5, 9 * MS)),
        (20 * MS + MS / 4, asked(6, 11 * MS)),
    ]);
    let flows: Vec<_> = out.iter().map(|d| d.attempts[0].attempt.flow).collect();
    assert_eq!(flows, [1, 2]);
}

/// Seen of Varnish: what ended half a millisecond after an answer was the next answer's.
#[test]
fn of_requests_alike_none_is_answered_before_its_attempt_ends() {
    let whose = |software: &str| {
        let ended = |flow: u64, began: Nanos| {
            let mut one = attempt(flow, 7, sent("/a"), json!({"how": "peer_closed"}));
            one["began"] = began.into();
            one["request"]["at"] = began.into();
            one
        };
        let mut answer = response(5, "/a");
        answer["status"] = 503.into();
        let out = verdicts_of(
            software,
            &[
                (20 * MS, ended(1, 12 * MS)),
                (21 * MS, answer),
                (21 * MS + MS / 2, ended(2, 10 * MS)),
            ],
        );
        out[0].attempts[0].attempt.flow
    };
    assert_eq!(whose("varnish"), 1);
    assert_eq!(whose("go"), 2);
}

#[test]
fn of_requests_alike_the_one_whose_client_left_is_another() {
    let upstream_ended = |status: u16| {
        let mut answer = response(5, "/a");
        answer["status"] = status.into();
        let out = decided(&[
            (
                21 * MS,
                attempt(1, 7, sent("/a"), json!({"how": "given_up"})),
            ),
            (
                20 * MS,
                attempt(2, 7, sent("/a"), json!({"how": "reset", "errno": 104})),
            ),
            (22 * MS, answer),
        ]);
        out[0].attempts[0].attempt.flow
    };
    assert_eq!(upstream_ended(503), 2);
    assert_eq!(upstream_ended(504), 1);
}

/// All that is left is the attempt of a client that gave up, and this one's was given to another.
#[test]
fn what_a_proxy_does_not_say_of_such_an_end_is_anothers() {
    let attempts = |software: &str, end: &str, status: u16| {
        let mut answer = response(5, "/a");
        answer["status"] = status.into();
        let one = attempt(1, 7, sent("/a"), json!({"how": end}));
        let out = verdicts_of(software, &[(21 * MS, one), (22 * MS, answer)]);
        out[0].attempts.len()
    };
    for software in ["haproxy", "envoy", "caddy", "other"] {
        assert_eq!(attempts(software, "given_up", 503), 0, "{software}");
        assert_eq!(attempts(software, "given_up", 504), 1, "{software}");
        assert_eq!(attempts(software, "reset", 503), 1, "{software}");
    }
    for (software, tells) in [
        ("haproxy", true),
        ("envoy", true),
        ("h2o", false),
        ("caddy", false),
    ] {
        let found = usize::from(!tells);
        assert_eq!(attempts(software, "given_up", 502), found, "{software}");
        assert_eq!(attempts(software, "reset", 504), found, "{software}");
    }
    assert_eq!(attempts("varnish", "given_up", 503), 1);
}

#[test]
fn an_upstreams_own_error_is_found_by_its_request_and_status() {
    let answered = |status: u16| {
        let mut one = attempt(1, 7, sent("/a"), json!({"how": "answered"}));
        one["received"] = 100.into();
        one["response"] = json!({"protocol": "http_response", "status": status});
        decided(&[(2000 * MS, one), (2000 * MS + MS / 10, response(5, "/a"))])
    };
    let same = answered(504);
    assert_eq!(same[0].diagnosis.cause, Cause::UpstreamAnswered);
    assert!(answered(502)[0].attempts.is_empty(), "another's");
    // What nobody asked for (a health check) is nothing to tell.
    let mut check = attempt(1, 7, sent("/health"), json!({"how": "answered"}));
    check["response"] = json!({"protocol": "http_response", "status": 503});
    let mut tracker = Tracker::default();
    let signal = json!({"at": MS, "source": "kernel", "fact": check});
    tracker.observe(&serde_json::from_value(signal).unwrap());
    assert_eq!(tracker.finish().len(), 0);
}
