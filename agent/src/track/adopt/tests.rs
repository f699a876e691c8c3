use serde_json::{Value, json};

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

/// What it was answered with, as it was told when the proxy closed the connection.
fn refused_answer(flow: u64, end: &str, fault: Value) -> Value {
    let mut one = attempt(flow, 7, sent("/a"), json!({"how": end}));
    one["received"] = 60.into();
    one["response"] = json!({"protocol": "http_response", "status": 200});
    one["fault"] = fault;
    one
}

fn bad_gateway(downstream: u64) -> Value {
    let mut one = response(downstream, "/a");
    one["status"] = 502.into();
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

fn of_go(signals: &[(Nanos, Value)]) -> Vec<Decided> {
    verdicts_of("other", signals)
}

fn refused() -> Value {
    json!({"how": "connect_failed", "errno": 111})
}

/// What the thread had read last when it began the attempt.
fn read(downstream: u64, request: Value) -> Value {
    json!({
        "flow": downstream, "ordinal": 1, "order": "after_read", "client": null,
        "proxy_address": null, "request": request, "state": "open", "read_before_ns": null,
    })
}

#[test]
fn threads_that_share_their_work_tie_nothing() {
    // Begun by a thread that had read another client last.
    let mut one = attempt(1, 7, sent("/a"), json!({"how": "given_up"}));
    one["downstream"] = read(6, asked("/b"));
    let out = of_go(&[
        (2000 * MS, response(5, "/a")),
        (2000 * MS, response(6, "/b")),
        (2001 * MS, one),
    ]);
    for verdict in &out {
        let (.., response) = verdict.response.as_ref().unwrap();
        assert_eq!(
            verdict.attempts.len(),
            usize::from(response.downstream == 5)
        );
    }
    // A connect that failed alone, in any thread; and one of two.
    let connect = |flow| attempt(flow, 8, Value::Null, refused());
    // Either may be one that the proxy made for itself: to check, or to tell of itself.
    let alone = of_go(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, connect(1))]);
    assert_eq!(alone[0].diagnosis.cause, Cause::ConnectionRefused);
    assert_eq!(alone[0].diagnosis.confidence, Confidence::Likely);
    let mut nscd = connect(1);
    nscd["upstream"] = NSCD.into();
    nscd["end"]["errno"] = 2.into();
    let asked = of_go(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, nscd)]);
    assert!(asked[0].attempts.is_empty());
    let two = of_go(&[
        (2000 * MS, response(5, "/a")),
        (2000 * MS + 1, connect(1)),
        (2000 * MS + 2, connect(2)),
    ]);
    assert_eq!(two[0].response.as_ref().unwrap().2.adjacent, None);
    assert_ne!(two[0].diagnosis.confidence, Confidence::Proven);
}

/// A refused connect that began when its thread had read this client.
fn connect_for(client: Value) -> Value {
    let mut one = attempt(1, 7, Value::Null, refused());
    one["downstream"] = read(5, client);
    one
}

#[test]
fn only_a_thread_that_waits_for_each_client_is_known_by_its_connect() {
    let tied = |software: &str| {
        let signals = [
            (10 * MS, connect_for(asked("/a"))),
            (10 * MS, response(5, "/a")),
        ];
        let out = verdicts_of(software, &signals);
        assert_eq!(
            out[0].diagnosis.cause,
            Cause::ConnectionRefused,
            "{software}"
        );
        out[0].diagnosis.confidence
    };
    assert_eq!(tied("apache"), Confidence::Proven);
    // It connects for nothing but requests.
    assert_eq!(tied("h2o"), Confidence::Proven);
    // The server may have been checked at the moment at which it answered that it has none.
    for software in ["haproxy", "envoy", "caddy"] {
        assert_eq!(tied(software), Confidence::Likely, "{software}");
    }
}

