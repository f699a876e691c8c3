//! Several attempts or requests alike: whose line is whose does not matter where all come to the same.

use serde_json::{Value, json};

use super::late::{malformed, told, unanswered};
use super::{MS, UPSTREAM, asked, changed, confidence, connect, decided_of, line, response};
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::Confidence::Proven;

/// Whose of two attempts alike it was does not matter, also where the other one's answer has not come.
#[test]
fn another_attempt_alike_that_waited_in_vain_as_well_does_no_harm() {
    let both = [
        (1999 * MS, unanswered(1, 999 * MS)),
        (2000 * MS, unanswered(2, 999 * MS)),
    ];
    let of = |attempts: &[(Nanos, Value)]| {
        let said = json!({"said": "read_timed_out"});
        told("caddy", 504, said, UPSTREAM, attempts)
    };
    assert_eq!(of(&both), Proven);
    // That one was read: it would have another cause.
    let [this, (at, other)] = both;
    let read = changed(other, "/peer/accepted", true.into());
    assert_ne!(of(&[this, (at, read)]), Proven);
}

/// An attempt of which nothing is known but its moment fits whatever lines were written then.
#[test]
fn a_line_that_fits_its_exchange_better_is_not_doubted_for_another() {
    let link = json!({
        "flow": 5, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4000",
        "proxy_address": null, "request": asked("/a"), "state": "open", "read_before_ns": null,
    });
    let line = |path: &str, port: u16, said: &str| {
        let line = changed(line(path, 111), "/proxy", "haproxy".into());
        let line = changed(line, "/client", format!("10.0.0.7:{port}").into());
        let mut line = changed(line, "/tries/0/said", json!({"said": said}));
        line["line"] = "access".into();
        line["status"] = 503.into();
        line["tries"][0]["upstream"] = "back/one".into();
        line
    };
    let check = changed(connect(9, 0), "/end", json!({"how": "given_up"}));
    let signals = [
        (1001 * MS, "kernel", check),
        (
            1010 * MS,
            "kernel",
            changed(connect(1, 111), "/downstream", link),
        ),
        (
            1010 * MS,
            "kernel",
            changed(response(5, "/a"), "/status", 503.into()),
        ),
        (1010 * MS, "log", line("/b", 4001, "peer_closed")),
        (1010 * MS, "log", line("/c", 4002, "reset")),
        (1010 * MS, "log", line("/a", 4000, "not_connected")),
    ];
    let out = decided_of("haproxy", &signals);
    let this =
        |d: &&crate::track::Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
    let told = confidence(out.iter().find(this).expect("a verdict"));
    assert_eq!(told, (Cause::ConnectionRefused, Proven));
}

/// nginx's lines tell the second alone: they come before any of its answers of that second.
#[test]
fn of_requests_alike_the_first_is_decided_with_the_others() {
    let answer = |n: u64| {
        let mut last = malformed(n);
        last["request"]["opening"] = json!({"protocol": "fast_cgi"});
        last["fault"] = Value::Null;
        last["received"] = 4096.into();
        changed(response(50 + n, "/a"), "/last_attempt", last)
    };
    let line = |connection: u64| {
        let mut line = changed(line("/a", 111), "/proxy", "nginx".into());
        line["tries"][0]["said"] = json!({"said": "head_too_big"});
        line["client"] = "10.0.0.7".into();
        line["connection"] = connection.into();
        line["pid"] = 1.into();
        line["within"] = (1000 * MS).into();
        line
    };
    let signals = [
        (2000 * MS, "log", line(1)),
        (2000 * MS, "log", line(2)),
        (2001 * MS, "kernel", answer(1)),
        (2005 * MS, "kernel", answer(2)),
        (2300 * MS, "kernel", json!({"kind": "tick"})),
    ];
    let told = decided_of("nginx", &signals);
    let told: Vec<_> = told.iter().map(confidence).collect();
    assert_eq!(told, [(Cause::ResponseHeaderTooBig, Proven); 2]);
}
