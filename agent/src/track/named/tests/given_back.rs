//! Attempts that a response was given, though its proxy's own line tells of another, or of none.

use serde_json::{Value, json};

use super::{MS, asked, changed, confidence, connect, decided_of, ended, line, response};
use crate::cause::Cause;
use crate::verdict::Confidence;

/// HAProxy's check of a server fails, and it tells those who waited for that server.
#[test]
fn a_check_that_fails_as_the_queue_is_emptied_is_nobodys_attempt() {
    let told = |said: Value, client: &str| {
        let line = changed(line("/a", 111), "/proxy", "haproxy".into());
        let line = changed(line, "/line", "access".into());
        let line = changed(line, "/tries", json!([]));
        let line = changed(line, "/said", said);
        let line = changed(line, "/status", 503.into());
        let line = changed(line, "/client", client.into());
        let signals = [
            (1001 * MS, "kernel", connect(1, 111)),
            (
                1001 * MS,
                "kernel",
                changed(response(5, "/a"), "/status", 503.into()),
            ),
            (1001 * MS, "log", line),
        ];
        let out = decided_of("haproxy", &signals);
        let this = out
            .iter()
            .find(|d| matches!(&d.response, Some((.., r)) if r.downstream == 5));
        let this = this.expect("a verdict");
        (confidence(this), this.attempts.len())
    };
    let here = "10.0.0.7:4000";
    for (said, cause, confidence) in [
        (
            "queue_timed_out",
            Cause::ProxyQueueTimeout,
            Confidence::Proven,
        ),
        // It follows from lines about servers, of which some may be missed.
        ("not_resolved", Cause::DnsFailed, Confidence::Likely),
        // A name without an address makes HAProxy say the same.
        (
            "no_live_upstreams",
            Cause::NoLiveUpstreams,
            Confidence::Likely,
        ),
    ] {
        let said = json!({"said": said});
        assert_eq!(told(said.clone(), here), ((cause, confidence), 0));
        // Another client's line.
        let refused = (Cause::ConnectionRefused, Confidence::Likely);
        assert_eq!(told(said, "10.0.0.7:4001"), (refused, 1));
    }
}

/// Of two requests alike, one has no connection, and the other, which is encrypted, is broken.
#[test]
fn of_what_ended_at_once_the_own_line_tells_which_it_was() {
    let told = |said: Value, client: &str| {
        let line = changed(line("/a", 111), "/proxy", "haproxy".into());
        let line = changed(line, "/tries/0/upstream", "back/server1".into());
        let line = changed(line, "/tries/0/said", said);
        let line = changed(line, "/client", client.into());
        let signals = [
            (1001 * MS, "kernel", ended(1, asked("/a"))),
            (1001 * MS, "kernel", connect(2, 111)),
            (
                1001 * MS,
                "kernel",
                changed(response(5, "/a"), "/status", 503.into()),
            ),
            (1001 * MS, "log", line),
        ];
        let out = decided_of("haproxy", &signals);
        let this = out
            .iter()
            .find(|d| matches!(&d.response, Some((.., r)) if r.downstream == 5));
        let this = this.expect("a verdict");
        let flows = this.attempts.iter().map(|t| t.attempt.flow);
        (confidence(this).0, flows.collect::<Vec<_>>())
    };
    let (here, elsewhere) = ("10.0.0.7:4000", "10.0.0.7:4001");
    let broken = (Cause::UpstreamClosedEarly, vec![1]);
    let said = |said: &str| json!({"said": said});
    assert_eq!(told(said("closed_or_reset"), here), broken);
    assert_eq!(told(said("not_connected"), elsewhere), broken);
    assert_eq!(
        told(said("not_connected"), here),
        (Cause::ConnectionRefused, vec![2])
    );
}

/// The line names its upstream: what ended at another one is another's.
#[test]
fn of_two_upstreams_the_line_tells_which_was_called() {
    let elsewhere = changed(connect(1, 111), "/upstream", "10.0.0.9:80".into());
    let signals = [
        (1001 * MS, "kernel", elsewhere),
        (1001 * MS, "kernel", connect(2, 111)),
        (1001 * MS, "kernel", response(5, "/a")),
        (1001 * MS, "log", line("/a", 111)),
    ];
    let out = decided_of("caddy", &signals);
    assert_eq!(out.len(), 1, "{out:#?}");
    let flows = out[0].attempts.iter().map(|t| t.attempt.flow);
    assert_eq!(flows.collect::<Vec<_>>(), [2]);
    assert_eq!(
        confidence(&out[0]),
        (Cause::ConnectionRefused, Confidence::Proven)
    );
}
