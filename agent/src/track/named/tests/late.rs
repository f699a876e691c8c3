//! Lines beside what was not told at one moment: a thread that answers late, a try after others, an answer
//! that was refused.

use serde_json::{Value, json};

use super::{
    MS, UPSTREAM, asked, changed, confidence, connect, decided_of, ended, line, reset_by, response,
};
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::Confidence::{self, Likely, Proven};

/// Of one request at `/a`, asked at 999 ms: what its proxy said of it, beside these attempts.
pub(super) fn told(
    software: &str,
    status: u16,
    said: Value,
    upstream: &str,
    attempts: &[(Nanos, Value)],
) -> Confidence {
    let line = changed(line("/a", 111), "/proxy", software.into());
    let line = changed(line, "/tries/0/said", said);
    let line = changed(line, "/tries/0/upstream", upstream.into());
    let answer = changed(response(5, "/a"), "/status", status.into());
    let mut signals: Vec<(Nanos, &str, Value)> = (attempts.iter())
        .map(|(at, attempt)| (*at, "kernel", attempt.clone()))
        .collect();
    signals.push((2000 * MS, "kernel", answer));
    signals.push((2000 * MS, "log", line));
    signals.sort_by_key(|(at, ..)| *at);
    signals.push((2300 * MS, "kernel", json!({"kind": "tick"})));
    let out = decided_of(software, &signals);
    let this =
        |d: &&crate::track::Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
    confidence(out.iter().find(this).expect("a verdict")).1
}

fn begun(attempt: Value, at: Nanos) -> Value {
    changed(attempt, "/began", at.into())
}

#[test]
fn a_thread_that_has_no_cpu_says_late_that_a_connect_failed() {
    let of = |thread: u32, more: &[(Nanos, Value)]| {
        let one = changed(begun(connect(1, 111), 1995 * MS), "/thread", thread.into());
        let mut attempts = vec![(1996 * MS, one)];
        attempts.extend(more.iter().cloned());
        let said = json!({"said": "not_connected"});
        told("envoy", 503, said, UPSTREAM, &attempts)
    };
    assert_eq!(of(7, &[]), Proven);
    // Each has pools of its own.
    assert_ne!(of(8, &[]), Proven);
    // Meanwhile another connect to the same server ended otherwise.
    let other = (1998 * MS, begun(connect(2, 113), 1997 * MS));
    assert_ne!(of(7, &[other]), Proven);
    let before = (1900 * MS, begun(connect(2, 113), 1899 * MS));
    assert_eq!(of(7, &[before]), Proven);
}

/// HAProxy's last try of several ends as it answers.
#[test]
fn of_several_connects_for_one_request_the_last_led_to_the_answer() {
    let first = || {
        let link = json!({
            "flow": 5, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4000",
            "proxy_address": null, "request": asked("/a"), "state": "open",
            "read_before_ns": null,
        });
        changed(connect(1, 111), "/downstream", link)
    };
    let last = || begun(connect(2, 111), 1999 * MS);
    let of = |attempts: &[(Nanos, Value)]| {
        let said = json!({"said": "connect_failed", "errno": 111});
        told("haproxy", 503, said, "back/one", attempts)
    };
    assert_eq!(of(&[(1001 * MS, first()), (2000 * MS, last())]), Proven);
    assert_eq!(of(&[(1001 * MS, first())]), Likely);
    let elsewhere = changed(last(), "/upstream", "10.0.0.9:1".into());
    assert_eq!(of(&[(1001 * MS, first()), (2000 * MS, elsewhere)]), Likely);
}

pub(super) fn unanswered(flow: u64, began: Nanos) -> Value {
    let mut one = ended(flow, asked("/a"));
    one["began"] = began.into();
    one["request"]["at"] = began.into();
    one["end"] = json!({"how": "given_up"});
    one["peer"] = json!({
        "accepted": false, "read": false, "reader": null, "closed": null,
    });
    one
}

/// What is only called timed out may have had no connection.
#[test]
fn the_last_of_several_tries_is_what_was_waited_for_in_vain() {
    let tries = [
        (1400 * MS, unanswered(1, 999 * MS)),
        (1999 * MS, unanswered(2, 1500 * MS)),
    ];
    let of = |said: &str, tries: &[(Nanos, Value)]| {
        told("caddy", 504, json!({"said": said}), UPSTREAM, tries)
    };
    assert_eq!(of("read_timed_out", &tries), Proven);
    assert_ne!(of("timed_out", &tries), Proven);
    // Another one for the same ended then, of something else.
    let mut other = ended(3, asked("/a"));
    other["began"] = (1500 * MS).into();
    let [first, last] = tries;
    assert_ne!(
        of("read_timed_out", &[first, last, (2000 * MS, other)]),
        Proven
    );
}

