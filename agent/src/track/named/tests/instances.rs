//! Two proxies of one software on one host, the one behind the other: whose line it is.

use serde_json::{Value, json};

use super::{MS, asked, changed, confidence, connect, decided_of, line, response};
use crate::cause::Cause;
use crate::track::Decided;
use crate::verdict::Confidence;

/// nginx says that it let this request wait no more.
fn limited(client: &str, pid: u32) -> Value {
    let line = changed(line("/a", 111), "/proxy", "nginx".into());
    let line = changed(line, "/tries", json!([]));
    let line = changed(line, "/said", json!({"said": "limited"}));
    let line = changed(line, "/pid", pid.into());
    changed(line, "/client", client.into())
}

fn process(pid: u32, parent: u32) -> Value {
    json!({
        "kind": "process_seen", "pid": pid, "parent": parent, "name": "nginx",
        "software": "nginx", "settings": [], "started": 0, "netns": 0, "sagemaker": false,
    })
}

fn failed(downstream: u64) -> Value {
    changed(response(downstream, "/a"), "/status", 503.into())
}

/// Asked by the first proxy at its own address, and answered.
fn answered(request: Value, answer: Value) -> Value {
    let mut one = connect(9, 0);
    one.as_object_mut().unwrap().remove("kind");
    one["local"] = "10.0.0.1:41000".into();
    one["request"] = json!({"at": 1000 * MS, "bytes": 50, "opening": request, "write_errno": null});
    one["received"] = 3000.into();
    one["response"] = answer;
    one["end"] = json!({"how": "answered"});
    one["downstream"] = json!({
        "flow": 5, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4000",
        "proxy_address": null, "request": asked("/a"), "state": "open", "read_before_ns": 1,
    });
    one
}

fn of(downstream: u64, signals: &[Value], lines: &[Value]) -> Decided {
    let facts = signals
        .iter()
        .map(|fact| (1001 * MS, "kernel", fact.clone()));
    let lines = lines.iter().map(|line| (1001 * MS, "log", line.clone()));
    let all: Vec<_> = facts.chain(lines).collect();
    let mut out = decided_of("nginx", &all);
    out.retain(|d| matches!(&d.response, Some((.., r)) if r.downstream == downstream));
    assert_eq!(out.len(), 1, "{out:#?}");
    out.remove(0)
}

#[test]
fn a_line_of_a_process_that_is_another_proxys_is_not_this_ones() {
    let by = |pid| {
        let others = [process(100, 0), process(101, 1), process(102, 100)];
        let signals = [&others[..], &[failed(5)]].concat();
        confidence(&of(5, &signals, &[limited("10.0.0.7", pid)]))
    };
    let proven = (Cause::ProxyLimit, Confidence::Proven);
    // Itself, its child, and a number from within a container.
    for pid in [1, 101, 77] {
        assert_eq!(by(pid), proven, "{pid}");
    }
    for pid in [100, 102] {
        assert_eq!(by(pid), (Cause::Unknown, Confidence::Unknown), "{pid}");
    }
}

#[test]
fn a_client_that_is_this_proxy_itself_asked_the_next_one() {
    let tls = || json!({"protocol": "tls"});
    let told = |attempt: Value, client: &str| {
        let answer = changed(failed(5), "/last_attempt", attempt);
        of(5, &[answer], &[limited(client, 77)])
    };
    for client in ["10.0.0.1", "10.0.0.1:41000"] {
        assert!(
            told(answered(tls(), tls()), client).told.is_none(),
            "{client}"
        );
    }
    // By a client behind a balancer, and by one of a connection that is another's.
    for client in ["10.0.0.9", "10.0.0.1:41001"] {
        assert!(
            told(answered(tls(), tls()), client).told.is_some(),
            "{client}"
        );
    }
}

#[test]
fn who_was_answered_by_an_upstream_did_not_decide_alone() {
    let tls = || json!({"protocol": "tls"});
    let answer = [changed(failed(5), "/last_attempt", answered(tls(), tls()))];
    let with = |line: Value| confidence(&of(5, &answer, &[line]));
    let unknown = (Cause::Unknown, Confidence::Unknown);
    assert_eq!(with(limited("10.0.0.7", 77)), unknown);
    // What it says of the answer stays true.
    let refused = changed(line("/a", 111), "/proxy", "nginx".into());
    let refused = changed(refused, "/tries/0/said", json!({"said": "head_too_big"}));
    assert_eq!(
        with(refused),
        (Cause::ResponseHeaderTooBig, Confidence::Proven)
    );
}

/// The next proxy is told of the first one's client, and logs that one's address.
#[test]
fn what_a_proxy_decided_alone_is_of_the_one_that_asked_nobody() {
    let passed_on = answered(
        asked("/a"),
        json!({"protocol": "http_response", "status": 503}),
    );
    let first = changed(failed(5), "/last_attempt", passed_on);
    let second = changed(failed(6), "/proxy", 2.into());
    let second = changed(second, "/client", "10.0.0.1:41000".into());
    let sees = json!({"kind": "source_started", "sees": ["access_log"], "blind": []});
    let signals = [sees, process(2, 0), second, first];
    let mut access = limited("10.0.0.7", 77);
    access["line"] = "access".into();
    access["pid"] = Value::Null;
    access["said"] = Value::Null;
    access["status"] = 503.into();
    let lines = [limited("10.0.0.7", 77), access];
    let of = |downstream| of(downstream, &signals, &lines);
    assert_eq!(
        confidence(&of(5)),
        (Cause::UpstreamAnswered, Confidence::Proven)
    );
    assert!(of(5).told.is_none());
    assert_eq!(confidence(&of(6)), (Cause::ProxyLimit, Confidence::Proven));
}
