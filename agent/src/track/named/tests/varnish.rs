//! Varnish's log: it names each connection by both ends, and what it has no connection to by its own name.

use serde_json::{Value, json};

use super::{MS, UPSTREAM, asked, changed, confidence, connect, decided_of, reset_by, response};
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::Confidence::{self, Likely, Proven};

const LOCAL: &str = "10.0.0.1:4100";

fn one(upstream: &str, local: Value, said: Value, status: Value) -> Value {
    json!({
        "upstream": upstream, "said": said, "status": status, "connect": null, "took": null,
        "local": local,
    })
}

/// The backend's name stands where it got no connection.
fn unconnected(said: Value) -> Value {
    one("app", Value::Null, said, Value::Null)
}

fn refused() -> Value {
    unconnected(json!({"said": "connect_failed", "errno": 111}))
}

/// A 503, what came before it, and its line with these tries.
fn told(kernel: &[(Nanos, Value)], tries: &[Value]) -> (Cause, Confidence) {
    let line = json!({
        "kind": "logged", "proxy": "varnish", "line": "access", "pid": null, "connection": null,
        "client": "10.0.0.7:4000", "within": 1000, "took": 2 * MS, "said": null, "status": 503,
        "request": asked("/a"), "tries": tries,
    });
    let mut signals: Vec<_> = kernel
        .iter()
        .map(|(at, fact)| (*at, "kernel", fact.clone()))
        .collect();
    let answer = changed(response(5, "/a"), "/status", 503.into());
    signals.push((1010 * MS, "kernel", answer));
    signals.push((1010 * MS, "log", line));
    signals.push((1300 * MS, "kernel", json!({"kind": "tick"})));
    let out = decided_of("varnish", &signals);
    let this =
        |d: &&crate::track::Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
    confidence(out.iter().find(this).expect("a verdict"))
}

#[test]
fn a_connection_that_is_named_is_the_responses_own() {
    let broke = changed(reset_by(1, "/a"), "/local", LOCAL.into());
    let of = |local: Value| {
        let said = json!({"said": "closed_or_reset"});
        told(
            &[(1001 * MS, broke.clone())],
            &[one(UPSTREAM, local, said, Value::Null)],
        )
    };
    assert_eq!(of(LOCAL.into()).1, Proven);
    assert_ne!(of("10.0.0.1:4101".into()).1, Proven);
}

#[test]
fn an_answer_on_a_connection_that_is_named_is_the_responses_own() {
    let mut answered = changed(reset_by(1, "/a"), "/local", LOCAL.into());
    answered["end"] = json!({"how": "answered"});
    answered["received"] = 60.into();
    answered["response"] = json!({"protocol": "http_response", "status": 503});
    let of = |local: &str, status: u16| {
        let said = json!({"said": "answered"});
        let one = one(UPSTREAM, local.into(), said, status.into());
        told(&[(1001 * MS, answered.clone())], &[one])
    };
    assert_eq!(of(LOCAL, 503), (Cause::UpstreamAnswered, Proven));
    assert_ne!(of("10.0.0.1:4101", 503).1, Proven);
    assert_ne!(of(LOCAL, 502).1, Proven);
}

#[test]
fn a_connect_is_named_where_no_other_failed_then() {
    let this = (1009 * MS, connect(1, 111));
    let proven = (Cause::ConnectionRefused, Proven);
    assert_eq!(told(std::slice::from_ref(&this), &[refused()]), proven);
    let other = changed(connect(2, 111), "/upstream", "10.0.0.3:9009".into());
    let both = [this.clone(), (1009 * MS, other)];
    assert_eq!(told(&both, &[refused()]).1, Likely);
    // It made none for this request: which it was held against is not told.
    let none = unconnected(json!({"said": "not_connected"}));
    assert_eq!(told(std::slice::from_ref(&this), &[none]).1, Likely);
}

/// The pool's connection had been closed, and a new one was refused.
#[test]
fn what_is_said_of_the_connection_before_is_not_said_of_the_connect() {
    let before = one(
        UPSTREAM,
        LOCAL.into(),
        json!({"said": "closed_or_reset"}),
        Value::Null,
    );
    let refusal = changed(connect(1, 111), "/local", "10.0.0.1:4200".into());
    let told = told(&[(1009 * MS, refusal)], &[before, refused()]);
    assert_eq!(told, (Cause::ConnectionRefused, Proven));
}

