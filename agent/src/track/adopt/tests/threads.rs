//! What a proxy's threads tell: those that wait for one client, and those that share their work.

use serde_json::{Value, json};

use super::*;

fn of_go(signals: &[(Nanos, Value)]) -> Vec<Decided> {
    verdicts_of("other", signals)
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

/// Envoy's thread read this client, and sent another's request next.
#[test]
fn of_what_one_thread_sent_the_request_itself_is_the_responses_own() {
    let with = |path: &str| {
        let mut other = attempt(1, 7, sent("/other"), json!({"how": "peer_closed"}));
        other["downstream"] = read(5, asked("/a"));
        let mut own = attempt(2, 7, sent(path), json!({"how": "answered"}));
        own["response"] = json!({"protocol": "http_response", "status": 504});
        own["received"] = 50.into();
        let signals = [
            (20 * MS, other),
            (21 * MS, own),
            (21 * MS, response(5, "/a")),
        ];
        all_of("envoy", &signals)
    };
    let out = with("/a");
    let verdicts: Vec<_> = out.iter().filter(|d| d.kind == Kind::Verdict).collect();
    let [verdict] = &verdicts[..] else {
        panic!("{out:?}");
    };
    assert_eq!(verdict.diagnosis.cause, Cause::UpstreamAnswered);
    assert_eq!(verdict.attempts.len(), 1);
    // Where nothing asked for the same, the proxy may have changed the path.
    let verdicts = |out: Vec<Decided>| out.into_iter().filter(|d| d.kind == Kind::Verdict);
    let changed: Vec<_> = verdicts(with("/b")).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].attempts[0].attempt.flow, 1);
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