/// h2o connects for requests alone: of several connects that failed alike it does not matter which was whose.
#[test]
fn connects_for_requests_alone_are_known_where_all_failed_alike() {
    let told = |errnos: [i32; 2], software: &str| {
        let mut signals = Vec::new();
        for (flow, errno) in (1..).zip(errnos) {
            let end = json!({"how": "connect_failed", "errno": errno});
            signals.push((11 * MS, attempt(flow, 7, Value::Null, end)));
        }
        for downstream in [5, 6] {
            let mut answer = response(downstream, "/a");
            answer["status"] = 502.into();
            signals.push((11 * MS, answer));
        }
        let out = verdicts_of(software, &signals);
        let proven = |v: &&Decided| v.diagnosis.confidence == Confidence::Proven;
        (out.len(), out.iter().filter(proven).count())
    };
    assert_eq!(told([111, 111], "h2o"), (2, 2));
    // Which of the two was whose cannot be told.
    assert_eq!(told([111, 113], "h2o"), (2, 0));
    // HAProxy checks its servers as well.
    assert_eq!(told([111, 111], "haproxy"), (2, 0));
}

#[test]
fn what_is_answered_well_after_another_try_that_nobody_saw_is_no_failure() {
    let kinds = |software: &str| -> Vec<Kind> {
        let mut good = response(5, "/a");
        good["status"] = 200.into();
        let signals = [(10 * MS, connect_for(asked("/a"))), (12 * MS, good)];
        all_of(software, &signals).iter().map(|d| d.kind).collect()
    };
    for software in ["haproxy", "envoy", "caddy", "apache"] {
        assert_eq!(kinds(software), [Kind::NearMiss], "{software}");
    }
    // Its next try would be known: this is an `error_page`.
    assert_eq!(kinds("nginx"), [Kind::Verdict]);
}

#[test]
fn behind_tls_only_what_a_timer_ended_is_known_to_have_failed() {
    let kinds = |software: &str, request: Value, end: Value| -> Vec<Kind> {
        let mut one = attempt(1, 7, request, end);
        one["downstream"] = read(5, json!({"protocol": "tls"}));
        let signals = [(10 * MS, one), (2000 * MS, json!({"kind": "tick"}))];
        all_of(software, &signals).iter().map(|d| d.kind).collect()
    };
    assert_eq!(kinds("nginx", Value::Null, refused()), [Kind::Verdict]);
    assert_eq!(kinds("haproxy", Value::Null, refused()), [Kind::NearMiss]);
    let given_up = json!({"how": "given_up"});
    assert_eq!(kinds("haproxy", sent("/a"), given_up), [Kind::Verdict]);
}

#[test]
fn a_connect_that_failed_belongs_to_what_its_thread_said_at_once() {
    let after = |time: Nanos, thread| {
        let out = decided(&[
            (2000 * MS, response(5, "/a")),
            (2000 * MS + time, attempt(1, thread, Value::Null, refused())),
        ]);
        out[0].attempts.len()
    };
    assert_eq!(after(MS / 10, 7), 1);
    assert_eq!(after(MS / 10, 8), 0, "another thread's");
    assert_eq!(after(20 * MS, 7), 0, "too late");
    // Its thread had no CPU to answer, but the connect began as the request came, at 9 ms.
    let before = |began: Nanos, thread| {
        let mut one = attempt(1, thread, Value::Null, refused());
        one["began"] = began.into();
        let out = decided(&[(1980 * MS, one), (2000 * MS, response(5, "/a"))]);
        out[0].attempts.len()
    };
    assert_eq!(before(10 * MS, 7), 1);
    assert_eq!(before(10 * MS, 8), 0, "another thread's");
    assert_eq!(before(100 * MS, 7), 0, "begun for another");
}

#[test]
fn a_connection_that_was_begun_before_may_have_been_given_to_this_request() {
    let of = |flow: u64, began: Nanos, sent_at: Nanos| {
        let mut one = attempt(flow, 7, sent("/a"), json!({"how": "reset"}));
        one["began"] = began.into();
        one["request"]["at"] = sent_at.into();
        (20 * MS, one)
    };
    let found = |attempts: &[(Nanos, Value)]| {
        let answered = [(20 * MS, bad_gateway(5))];
        let out = decided(&[attempts, &answered].concat());
        out[0].attempts.first().map(|t| t.attempt.flow)
    };
    // It was asked at 9 ms.
    assert_eq!(found(&[of(1, 5 * MS, 10 * MS)]), Some(1));
    assert_eq!(found(&[of(1, 5 * MS, 6 * MS)]), None);
    let both = [of(1, 5 * MS, 10 * MS), of(2, 12 * MS, 12 * MS)];
    assert_eq!(found(&both), Some(2));
}

