use serde_json::{Value, json};

use crate::cause::Cause;
use crate::signal::{Nanos, Signal, Source};
use crate::track::{Decided, Tracker};
use crate::verdict::{Confidence, Kind};

const MS: Nanos = 1_000_000;
const UPSTREAM: &str = "10.0.0.2:9009";

fn asked(path: &str) -> Value {
    json!({
        "protocol": "http_request", "method": "GET", "path": path, "path_complete": true,
        "host": null,
    })
}

fn connect(flow: u64, errno: i32) -> Value {
    json!({
        "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": 7, "downstream": null,
        "retry_of": null, "upstream": UPSTREAM, "local": null, "began": 1000 * MS,
        "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
        "request": null, "received": 0, "response": null,
        "end": {"how": "connect_failed", "errno": errno}, "tcp": null, "peer": null,
        "queue": null,
    })
}

fn response(downstream: u64, path: &str) -> Value {
    json!({
        "kind": "response_sent", "proxy": 1, "thread": 7, "downstream": downstream,
        "ordinal": 1, "status": 502, "client": "10.0.0.7:4000", "proxy_address": null,
        "request": asked(path), "request_at": 999 * MS, "adjacent": null,
        "last_attempt": null,
    })
}

fn line(path: &str, errno: i32) -> Value {
    let one = json!({
        "upstream": UPSTREAM, "said": {"said": "connect_failed", "errno": errno},
        "status": null, "connect": null, "took": null,
    });
    json!({
        "kind": "logged", "proxy": "caddy", "line": "error", "pid": null, "connection": null,
        "client": "10.0.0.7:4000", "within": MS, "took": null, "said": null, "status": null,
        "request": asked(path), "tries": [one],
    })
}

fn decided(signals: &[(Nanos, &str, Value)]) -> Vec<Decided> {
    decided_of("caddy", signals)
}

fn decided_of(software: &str, signals: &[(Nanos, &str, Value)]) -> Vec<Decided> {
    let process = json!({
        "kind": "process_seen", "pid": 1, "parent": 0, "name": software,
        "software": software, "settings": [], "started": 0, "netns": 0, "sagemaker": false,
    });
    let sees = ["caddy_error_log", "proxy_log"];
    let log = json!({"kind": "source_started", "sees": sees, "blind": []});
    let exits = json!({"kind": "source_started", "sees": ["process_exited"], "blind": []});
    let first = [
        (1, "kernel", process),
        (1, "kernel", exits),
        (1, "log", log),
    ];
    let mut tracker = Tracker::default();
    let mut out = Vec::new();
    for (at, source, fact) in first.iter().chain(signals) {
        let signal = json!({"at": at, "source": source, "fact": fact});
        let signal: Signal = serde_json::from_value(signal).unwrap();
        out.extend(tracker.observe(&signal));
    }
    out.extend(tracker.finish());
    out.retain(|decided| decided.kind == Kind::Verdict);
    out
}

