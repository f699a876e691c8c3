//! Lines of Go's reverse proxy, which name no request: as many as failures, and all alike.

use serde_json::{Value, json};

use super::{MS, UPSTREAM, changed, connect, decided_of, reset_by, response};
use crate::cause::Cause;
use crate::signal::{Nanos, Source};
use crate::verdict::Confidence::{self, Likely, Proven};

fn line(said: Value, upstream: &str) -> Value {
    let one = json!({
        "upstream": upstream, "said": said, "status": null, "connect": null, "took": null,
        "local": null,
    });
    json!({
        "kind": "logged", "proxy": "go", "line": "error", "pid": null, "connection": null,
        "client": null, "within": MS, "took": null, "said": null, "status": null,
        "request": null, "tries": [one],
    })
}

fn refused() -> Value {
    line(json!({"said": "connect_failed", "errno": 111}), UPSTREAM)
}

/// What is said of so many requests whose connects were refused, beside these lines.
fn told(requests: u64, connects: &[Value], lines: &[Value]) -> Vec<Confidence> {
    let mut signals: Vec<(Nanos, &str, Value)> = Vec::new();
    signals.extend(
        connects
            .iter()
            .map(|one| (1001 * MS, "kernel", one.clone())),
    );
    for n in 0..requests {
        let answer = response(50 + n, &format!("/{n}"));
        let client = format!("10.0.0.7:{}", 4000 + n);
        signals.push((
            1001 * MS,
            "kernel",
            changed(answer, "/client", client.into()),
        ));
    }
    signals.extend(lines.iter().map(|line| (1001 * MS, "log", line.clone())));
    let out = decided_of("other", &signals);
    let of_kernel = |d: &&crate::track::Decided| matches!(d.response, Some((_, Source::Kernel, _)));
    let all: Vec<_> = out.iter().filter(of_kernel).collect();
    assert_eq!(all.len() as u64, requests);
    assert_eq!(out.len(), all.len(), "no line is told by itself");
    let wrong = |d: &&&crate::track::Decided| {
        let cause = d.diagnosis.cause;
        d.diagnosis.confidence == Proven && cause != Cause::ConnectionRefused
    };
    assert!(!all.iter().any(|d| wrong(&d)), "{all:#?}");
    all.iter().map(|d| d.diagnosis.confidence).collect()
}

#[test]
fn as_many_lines_as_failures_that_all_say_the_same_tell_of_each() {
    let connects = [connect(1, 111), connect(2, 111), connect(3, 111)];
    let lines = |count: usize| vec![refused(); count];
    assert_eq!(told(3, &connects, &lines(3)), [Proven; 3]);
    assert_eq!(told(3, &connects, &[]), [Likely; 3]);
}

/// It checks a server by itself, at the moment at which it answers that it has none.
#[test]
fn a_failure_without_a_line_may_be_any_of_them() {
    let connects = [connect(1, 111), connect(2, 111), connect(3, 111)];
    assert_eq!(told(3, &connects, &[refused(), refused()]), [Likely; 3]);
    let one = told(1, &connects[..1], &[]);
    assert_eq!(one, [Likely]);
}

#[test]
fn a_line_without_a_failure_may_be_about_any_of_them() {
    let connects = [connect(1, 111), connect(2, 111)];
    let lines = vec![refused(); 3];
    assert!(!told(2, &connects, &lines).contains(&Proven));
}

#[test]
fn lines_that_differ_tell_of_none() {
    let connects = [connect(1, 111), connect(2, 111)];
    let elsewhere = line(
        json!({"said": "connect_failed", "errno": 111}),
        "10.0.0.3:9009",
    );
    let timed_out = line(json!({"said": "connect_timed_out"}), UPSTREAM);
    for other in [elsewhere, timed_out] {
        let told = told(2, &connects, &[refused(), other]);
        assert!(!told.contains(&Proven), "{told:?}");
    }
    // Nor where a connect to the same server ended otherwise.
    let connects = [connect(1, 111), connect(2, 113)];
    let told = told(2, &connects, &[refused(), refused()]);
    assert!(!told.contains(&Proven), "{told:?}");
}

/// Each may have been given the other's.
#[test]
fn connects_to_two_servers_that_failed_at_once_of_different_errors_are_nobodys() {
    let with = |errno: i32| {
        let elsewhere = changed(connect(2, errno), "/upstream", "10.0.0.3:9009".into());
        let said = json!({"said": "connect_failed", "errno": errno});
        let signals = [
            (1001 * MS, "kernel", connect(1, 111)),
            (1001 * MS, "kernel", elsewhere),
            (1001 * MS, "kernel", response(50, "/0")),
            (
                1001 * MS,
                "kernel",
                changed(response(51, "/1"), "/client", "10.0.0.7:4001".into()),
            ),
            (1001 * MS, "log", refused()),
            (1001 * MS, "log", line(said, "10.0.0.3:9009")),
        ];
        let out = decided_of("other", &signals);
        let all = out.iter().filter(|d| !d.attempts.is_empty());
        all.map(|d| d.diagnosis.confidence).collect::<Vec<_>>()
    };
    assert_eq!(with(113), [Likely; 2]);
    assert_eq!(with(111), [Proven; 2]);
}

