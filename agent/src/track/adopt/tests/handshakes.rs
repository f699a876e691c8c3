//! A handshake that came to nothing carries no request, as a connect that failed.

use serde_json::{Value, json};

use super::*;

/// It was answered with a certificate, say, with which the proxy was not content.
fn handshake(flow: u64, thread: u32, began: Nanos) -> Value {
    let hello =
        json!({"at": began, "bytes": 300, "opening": {"protocol": "tls"}, "write_errno": null});
    let mut one = attempt(flow, thread, hello, json!({"how": "given_up"}));
    one["began"] = began.into();
    one["received"] = 1200.into();
    one["response"] = json!({"protocol": "unseen"});
    one["unasked"] = true.into();
    one
}

fn unavailable() -> Value {
    let mut answer = response(5, "/a");
    answer["status"] = 503.into();
    answer
}

#[test]
fn a_handshake_is_its_that_was_answered_then() {
    let cause = |software: &str, thread: u32, began: Nanos| {
        let signals = [
            (20 * MS, handshake(1, thread, began)),
            (20 * MS + 1, unavailable()),
        ];
        let out = verdicts_of(software, &signals);
        assert_eq!(out.len(), 1);
        (out[0].diagnosis.cause, out[0].diagnosis.confidence)
    };
    let failed = (Cause::TlsHandshakeFailed, Confidence::Likely);
    assert_eq!(cause("haproxy", 7, 10 * MS), failed);
    // Its clients are this thread's own; in Go they are any thread's.
    assert_eq!(cause("haproxy", 8, 10 * MS).0, Cause::Unknown);
    assert_eq!(cause("caddy", 8, 10 * MS), failed);
    // A check that had begun before the request came.
    assert_eq!(cause("haproxy", 7, 8 * MS).0, Cause::Unknown);
}

/// Envoy fails all requests that wait for a connection as one of them fails, and then closes the others.
#[test]
fn a_handshake_may_be_given_up_after_the_answer() {
    let with = |one: Value| {
        let out = verdicts_of("envoy", &[(20 * MS, unavailable()), (28 * MS, one)]);
        assert_eq!(out.len(), 1);
        out[0].diagnosis.cause
    };
    assert_eq!(with(handshake(1, 7, 10 * MS)), Cause::TlsHandshakeFailed);
    let mut refused = attempt(1, 7, Value::Null, refused());
    refused["began"] = (10 * MS).into();
    assert_eq!(with(refused), Cause::Unknown);
}

#[test]
fn a_check_in_tls_that_fails_is_nobodys() {
    let one = [(20 * MS, handshake(1, 7, 10 * MS))];
    assert!(all_of("haproxy", &one).is_empty());
    // Nor is it where a client in TLS may have been meant.
    let mut behind_tls = handshake(1, 7, 10 * MS);
    behind_tls["downstream"] = read(5, json!({"protocol": "tls"}));
    let out = verdicts_of("haproxy", &[(20 * MS, behind_tls)]);
    assert!(out.is_empty(), "{out:?}");
}