#[test]
fn a_try_that_nobody_saw_failed_as_the_line_says() {
    let missing = unconnected(json!({"said": "connect_failed", "errno": 2}));
    assert_eq!(told(&[], &[missing]), (Cause::UnixSocketMissing, Likely));
    let broke = unconnected(json!({"said": "closed_or_reset"}));
    assert_eq!(told(&[], &[broke]).0, Cause::Unknown);
}

/// Requests alike at one moment, on several connections.
#[test]
fn of_attempts_alike_it_is_the_one_that_the_line_names() {
    let broke = |flow: u64, local: &str| changed(reset_by(flow, "/a"), "/local", local.into());
    let all = [
        (1001 * MS, broke(1, "10.0.0.1:4101")),
        (1002 * MS, broke(2, "10.0.0.1:4102")),
        (1003 * MS, broke(3, "10.0.0.1:4103")),
    ];
    for local in ["10.0.0.1:4101", "10.0.0.1:4102", "10.0.0.1:4103"] {
        let said = json!({"said": "closed_or_reset"});
        let line = one(UPSTREAM, local.into(), said, Value::Null);
        assert_eq!(told(&all, &[line]).1, Proven, "{local}");
    }
}

/// Varnish makes no connect for a while after one that was refused; its line has that one's error.
#[test]
fn a_connect_that_was_not_made_failed_as_all_that_it_may_be_held_for() {
    let at =
        |time: Nanos, one: Value| (time * MS, changed(one, "/began", ((time - 5) * MS).into()));
    let before = at(905, connect(1, 111));
    let proven = (Cause::ConnectionRefused, Proven);
    assert_eq!(told(std::slice::from_ref(&before), &[refused()]), proven);
    let nothing = unconnected(json!({"said": "not_connected"}));
    assert_eq!(told(std::slice::from_ref(&before), &[nothing]).1, Likely);
    let elsewhere = |errno| {
        let other = changed(connect(2, errno), "/upstream", "10.0.0.3:9009".into());
        [before.clone(), at(906, other)]
    };
    assert_eq!(told(&elsewhere(111), &[refused()]), proven);
    assert_ne!(told(&elsewhere(101), &[refused()]).1, Proven);
}

/// Another request's connect failed at the same moment, of something else.
#[test]
fn a_connect_that_ended_otherwise_than_the_line_says_is_anothers() {
    let missing = changed(connect(2, 2), "/upstream", "unix:/run/a.sock".into());
    let both = [(1009 * MS, missing), (1010 * MS, connect(1, 111))];
    let said = unconnected(json!({"said": "connect_failed", "errno": 2}));
    assert_eq!(told(&both, &[said]).0, Cause::UnixSocketMissing);
    assert_eq!(told(&both, &[refused()]).0, Cause::ConnectionRefused);
}

/// Two upstreams are held back for at once: which of them a request was for is in its line, by a name whose
/// address is in the configuration. Proven it is not: another one may have been loaded since.
#[test]
fn a_name_of_the_configuration_is_an_address() {
    let at =
        |time: Nanos, one: Value| (time * MS, changed(one, "/began", ((time - 5) * MS).into()));
    let socket = "unix:/run/a.sock";
    let of = |servers: &[(&str, &str)], said: Value| {
        let settings: Vec<_> = (servers.iter())
            .map(|(name, to)| json!([format!("backend {name} server"), to]))
            .collect();
        let varnish = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "varnishd",
            "software": "varnish", "settings": settings, "started": 0, "netns": 0,
            "sagemaker": false,
        });
        let elsewhere = changed(connect(2, 111), "/upstream", socket.into());
        let signals = [(2, varnish), at(905, connect(1, 111)), at(906, elsewhere)];
        told(&signals, &[unconnected(said)])
    };
    let nothing = || json!({"said": "not_connected"});
    let refused = || json!({"said": "connect_failed", "errno": 111});
    for said in [nothing, refused] {
        let tcp = of(&[("app", UPSTREAM)], said());
        assert_eq!(tcp, (Cause::ConnectionRefused, Likely));
        let unix = of(&[("other", UPSTREAM), ("app", socket)], said());
        assert_eq!(unix, (Cause::UnixSocketRefused, Likely));
        assert_eq!(of(&[], said()).0, Cause::Unknown);
        let elsewhere = of(&[("app", "10.0.0.4:9009")], said());
        assert_ne!(elsewhere.1, Proven);
    }
    let other = json!({"said": "connect_failed", "errno": 101});
    assert_ne!(of(&[("app", UPSTREAM)], other).1, Proven);
}