pub(super) fn malformed(flow: u64) -> Value {
    let mut one = ended(flow, asked("/a"));
    one["began"] = (1900 * MS).into();
    one["request"]["at"] = (1900 * MS).into();
    one["end"] = json!({"how": "answered"});
    one["received"] = 60.into();
    one["response"] = json!({"protocol": "http_response", "status": 200});
    one["fault"] = "malformed".into();
    one
}

#[test]
fn an_answer_that_was_refused_after_a_wait_in_the_queue_is_the_one_that_the_line_tells_of() {
    let of = |said: &str, more: &[(Nanos, Value)]| {
        let mut attempts = vec![(2000 * MS, malformed(1))];
        attempts.extend(more.iter().cloned());
        told("haproxy", 502, json!({"said": said}), "back/one", &attempts)
    };
    assert_eq!(of("head_refused", &[]), Proven);
    assert_ne!(of("timed_out", &[]), Proven);
    // Another client's, for the same: which of the two was refused for which fault?
    let twin = changed(response(6, "/a"), "/status", 502.into());
    assert_ne!(of("head_refused", &[(2000 * MS, twin)]), Proven);
}

/// It waited in the proxy's queue before it was sent, so that its moment alone ties nothing.
#[test]
fn an_upstreams_own_error_is_the_one_that_the_line_tells_of() {
    let answered = |flow: u64, status: u16| {
        let mut one = malformed(flow);
        one["fault"] = Value::Null;
        one["response"]["status"] = status.into();
        one
    };
    let of = |said: &str, more: &[(Nanos, Value)]| {
        let mut attempts = vec![(2000 * MS, answered(1, 503))];
        attempts.extend(more.iter().cloned());
        told("envoy", 503, json!({"said": said}), UPSTREAM, &attempts)
    };
    assert_eq!(of("answered", &[]), Proven);
    assert_ne!(of("timed_out", &[]), Proven);
    // For another client it was another status: which of the two attempts was whose?
    assert_ne!(of("answered", &[(2000 * MS, answered(2, 502))]), Proven);
    // Another client was answered so, and not both can have had this attempt.
    let twin = changed(response(6, "/a"), "/status", 503.into());
    assert_ne!(of("answered", &[(2000 * MS, twin)]), Proven);
}

/// nginx has had a FastCGI server's answer, of which neither order nor content is seen: its line tells.
#[test]
fn what_only_the_log_can_know_is_proven_by_the_line_that_names_the_request() {
    let of = |path: &str| {
        let mut last = malformed(1);
        last["request"]["opening"] = json!({"protocol": "fast_cgi"});
        last["fault"] = Value::Null;
        last["received"] = 4096.into();
        let mut answer = changed(response(5, "/a"), "/last_attempt", last);
        answer["status"] = 502.into();
        let line = changed(line(path, 111), "/proxy", "nginx".into());
        let line = changed(line, "/tries/0/said", json!({"said": "head_too_big"}));
        let out = decided_of(
            "nginx",
            &[(2000 * MS, "kernel", answer), (2000 * MS, "log", line)],
        );
        let this = |d: &&crate::track::Decided| {
            d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5)
        };
        confidence(out.iter().find(this).expect("a verdict")).1
    };
    assert_eq!(of("/a"), Proven);
    assert_eq!(of("/b"), Likely);
}

/// HAProxy's clock stands still while it has no CPU: the line is found by all the rest.
#[test]
fn a_line_whose_clock_slipped_is_found_by_port_request_and_status() {
    let of = |at: Nanos, port: u16, status: u16| {
        let line = changed(line("/a", 111), "/proxy", "haproxy".into());
        let mut line = changed(line, "/client", format!("10.0.0.7:{port}").into());
        line["line"] = "access".into();
        line["status"] = status.into();
        let answer = changed(response(5, "/a"), "/status", 503.into());
        let mut signals = [
            (2000 * MS, "kernel", answer),
            (at, "log", line),
            (9000 * MS, "kernel", json!({"kind": "tick"})),
        ];
        signals.sort_by_key(|(at, ..)| *at);
        decided_of("haproxy", &signals).len()
    };
    for at in [500 * MS, 1200 * MS, 2800 * MS] {
        assert_eq!(of(at, 4000, 503), 1, "{at}");
        assert_eq!(of(at, 4001, 503), 2, "{at}");
        assert_eq!(of(at, 4000, 504), 2, "{at}");
    }
    assert_eq!(of(8000 * MS, 4000, 503), 2);
}