#[test]
fn a_connection_that_carried_nothing_decided_nothing() {
    let mut unused = attempt(2, 7, Value::Null, json!({"how": "answered"}));
    unused["downstream"] = read(5, asked("/a"));
    let mut answer = response(5, "/a");
    answer["last_attempt"] = unused;
    let out = decided(&[
        (10 * MS, attempt(1, 7, Value::Null, refused())),
        (10 * MS, answer),
    ]);
    assert_eq!(out[0].diagnosis.cause, Cause::ConnectionRefused);
}

/// What waits is another client's, whose attempt was begun after this one had been read.
#[test]
fn what_its_thread_ended_last_decided_not_what_still_waits() {
    let linked = |flow: u64, end: &str| {
        let mut one = attempt(flow, 7, sent("/a"), json!({"how": end}));
        one["downstream"] = read(5, asked("/a"));
        one
    };
    let mut answer = bad_gateway(5);
    answer["adjacent"] = 1.into();
    answer["last_attempt"] = linked(2, "given_up");
    let out = decided(&[(11 * MS, linked(1, "reset")), (11 * MS, answer)]);
    let flows: Vec<_> = out[0].attempts.iter().map(|t| t.attempt.flow).collect();
    assert_eq!(flows, [1]);
}

/// Go goes on in another thread than that which had read this client.
#[test]
fn what_was_asked_otherwise_is_no_attempt_for_this() {
    let mut wrong = attempt(2, 8, sent("/b"), json!({"how": "given_up"}));
    wrong["downstream"] = read(5, Value::Null);
    let mut answer = bad_gateway(5);
    answer["last_attempt"] = wrong;
    let own = attempt(1, 7, sent("/a"), json!({"how": "reset"}));
    let out = of_go(&[(10 * MS, own), (10 * MS, answer)]);
    let flows: Vec<_> = out[0].attempts.iter().map(|t| t.attempt.flow).collect();
    assert_eq!(flows, [1]);
}

#[test]
fn what_is_tried_again_by_a_timer_belongs_to_no_client_read_before() {
    let led = |order: &str| {
        let mut one = attempt(1, 7, Value::Null, json!({"how": "connect_given_up"}));
        one["downstream"] = read(6, Value::Null);
        one["downstream"]["order"] = order.into();
        let out = decided(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, one)]);
        out[0].attempts.len()
    };
    assert_eq!(led("unclear"), 1);
    assert_eq!(led("after_read"), 0);
}

/// gunicorn's workers exit some 340 ms after they have closed; whose attempt it was is known at the end.
#[test]
fn the_exit_of_who_held_an_adopted_attempt_is_waited_for() {
    let gunicorn = json!({
        "kind": "process_seen", "pid": 100, "parent": 99, "name": "gunicorn",
        "software": "gunicorn", "settings": [], "started": 0, "netns": 0, "sagemaker": false,
    });
    let told = json!({
        "kind": "signal_sent", "signal": 15, "to": 100, "to_parent": 99, "from": 99,
        "from_name": "gunicorn", "by_kernel": false,
    });
    let mut closed = attempt(1, 7, sent("/a"), json!({"how": "peer_closed"}));
    closed["peer"] = json!({
        "accepted": true, "read": true, "reader": {"pid": 100, "thread": 100, "at": 11 * MS},
        "closed": {"at": 2000 * MS, "pid": 100, "accepted": true, "read": true, "reset": false},
    });
    let exited =
        json!({"kind": "process_exited", "pid": 100, "parent": 99, "signal": 0, "status": 0});
    let tick = || json!({"kind": "tick"});
    let mut unavailable = response(5, "/a");
    unavailable["status"] = 503.into();
    let out = verdicts_of(
        "envoy",
        &[
            (2 * MS, gunicorn),
            (1998 * MS, told),
            (2000 * MS, closed),
            (2000 * MS, unavailable),
            (2300 * MS, tick()),
            (2340 * MS, exited),
            (3100 * MS, tick()),
        ],
    );
    let [verdict] = &out[..] else {
        panic!("{out:#?}");
    };
    assert_eq!(verdict.diagnosis.cause, Cause::UpstreamShutdown);
    let exits = |missing: &&String| missing.starts_with("process_exited");
    assert_eq!(
        verdict.diagnosis.missing.iter().find(exits),
        None,
        "{:#?}",
        verdict.diagnosis
    );
}
