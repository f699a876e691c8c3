//! A proxy that asks nobody, after connects that failed and after none.

use super::build::*;
use crate::cause::Cause;
use crate::diagnose::{Diagnosis, diagnose};
use crate::signal::*;
use crate::verdict::Confidence::{Likely, Unknown};

const REFUSED: End = End::ConnectFailed { errno: 111 };

/// It answers `waited` after it was asked at `T`, with no attempt; this ended at `at`.
fn asks_nobody(at: Nanos, end: End, waited: Nanos, change: fn(&mut Attempt)) -> Diagnosis {
    let mut scene = scene(TCP, end, 0);
    change(&mut scene.tried.attempt);
    let before = Fact::AttemptEnded(Box::new(scene.tried.attempt.clone()));
    let scene = scene.signal(at, before);
    let host = scene.host();
    let mut case = scene.case(&host, &[]);
    case.answered_at = T + waited;
    diagnose(&case)
}

#[test]
fn what_it_could_not_connect_for_before_has_no_live_upstream() {
    let found = asks_nobody(T - S, REFUSED, MS, |_| {});
    assert_eq!(
        (found.cause, found.confidence, found.settled),
        (Cause::NoLiveUpstreams, Likely, true)
    );
    assert!(found.missing[0].starts_with("proxy_log"), "{found:?}");
    assert_eq!(found.evidence[0].at, T - S);
    assert!(found.evidence[0].text.contains(TCP), "{found:?}");
    let given_up = asks_nobody(T - S, End::ConnectGivenUp, MS, |_| {});
    assert_eq!(given_up.cause, Cause::NoLiveUpstreams);
}

#[test]
fn another_worker_of_the_same_proxy_knows_of_it_and_another_proxy_does_not() {
    let of = |parent| {
        let mut scene = scene(TCP, REFUSED, 0)
            .signal(S, process(MASTER, 1, "nginx", Software::Nginx))
            .signal(S, process(PROXY, MASTER, "nginx", Software::Nginx))
            .signal(S, process(WORKER, parent, "nginx", Software::Nginx));
        scene.tried.attempt.proxy = WORKER;
        let before = Fact::AttemptEnded(Box::new(scene.tried.attempt.clone()));
        let scene = scene.signal(T - S, before);
        let host = scene.host();
        let mut case = scene.case(&host, &[]);
        case.answered_at = T + MS;
        diagnose(&case).cause
    };
    assert_eq!(of(MASTER), Cause::NoLiveUpstreams);
    assert_eq!(of(1), Cause::Unknown);
}

#[test]
fn any_other_failure_says_nothing_of_it() {
    let unknown = |found: Diagnosis| {
        assert_eq!((found.cause, found.confidence), (Cause::Unknown, Unknown));
    };
    // Another folder's, another host's.
    for asked in [
        ("/cart/17", "shop.example"),
        ("/orders/18", "other.example"),
    ] {
        let scene = scene(TCP, REFUSED, 0).attempt(|a| {
            let request = a.downstream.as_mut().and_then(|link| link.request.as_mut());
            if let Some(Opening::HttpRequest { path, host, .. }) = request {
                (*path, *host) = (asked.0.into(), Some(asked.1.into()));
            }
        });
        let before = Fact::AttemptEnded(Box::new(scene.tried.attempt.clone()));
        let scene = scene.signal(T - S, before);
        let host = scene.host();
        unknown(diagnose(&scene.case(&host, &[])));
    }
    // Its own that is not known to be, and one of long ago.
    unknown(asks_nobody(T + MS / 2, REFUSED, MS, |_| {}));
    unknown(asks_nobody(T - 61 * S, REFUSED, MS, |_| {}));
    // Who waits has a queue; who was connected was live.
    unknown(asks_nobody(T - S, REFUSED, 250 * MS, |_| {}));
    unknown(asks_nobody(T - S, End::PeerClosed, MS, |_| {}));
    unknown(asks_nobody(T - S, End::GivenUp, MS, |_| {}));
}

#[test]
fn who_was_answered_since_has_a_live_upstream() {
    let after = |more: Option<(Nanos, Fact)>| {
        let mut scene = scene(TCP, REFUSED, 0);
        let before = Fact::AttemptEnded(Box::new(scene.tried.attempt.clone()));
        scene = scene.signal(T - 9 * S, before);
        if let Some((at, fact)) = more {
            scene = scene.signal(at, fact);
        }
        let host = scene.host();
        let mut case = scene.case(&host, &[]);
        case.answered_at = T + MS;
        diagnose(&case).cause
    };
    assert_eq!(after(None), Cause::NoLiveUpstreams);
    // An answer on a connection that is open still, to a process.
    let open = |proxy, heard| {
        let mut response = scene(TCP, REFUSED, 0).response.expect("a response");
        response.in_touch = vec![InTouch {
            proxy,
            upstream: Address(TCP.to_owned()),
            heard,
        }];
        after(Some((T + MS, Fact::ResponseSent(Box::new(response)))))
    };
    assert_eq!(open(PROXY, T - S), Cause::Unknown);
    // It answers all the time.
    assert_eq!(open(PROXY, T + 2 * MS), Cause::Unknown);
    assert_eq!(open(PROXY, T - 10 * S), Cause::NoLiveUpstreams);
    assert_eq!(open(PROXY, T + S), Cause::NoLiveUpstreams);
    assert_eq!(open(WORKER, T - S), Cause::NoLiveUpstreams);
    // On one that was closed since.
    let closed = |idle_ns, requests| {
        let idle = IdleClose {
            flow: FLOW,
            proxy: PROXY,
            upstream: Address(TCP.to_owned()),
            by: ClosedBy::Upstream,
            reset: false,
            idle_ns,
            requests,
            longest_reuse_ns: 0,
        };
        after(Some((T - S, Fact::IdleClosed(idle))))
    };
    assert_eq!(closed(2 * S, 3), Cause::Unknown);
    assert_eq!(closed(8 * S, 3), Cause::NoLiveUpstreams);
    assert_eq!(closed(2 * S, 0), Cause::NoLiveUpstreams);
    let late = |upstream: &str| {
        let stall = Stall {
            proxy: PROXY,
            upstream: Address(upstream.to_owned()),
            waited_ns: 2 * S,
        };
        after(Some((T - S, Fact::FirstByteLate(stall))))
    };
    assert_eq!(late(TCP), Cause::Unknown);
    assert_eq!(late("10.9.0.9:80"), Cause::NoLiveUpstreams);
    // As the proxy's own log tells.
    let line = |status: u16| {
        let logged = serde_json::json!({"proxy": "nginx", "line": "access", "pid": PROXY,
            "connection": null, "client": null, "request": null, "within": 0, "took": null,
            "status": status, "said": null, "tries": [{"upstream": TCP, "said": null,
                "status": status, "connect": null, "took": null}]});
        let logged = serde_json::from_value(logged).expect("a line");
        after(Some((T - S, Fact::Logged(Box::new(logged)))))
    };
    assert_eq!(line(200), Cause::Unknown);
    assert_eq!(line(502), Cause::NoLiveUpstreams);
}