/// nginx tells each try of one server in a line of its own, and has one access line for all.
#[test]
fn a_further_try_of_the_same_server_is_no_other_requests_line() {
    let of = |connection: u64, said: &str| {
        let error = |connection: u64, said: &str| {
            let mut line = changed(line("/a", 111), "/proxy", "nginx".into());
            line["tries"][0]["said"] = json!({"said": said});
            line["connection"] = connection.into();
            line["pid"] = 1.into();
            line["client"] = "10.0.0.7".into();
            line
        };
        let mut access = error(1, "head_too_big");
        access["line"] = "access".into();
        access["connection"] = Value::Null;
        access["tries"] = json!([]);
        access["status"] = 502.into();
        let mut last = malformed(1);
        last["request"]["opening"] = json!({"protocol": "fast_cgi"});
        last["fault"] = Value::Null;
        last["received"] = 4096.into();
        let mut answer = changed(response(5, "/a"), "/last_attempt", last);
        answer["status"] = 502.into();
        let signals = [
            (2000 * MS, "log", error(1, "head_too_big")),
            (2000 * MS, "log", error(connection, said)),
            (2000 * MS, "log", access),
            (2000 * MS, "kernel", answer),
        ];
        confidence(&decided_of("nginx", &signals)[0]).1
    };
    assert_eq!(of(1, "head_too_big"), Proven);
    // Another request for the same failed of something else.
    assert_ne!(of(2, "peer_closed"), Proven);
    // Nor is it sure that this one says why, if the other is an earlier request's on the same connection.
    assert_ne!(of(1, "head_invalid"), Proven);
}

