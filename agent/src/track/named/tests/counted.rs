//! Lines of Go's reverse proxy, which name no request: as many as failures, and all alike.

use serde_json::{Value, json};

use super::{MS, UPSTREAM, changed, connect, decided_of, response};
use crate::cause::Cause;
use crate::signal::{Nanos, Source};
use crate::verdict::Confidence::{self, Likely, Proven};

fn line(said: Value, upstream: &str) -> Value {
    let one = json!({
        "upstream": upstream, "said": said, "status": null, "connect": null, "took": null,
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

/// It may be about a request that was not seen: encrypted, or another program's.
#[test]
fn what_only_the_log_can_know_needs_a_name() {
    let lookup = changed(refused(), "/tries", json!([]));
    let lookup = changed(lookup, "/said", json!({"said": "not_resolved"}));
    assert_eq!(told(1, &[], &[lookup]), [Likely]);
}
