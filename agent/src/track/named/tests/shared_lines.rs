//! Lines that name a request and no client, as Envoy's do by default, of requests alike.

use serde_json::{Value, json};

use super::{MS, asked, changed, connect, decided_of, ended, line, response};
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::track::Decided;
use crate::verdict::Confidence;

const AT: Nanos = 1001 * MS;

fn said(path: &str, said: &str) -> Value {
    let line = changed(line(path, 111), "/proxy", "envoy".into());
    let line = changed(line, "/client", Value::Null);
    let line = changed(line, "/line", "access".into());
    let mut line = changed(line, "/status", 503.into());
    match said {
        "limited" => {
            line["tries"] = json!([]);
            line["said"] = json!({"said": said});
        }
        _ => line["tries"][0]["said"] = json!({"said": said}),
    }
    line
}

fn failed(downstream: u64, path: &str) -> Value {
    changed(response(downstream, path), "/status", 503.into())
}

fn decided(facts: &[Value], lines: &[Value]) -> Vec<(u64, Cause, Confidence)> {
    let facts = facts.iter().map(|fact| (AT, "kernel", fact.clone()));
    let lines = lines.iter().map(|line| (AT, "log", line.clone()));
    let out = decided_of("envoy", &facts.chain(lines).collect::<Vec<_>>());
    let of = |d: &Decided| {
        let told = &d.diagnosis;
        let (.., response) = d.response.as_ref()?;
        Some((response.downstream, told.cause, told.confidence))
    };
    let mut all: Vec<_> = out.iter().filter_map(of).filter(|d| d.0 < 10).collect();
    all.sort_unstable_by_key(|d| d.0);
    all
}

/// Each may have been given the other's attempt, and that one's line.
#[test]
fn an_attempt_and_a_line_that_may_both_be_anothers_prove_nothing() {
    let of = |path: &str| {
        let facts = [
            connect(1, 111),
            changed(ended(2, asked(path)), "/upstream", "10.0.0.3:80".into()),
            failed(5, "/a"),
            failed(6, path),
        ];
        let mut broken = said(path, "closed_or_reset");
        broken["tries"][0]["upstream"] = "10.0.0.3:80".into();
        let lines = [said("/a", "not_connected"), broken];
        decided(&facts, &lines).into_iter().map(|d| (d.0, d.2))
    };
    let alike: Vec<_> = of("/a").collect();
    assert!(
        !alike.iter().any(|d| d.1 == Confidence::Proven),
        "{alike:?}"
    );
    let others: Vec<_> = of("/b").collect();
    assert_eq!(others, [(5, Confidence::Proven), (6, Confidence::Proven)]);
}

/// Of two, one is let through no more, and is given the attempt of the other.
#[test]
fn what_is_left_when_the_other_was_decided_proves_nothing() {
    let facts = [ended(1, asked("/a")), failed(5, "/a"), failed(6, "/a")];
    let lines = [said("/a", "closed_or_reset"), said("/a", "limited")];
    let told = decided(&facts, &lines);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(!told.iter().any(|d| d.2 == Confidence::Proven), "{told:?}");
    let alone = decided(&[failed(6, "/a")], &[said("/a", "limited")]);
    assert_eq!(alone, [(6, Cause::ProxyLimit, Confidence::Proven)]);
}