/// A refused request and its line, with what else is there.
fn refused(connect: Value, line: Value, more: &[(Nanos, &'static str, Value)]) -> Decided {
    let mut signals = vec![
        (1001 * MS, "kernel", connect),
        (1001 * MS, "kernel", response(5, "/a")),
        (1001 * MS, "log", line),
    ];
    signals.splice(1..1, more.iter().cloned());
    let mut out = decided(&signals);
    out.retain(|d| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5));
    assert_eq!(out.len(), 1, "{out:#?}");
    out.remove(0)
}

fn confidence(decided: &Decided) -> (Cause, Confidence) {
    (decided.diagnosis.cause, decided.diagnosis.confidence)
}

fn changed(mut value: Value, pointer: &str, to: Value) -> Value {
    *value.pointer_mut(pointer).unwrap() = to;
    value
}

#[test]
fn what_the_proxy_says_of_its_connect_proves_whose_it_was() {
    let verdict = refused(connect(1, 111), line("/a", 111), &[]);
    assert_eq!(
        confidence(&verdict),
        (Cause::ConnectionRefused, Confidence::Proven)
    );
    assert!(verdict.diagnosis.missing.is_empty());
}

#[test]
fn a_line_that_does_not_name_this_connect_proves_nothing() {
    let likely = (Cause::ConnectionRefused, Confidence::Likely);
    let with = |line| confidence(&refused(connect(1, 111), line, &[]));
    let own = || line("/a", 111);
    for (pointer, to) in [
        ("/tries/0/upstream", Value::Null),
        ("/request", Value::Null),
        ("/request/path", "/b".into()),
        ("/client", "10.0.0.7:4001".into()),
        ("/client", "10.0.0.8".into()),
    ] {
        let line = changed(own(), pointer, to.clone());
        assert_eq!(with(line), likely, "{pointer} {to}");
    }
    let elsewhere = changed(own(), "/tries/0/upstream", "10.0.0.3:9009".into());
    assert_ne!(with(elsewhere).1, Confidence::Proven);
    assert_ne!(with(line("/a", 113)).1, Confidence::Proven);
}

#[test]
fn nor_does_one_where_another_connect_ended_otherwise() {
    let other = [(1001 * MS, "kernel", connect(2, 113))];
    let verdict = refused(connect(1, 111), line("/a", 111), &other);
    assert_ne!(confidence(&verdict).1, Confidence::Proven);
    // Nor where more failed, of others, than are remembered.
    let elsewhere = |flow| {
        let other = changed(connect(flow, 111), "/upstream", "10.0.0.9:1".into());
        changed(other, "/proxy", 2.into())
    };
    let many = |count: u64| -> Vec<_> {
        let others = (3..3 + count).map(|flow| (1001 * MS, "kernel", elsewhere(flow)));
        others.collect()
    };
    let among = |others: &[_]| confidence(&refused(connect(1, 111), line("/a", 111), others)).1;
    assert_eq!(among(&many(10)), Confidence::Proven);
    assert_ne!(among(&many(100)), Confidence::Proven);
}

#[test]
fn nor_one_that_may_be_about_another_request() {
    let twin = [(1001 * MS, "kernel", response(6, "/a"))];
    let verdict = refused(connect(1, 111), line("/a", 111), &twin);
    assert_ne!(confidence(&verdict).1, Confidence::Proven);
    // The twin is decided, and its line had not come.
    let later = |value, pointer| changed(value, pointer, (1250 * MS).into());
    let twin = [
        (1001 * MS, "kernel", connect(1, 111)),
        (1001 * MS, "kernel", response(6, "/a")),
        (1252 * MS, "kernel", json!({"kind": "tick"})),
    ];
    let this = [
        (1252 * MS, "kernel", later(connect(2, 111), "/began")),
        (1252 * MS, "kernel", later(response(5, "/a"), "/request_at")),
        (
            1000 * MS,
            "log",
            changed(line("/a", 111), "/within", (1000 * MS).into()),
        ),
    ];
    let of_this = |signals: &[_]| {
        let out = decided(signals);
        let this = |d: &&Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
        out.iter().find(this).map(confidence)
    };
    let refused = |confidence| Some((Cause::ConnectionRefused, confidence));
    assert_eq!(of_this(&this), refused(Confidence::Proven));
    let both: Vec<_> = twin.into_iter().chain(this).collect();
    assert_eq!(of_this(&both), refused(Confidence::Likely));
}

/// A crowd for one path, through one proxy: which line is whose is not told, but all say the same.
#[test]
fn of_requests_alike_each_is_told_where_no_line_is_missing() {
    let of_crowd = |lines: &[Value]| {
        let nameless = |line: &Value| changed(line.clone(), "/client", "10.0.0.7".into());
        let mut signals = vec![
            (1001 * MS, "kernel", connect(1, 111)),
            (1001 * MS, "kernel", connect(2, 111)),
            (1001 * MS, "kernel", response(5, "/a")),
            (1001 * MS, "kernel", response(6, "/a")),
        ];
        signals.extend((lines.iter()).map(|line| (1002 * MS, "log", nameless(line))));
        let decided = decided(&signals);
        let confidences: Vec<_> = (decided.iter())
            .filter(|decided| matches!(decided.response, Some((_, Source::Kernel, _))))
            .map(|decided| decided.diagnosis.confidence)
            .collect();
        confidences
    };
    let refused = || line("/a", 111);
    assert_eq!(of_crowd(&[refused(), refused()]), [Confidence::Proven; 2]);
    // The line may be the other's.
    assert_eq!(of_crowd(&[refused()]), [Confidence::Likely; 2]);
    let elsewhere = changed(refused(), "/tries/0/upstream", "10.0.0.3:9009".into());
    assert_eq!(of_crowd(&[refused(), elsewhere]), [Confidence::Likely; 2]);
}

#[test]
fn what_has_more_than_one_cause_is_not_proven_by_its_line() {
    let timed_out = refused(connect(1, 110), line("/a", 110), &[]);
    assert_ne!(confidence(&timed_out).1, Confidence::Proven);
}

/// A failed exchange at this proxy, with what else ended meanwhile.
fn told_by(
    software: &str,
    attempt: Value,
    said: Value,
    upstream: Value,
    more: &[Value],
) -> Confidence {
    let line = changed(line("/a", 111), "/proxy", software.into());
    let line = changed(line, "/tries/0/said", said);
    let line = changed(line, "/tries/0/upstream", upstream);
    let more = more
        .iter()
        .map(|other| (1001 * MS, "kernel", other.clone()));
    let mut signals: Vec<_> = more.collect();
    signals.push((1001 * MS, "kernel", attempt));
    signals.push((
        1001 * MS,
        "kernel",
        changed(response(5, "/a"), "/status", 503.into()),
    ));
    signals.push((1001 * MS, "log", line));
    signals.push((1300 * MS, "kernel", json!({"kind": "tick"})));
    let out = decided_of(software, &signals);
    let this = |d: &&Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
    confidence(out.iter().find(this).expect("a verdict")).1
}

#[test]
fn what_is_no_connection_to_this_address_is_its_connect_where_no_other_failed() {
    let by = |software: &str, name: Value, more: &[Value]| {
        let said = json!({"said": "not_connected"});
        told_by(software, connect(1, 111), said, name, more)
    };
    let of = |name: Value, more: &[Value]| by("envoy", name, more);
    let here = || Value::from(UPSTREAM);
    assert_eq!(of(here(), &[]), Confidence::Proven);
    assert_eq!(of(Value::Null, &[]), Confidence::Likely);
    // A name of the proxy's own, which HAProxy alone gives.
    assert_eq!(of("back/server1".into(), &[]), Confidence::Likely);
    let named = |more: &[Value]| by("haproxy", "back/server1".into(), more);
    assert_eq!(named(&[]), Confidence::Proven);
    assert_eq!(of(here(), &[connect(2, 111)]), Confidence::Proven);
    let elsewhere = changed(connect(2, 111), "/upstream", "10.0.0.9:1".into());
    let elsewhere = [elsewhere];
    assert_eq!(of(here(), &elsewhere), Confidence::Proven);
    assert_eq!(named(&elsewhere), Confidence::Likely);
    assert_eq!(of(here(), &[connect(2, 113)]), Confidence::Likely);
    // A handshake that failed, which both call no connection as well.
    let handshake = [ended(2, json!({"protocol": "tls"}))];
    for one in [of(here(), &handshake), named(&handshake)] {
        assert_eq!(one, Confidence::Likely);
    }
    let other_request = ended(2, asked("/b"));
    assert_eq!(of(here(), &[other_request]), Confidence::Proven);
}

/// An attempt that was read and then closed, by a server that has answered before and lives on.
fn ended(flow: u64, request: Value) -> Value {
    let mut one = connect(flow, 0);
    one["request"] = json!({"at": 1000 * MS, "bytes": 50, "opening": request, "write_errno": null});
    one["end"] = json!({"how": "peer_closed"});
    one["spoke_http"] = true.into();
    one["peer"] = json!({
        "accepted": true, "read": true,
        "reader": {"pid": 9, "thread": 9, "at": 1000 * MS, "at_end": null},
        "closed": {"at": 1001 * MS, "pid": 9, "accepted": true, "read": true, "reset": false},
    });
    one
}

/// The same by one that aborts.
fn reset_by(flow: u64, path: &str) -> Value {
    let mut one = ended(flow, asked(path));
    one["end"] = json!({"how": "reset"});
    one["peer"]["closed"]["reset"] = true.into();
    one["peer"]["closed"]["reset_by"] = "abort".into();
    one
}

#[test]
fn what_was_asked_once_is_what_the_line_tells_of() {
    let of = |said: &str, upstream: Value, more: &[Value]| {
        told_by(
            "envoy",
            ended(1, asked("/a")),
            json!({"said": said}),
            upstream,
            more,
        )
    };
    let closed = |upstream: Value, more: &[Value]| of("closed_or_reset", upstream, more);
    let here = || Value::from(UPSTREAM);
    // Envoy tries again by itself, and says 503 of what it does not try: alone it proves nothing.
    assert_eq!(of("no_live_upstreams", here(), &[]), Confidence::Likely);
    assert_eq!(closed(here(), &[]), Confidence::Proven);
    assert_eq!(closed(Value::Null, &[]), Confidence::Proven);
    assert_ne!(closed("10.0.0.9:1".into(), &[]), Confidence::Proven);
    // Another client's, that was tried again: what it failed of counts.
    assert_eq!(closed(here(), &[ended(2, asked("/a"))]), Confidence::Proven);
    assert_eq!(closed(here(), &[reset_by(2, "/a")]), Confidence::Likely);
    assert_eq!(
        closed(here(), &[ended(2, json!({"protocol": "tls"}))]),
        Confidence::Likely
    );
    assert_eq!(closed(here(), &[ended(2, asked("/b"))]), Confidence::Proven);
    assert_eq!(closed(here(), &[connect(2, 111)]), Confidence::Proven);
    for said in ["head_refused", "not_connected", "timed_out"] {
        assert_ne!(of(said, here(), &[]), Confidence::Proven, "{said}");
    }
}

#[test]
fn only_what_ended_meanwhile_counts_and_this_ended_as_the_response_began() {
    let told = |at: Nanos, other: Nanos| {
        let said = json!({"said": "closed_or_reset"});
        let line = changed(line("/a", 111), "/proxy", "envoy".into());
        let line = changed(line, "/tries/0/said", said);
        let mut signals = vec![
            (other, "kernel", reset_by(2, "/a")),
            (at, "kernel", ended(1, asked("/a"))),
            (
                1001 * MS,
                "kernel",
                changed(response(5, "/a"), "/status", 503.into()),
            ),
            (1001 * MS, "log", line),
            (1300 * MS, "kernel", json!({"kind": "tick"})),
        ];
        signals.sort_by_key(|(at, ..)| *at);
        let out = decided_of("envoy", &signals);
        let this = |d: &&Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
        let attempts = |d: &Decided| d.attempts.first().map(|t| t.attempt.flow);
        out.iter()
            .find(this)
            .map(|d| (confidence(d).1, attempts(d)))
    };
    let proven = Some((Confidence::Proven, Some(1)));
    // It was asked at 999 ms.
    assert_eq!(told(1001 * MS, 990 * MS), proven);
    assert_ne!(told(1001 * MS, 1000 * MS), proven);
    assert_ne!(told(1001 * MS, 1002 * MS), proven);
    assert_eq!(told(1001 * MS, 1100 * MS), proven);
    for late in [1010 * MS, 1100 * MS] {
        let confidence = told(late, 990 * MS).map(|(confidence, _)| confidence);
        assert_ne!(confidence, Some(Confidence::Proven), "{late}");
    }
}

#[test]
fn where_signals_were_lost_the_line_proves_nothing() {
    let lost = json!({
        "kind": "signals_lost", "stage": "kernel", "reason": "full", "count": 1,
    });
    let verdict = refused(
        connect(1, 111),
        line("/a", 111),
        &[(1001 * MS, "kernel", lost)],
    );
    assert_eq!(confidence(&verdict).1, Confidence::Likely);
}

mod alike;
mod by_itself;
mod counted;
mod descriptors;
mod given_back;
mod instances;
mod late;
mod passed_on;
mod shared_lines;
mod unread;
mod varnish;
