//! An upstream's own error through nginx, over a protocol that carries no request to compare.

use serde_json::{Value, json};

use super::late::malformed;
use super::{MS, UPSTREAM, changed, confidence, decided_of, line, response};
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::Confidence::{self, Likely, Proven};

/// php-fpm's answer of 502 for `/a`, which the client got.
fn answered() -> Value {
    let mut last = malformed(1);
    last["request"]["opening"] = json!({"protocol": "fast_cgi"});
    last["fault"] = Value::Null;
    last["response"]["status"] = 502.into();
    last["downstream"] = json!({
        "flow": 5, "ordinal": 1, "order": "after_read", "client": null, "proxy_address": null,
        "request": null, "state": "unknown", "read_before_ns": null,
    });
    changed(response(5, "/a"), "/last_attempt", last)
}

/// Its access line, with what it says of upstreams.
fn access(tries: Value) -> Value {
    let mut line = changed(line("/a", 111), "/client", "10.0.0.7".into());
    line["line"] = "access".into();
    line["proxy"] = Value::Null;
    line["status"] = 502.into();
    line["tries"] = tries;
    line
}

fn told(answer: Value, logs: &[&str], lines: &[Value]) -> Confidence {
    let sees = json!({"kind": "source_started", "sees": logs, "blind": []});
    let mut signals: Vec<(Nanos, &str, Value)> =
        vec![(MS, "log", sees), (2000 * MS, "kernel", answer)];
    signals.extend(lines.iter().map(|line| (2000 * MS, "log", line.clone())));
    signals.push((2300 * MS, "kernel", json!({"kind": "tick"})));
    let out = decided_of("nginx", &signals);
    let this =
        |d: &&crate::track::Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
    let (cause, confidence) = confidence(out.iter().find(this).expect("a verdict"));
    assert_eq!(cause, Cause::UpstreamAnswered);
    confidence
}

#[test]
fn the_access_line_says_the_upstreams_status() {
    let one = |upstream: &str, status: u16| {
        json!([{
            "upstream": upstream, "said": null, "status": status, "connect": null, "took": null,
        }])
    };
    let of = |tries: Value| told(answered(), &["access_log"], &[access(tries)]);
    assert_eq!(of(one(UPSTREAM, 502)), Proven);
    assert_eq!(of(one(UPSTREAM, 504)), Likely);
    assert_eq!(of(one("10.0.0.3:9009", 502)), Likely);
    assert_eq!(of(json!([])), Likely);
}

#[test]
fn what_nginx_does_not_call_an_error_of_its_own_is_the_upstreams() {
    let logs = ["access_log", "nginx_error_log"];
    let line = || access(json!([]));
    assert_eq!(told(answered(), &logs, &[line()]), Proven);
    // Nothing says that nginx had no part in it.
    assert_eq!(told(answered(), &logs, &[]), Likely);
    assert_eq!(told(answered(), &logs[..1], &[line()]), Likely);
    let of = |pointer: &str, to: Value| told(changed(answered(), pointer, to), &logs, &[line()]);
    let link = "/last_attempt/downstream";
    // Begun for another request, or perhaps; the client got another status, or none that this is.
    assert_eq!(of(&format!("{link}/flow"), 6.into()), Likely);
    assert_eq!(of(&format!("{link}/ordinal"), 2.into()), Likely);
    assert_eq!(of(&format!("{link}/order"), "unclear".into()), Likely);
    assert_eq!(of("/last_attempt/response/status", 503.into()), Likely);
    let elsewhere = changed(line(), "/request/path", "/b".into());
    assert_eq!(told(answered(), &logs, &[elsewhere]), Likely);
    // nginx refused it itself, while its thread worked for another.
    let mut limited = changed(line(), "/line", "error".into());
    limited["said"] = json!({"said": "limited"});
    limited["status"] = Value::Null;
    assert_eq!(told(answered(), &logs, &[limited, line()]), Likely);
    // Of two requests alike one has no line.
    let mut twin = answered();
    twin["downstream"] = 6.into();
    twin["last_attempt"]["downstream"]["flow"] = 6.into();
    twin["last_attempt"]["flow"] = 2.into();
    let both = |lines: usize| {
        let sees = json!({"kind": "source_started", "sees": logs, "blind": []});
        let mut signals: Vec<(Nanos, &str, Value)> = vec![
            (MS, "log", sees),
            (2000 * MS, "kernel", answered()),
            (2000 * MS, "kernel", twin.clone()),
        ];
        signals.extend((0..lines).map(|_| (2000 * MS, "log", line())));
        signals.push((2300 * MS, "kernel", json!({"kind": "tick"})));
        let out = decided_of("nginx", &signals);
        let told = out.iter().filter(|d| !d.attempts.is_empty());
        told.map(|d| confidence(d).1).collect::<Vec<_>>()
    };
    assert_eq!(both(1), [Likely; 2]);
    assert_eq!(both(2), [Proven; 2]);
}

/// Others' access lines may be like nginx's, and not each of their errors is in a log that is read.
#[test]
fn an_error_log_without_a_line_says_nothing_of_another_proxy() {
    let of = |software: &str| {
        let logs = ["access_log", "nginx_error_log", "apache_error_log"];
        let sees = json!({"kind": "source_started", "sees": logs, "blind": []});
        let signals = [
            (MS, "log", sees),
            (2000 * MS, "kernel", response(5, "/a")),
            (2000 * MS, "log", access(json!([]))),
            (2300 * MS, "kernel", json!({"kind": "tick"})),
        ];
        let out = decided_of(software, &signals);
        confidence(&out[0])
    };
    assert_eq!(of("nginx"), (Cause::ProxyConfig, Likely));
    assert_eq!(of("h2o"), (Cause::Unknown, Confidence::Unknown));
}