/// Go's threads share their work: nothing ties the tries for one request but what its thread had read.
#[test]
fn earlier_tries_for_the_same_request_have_no_line_of_their_own() {
    let of = |more: &[(Nanos, &'static str, Value)]| {
        let link = json!({
            "flow": 5, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4000",
            "proxy_address": null, "request": asked("/a"), "state": "open",
            "read_before_ns": null,
        });
        let first = changed(connect(1, 111), "/downstream", link);
        let mut signals = vec![
            (1950 * MS, "kernel", first),
            (2000 * MS, "kernel", begun(connect(2, 111), 1999 * MS)),
            (2000 * MS, "kernel", response(5, "/a")),
            (2000 * MS, "log", line("/a", 111)),
        ];
        signals.extend(more.iter().cloned());
        let told = decided_of("caddy", &signals);
        confidence(&told[0]).1
    };
    assert_eq!(of(&[]), Proven);
    assert_eq!(
        of(&[(2300 * MS, "kernel", json!({"kind": "tick"}))]),
        Proven
    );
}

/// Of two equal requests on one connection the first was decided before its line came.
#[test]
fn a_line_that_may_be_an_earlier_requests_proves_nothing() {
    let of = |earlier: bool, proxy: &str| {
        let mut line = changed(line("/a", 111), "/proxy", proxy.into());
        line["line"] = "access".into();
        line["status"] = 503.into();
        line["tries"] = json!([]);
        line["said"] = json!({"said": "queue_timed_out"});
        let answer = |ordinal: u64, at: Nanos| {
            let answer = changed(response(5, "/a"), "/status", 503.into());
            let answer = changed(answer, "/ordinal", ordinal.into());
            let began = changed(answer, "/request_at", (at - MS).into());
            (at, "kernel", began)
        };
        let mut signals = vec![
            (10_200 * MS, "log", line),
            (10_300 * MS, "kernel", json!({"kind": "tick"})),
            answer(2, 11_000 * MS),
            (11_300 * MS, "kernel", json!({"kind": "tick"})),
        ];
        if earlier {
            let before = [
                answer(1, 9000 * MS),
                (10_100 * MS, "kernel", json!({"kind": "tick"})),
            ];
            signals.splice(..0, before);
        }
        let told = decided_of(proxy, &signals);
        let this =
            |d: &&crate::track::Decided| d.response.as_ref().is_some_and(|(.., r)| r.ordinal == 2);
        confidence(told.iter().find(this).expect("a verdict")).1
    };
    assert_eq!(of(false, "haproxy"), Proven);
    assert_ne!(of(true, "haproxy"), Proven);
    // Others write the moment of the response.
    assert_ne!(of(false, "envoy"), Proven);
}

/// What is encrypted may be another request than that of the line.
#[test]
fn a_line_names_no_request_that_was_not_read() {
    let of = |request: Value| {
        let mut last = malformed(1);
        last["request"]["opening"] = json!({"protocol": "fast_cgi"});
        last["fault"] = Value::Null;
        last["received"] = 4096.into();
        let mut answer = changed(response(5, "/a"), "/last_attempt", last);
        answer["status"] = 502.into();
        answer["request"] = request;
        let line = changed(line("/a", 111), "/proxy", "nginx".into());
        let line = changed(line, "/tries/0/said", json!({"said": "head_too_big"}));
        let signals = [(2000 * MS, "kernel", answer), (2000 * MS, "log", line)];
        confidence(&decided_of("nginx", &signals)[0]).1
    };
    assert_eq!(of(asked("/a")), Proven);
    assert_ne!(of(json!({"protocol": "tls"})), Proven);
}

/// Envoy's thread stood still between the end of an attempt and its answer; the worker that was killed has yet to
/// exit when its line has waited long enough.
#[test]
fn a_line_waits_for_the_exchange_that_waits_for_an_exit() {
    let process = |pid: u32, parent: u32| {
        let process = json!({
            "kind": "process_seen", "pid": pid, "parent": parent, "name": "gunicorn",
            "software": "gunicorn", "settings": [], "started": 0, "netns": 0, "sagemaker": false,
        });
        (MS, "kernel", process)
    };
    let killed = json!({
        "kind": "signal_sent", "signal": 6, "to": 9, "to_parent": 8, "from": 8,
        "from_name": "gunicorn", "by_kernel": false,
    });
    let exited = json!({
        "kind": "process_exited", "pid": 9, "parent": 8, "signal": 0, "status": 1,
    });
    let mut line = changed(line("/a", 111), "/proxy", "envoy".into());
    line["line"] = "access".into();
    line["status"] = 503.into();
    line["tries"][0]["said"] = json!({"said": "closed_or_reset"});
    let tick = |at: Nanos| (at, "kernel", json!({"kind": "tick"}));
    let told = decided_of(
        "envoy",
        &[
            process(8, 1),
            process(9, 8),
            (1000 * MS, "kernel", killed),
            (1001 * MS, "kernel", ended(1, asked("/a"))),
            (1001 * MS, "log", line),
            (
                1010 * MS,
                "kernel",
                changed(response(5, "/a"), "/status", 503.into()),
            ),
            (1500 * MS, "kernel", exited),
            tick(3005 * MS),
            tick(3300 * MS),
        ],
    );
    let told: Vec<_> = told.iter().map(confidence).collect();
    assert_eq!(told, [(Cause::WorkerTimeoutKilled, Proven)]);
}

/// Its thread was kept from its CPU between the reset and its answer.
#[test]
fn a_line_that_names_request_and_connection_may_come_later() {
    let of = |local: Value, upstream: &str| {
        let mut one = reset_by(1, "/a");
        one["local"] = "10.0.0.1:4100".into();
        let mut line = changed(line("/a", 111), "/tries/0/said", json!({"said": "reset"}));
        line["tries"][0]["local"] = local;
        line["tries"][0]["upstream"] = upstream.into();
        let signals = [
            (1001 * MS, "kernel", one),
            (1010 * MS, "kernel", response(5, "/a")),
            (1010 * MS, "log", line),
            (1300 * MS, "kernel", json!({"kind": "tick"})),
        ];
        let out = decided_of("caddy", &signals);
        let this = |d: &&crate::track::Decided| {
            d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5)
        };
        confidence(out.iter().find(this).expect("a verdict")).1
    };
    assert_eq!(of("10.0.0.1:4100".into(), UPSTREAM), Proven);
    // A port may serve several connections, to several upstreams.
    for (local, upstream) in [
        ("10.0.0.1:4101".into(), UPSTREAM),
        (Value::Null, UPSTREAM),
        ("10.0.0.1:4100".into(), "10.0.0.3:9009"),
    ] {
        assert_ne!(of(local, upstream), Proven);
    }
}