/// A gateway sheds load while an upstream refuses: the attempt may have been given to the wrong response.
#[test]
fn a_failure_that_has_no_attempt_may_be_what_the_line_tells_of() {
    let of = |status: u16| {
        let shed = changed(response(50, "/0"), "/status", status.into());
        let shed = changed(shed, "/request_at", (990 * MS).into());
        let failed = changed(response(51, "/1"), "/client", "10.0.0.7:4001".into());
        let signals = [
            (1001 * MS, "kernel", connect(1, 111)),
            (1001 * MS, "kernel", shed),
            (1001 * MS + MS / 10, "kernel", failed),
            (1001 * MS + MS / 10, "log", refused()),
        ];
        let out = decided_of("other", &signals);
        let shed = |d: &&crate::track::Decided| {
            d.response
                .as_ref()
                .is_some_and(|(.., r)| r.downstream == 50)
        };
        out.iter()
            .find(shed)
            .expect("a verdict")
            .diagnosis
            .confidence
    };
    // Its proxy makes no other statuses than 502 and 504.
    assert_ne!(of(503), Proven);
    assert_ne!(of(502), Proven);
}

/// Of two lines the one may be about a request that shows nowhere, encrypted say, as may be the connect.
#[test]
fn a_line_that_says_otherwise_needs_another_failure() {
    let at = 1001 * MS;
    let of = |other: Value, more: &[Value]| {
        let mut signals = vec![
            (at, "kernel", connect(1, 111)),
            (at, "kernel", response(50, "/0")),
            (at, "log", refused()),
            (at, "log", other),
        ];
        signals.extend(more.iter().map(|one| (at, "kernel", one.clone())));
        let out = decided_of("other", &signals);
        let this = |d: &&crate::track::Decided| {
            let response = d.response.as_ref();
            response.is_some_and(|(.., r)| r.downstream == 50)
        };
        out.iter()
            .find(this)
            .expect("a verdict")
            .diagnosis
            .confidence
    };
    let lookup = changed(refused(), "/tries", json!([]));
    let lookup = changed(lookup, "/said", json!({"said": "not_resolved"}));
    assert_eq!(of(lookup, &[]), Likely);
    let reset = || line(json!({"said": "reset"}), UPSTREAM);
    assert_eq!(of(reset(), &[]), Likely);
    let its = [
        reset_by(2, "/1"),
        changed(response(51, "/1"), "/client", "10.0.0.7:4001".into()),
    ];
    assert_eq!(of(reset(), &its), Proven);
    // A client that had left was answered nothing.
    let left = line(json!({"said": "client_left"}), UPSTREAM);
    assert_eq!(of(left, &[]), Proven);
}

/// It may be about a request that was not seen: encrypted, or another program's.
#[test]
fn what_only_the_log_can_know_needs_a_name() {
    let lookup = changed(refused(), "/tries", json!([]));
    let lookup = changed(lookup, "/said", json!({"said": "not_resolved"}));
    assert_eq!(told(1, &[], &[lookup]), [Likely]);
}

/// Behind TLS the kernel's facts do not say that the client was told of a failure.
#[test]
fn a_line_of_no_failure_that_was_seen_is_told_by_itself() {
    let of = |at: Nanos| {
        let signals = [
            (1001 * MS, "kernel", connect(1, 111)),
            (1001 * MS, "kernel", response(50, "/0")),
            (1001 * MS, "log", refused()),
            (at, "log", refused()),
        ];
        let out = decided_of("other", &signals);
        out.iter()
            .filter(|d| d.attempts[0].source == Source::Log)
            .count()
    };
    assert_eq!(of(1002 * MS), 0);
    assert_eq!(of(5000 * MS), 1);
}

/// A failure every 8 ms: the lines near each are not those near the next.
#[test]
fn of_a_long_row_all_lines_and_all_failures_are_counted() {
    let told = |lines: u64| {
        let at = |n: u64| (1001 + 8 * n) * MS;
        let mut signals: Vec<(Nanos, &str, Value)> = Vec::new();
        for n in 0..6 {
            let one = changed(connect(n + 1, 111), "/began", (at(n) - MS).into());
            let answer = changed(
                response(50 + n, &format!("/{n}")),
                "/request_at",
                (at(n) - MS).into(),
            );
            signals.push((at(n), "kernel", one));
            signals.push((at(n), "kernel", answer));
            if n < lines {
                signals.push((at(n), "log", refused()));
            }
        }
        let out = decided_of("other", &signals);
        let all = out.iter().filter(|d| !d.attempts.is_empty());
        all.map(|d| d.diagnosis.confidence).collect::<Vec<_>>()
    };
    assert_eq!(told(6), [Proven; 6]);
    assert!(!told(5).contains(&Proven));
}

/// Go names the connection that broke: no counting is needed, lines of others do no harm, and its answer may
/// come late.
#[test]
fn a_line_that_names_the_connection_is_of_no_other_attempt() {
    let of = |named: Value| {
        let mut one = reset_by(1, "/0");
        one["local"] = "10.0.0.1:4100".into();
        let line = |local: Value| {
            let line = line(json!({"said": "reset"}), UPSTREAM);
            changed(line, "/tries/0/local", local)
        };
        let signals = [
            (1001 * MS, "kernel", one),
            (1005 * MS, "kernel", response(50, "/0")),
            (1005 * MS, "log", line("10.0.0.1:4999".into())),
            (1005 * MS, "log", line(named)),
        ];
        let out = decided_of("other", &signals);
        let this = out.iter().find(|d| !d.attempts.is_empty());
        this.expect("a verdict").diagnosis.confidence
    };
    assert_eq!(of("10.0.0.1:4100".into()), Proven);
    assert_eq!(of("10.0.0.1:4101".into()), Likely);
    assert_eq!(of(Value::Null), Likely);
}
