//! Bytes and answers, and what a proof needs besides the facts of its attempt.

use super::build::*;
use super::connects::listener;
use super::deaths::worker_gone;
use super::races::fin_in_flight;
use crate::cause::{Cause, Variant};
use crate::signal::*;
use crate::verdict::Confidence::{Likely, Proven, Unknown};

#[test]
fn two_languages() {
    let answered = |opening, bytes| {
        scene(TCP, End::PeerClosed, MS).attempt(|a| {
            a.received = bytes;
            a.response = Some(opening);
        })
    };
    answered(Opening::Tls, 7).is(Cause::ProtocolMismatch, Variant::HttpToTls, Proven, true);
    answered(Opening::Other, 40).is(Cause::ProtocolMismatch, Variant::NotHttp, Proven, true);
    assert_ne!(
        answered(Opening::Other, 5).judge().cause,
        Cause::ProtocolMismatch
    );
    let uwsgi = |name: &str| {
        let settings = vec![(name.to_owned(), "10.9.0.2:9000".to_owned())];
        let seen = match process(WORKER, MASTER, "uwsgi", Software::Uwsgi) {
            Fact::ProcessSeen(p) => Fact::ProcessSeen(Process { settings, ..p }),
            other => other,
        };
        worker_gone(End::PeerClosed, Software::Uwsgi).signal(S, seen)
    };
    uwsgi("--socket").is(Cause::ProtocolMismatch, Variant::HttpToUwsgi, Proven, true);
    assert_ne!(
        uwsgi("--http-socket").judge().cause,
        Cause::ProtocolMismatch
    );
    // To the same socket in its own protocol.
    let spoken = uwsgi("--socket").attempt(|a| {
        a.request = a.request.take().map(|r| RequestSent {
            opening: Opening::Uwsgi,
            ..r
        });
    });
    assert_ne!(spoken.judge().cause, Cause::ProtocolMismatch);
}

#[test]
fn what_listens_in_a_container_is_not_the_remote_upstream() {
    let settings = vec![("socket".to_owned(), ":9000".to_owned())];
    let uwsgi = match process(MASTER, 1, "uwsgi", Software::Uwsgi) {
        Fact::ProcessSeen(p) => Fact::ProcessSeen(Process {
            settings,
            netns: 2,
            ..p
        }),
        other => other,
    };
    let listens = match listener("0.0.0.0:9000", false) {
        Fact::ListenerSeen(l) => Fact::ListenerSeen(Listener { netns: 2, ..l }),
        other => other,
    };
    let closed = scene(TCP, End::PeerClosed, MS)
        .signal(S, uwsgi)
        .signal(S, listens)
        .late();
    closed.is(Cause::UpstreamClosedEarly, Variant::NoBytes, Likely, true);
    // Where the other end of the connection was seen in that container, it is.
    let place = |address: &str, netns| {
        Some(Place {
            address: Address(address.into()),
            netns,
        })
    };
    let joined = |place| closed.clone().attempt(|a| a.upstream_end = place);
    let translated = joined(place("172.17.0.2:9000", 2));
    translated.is(Cause::ProtocolMismatch, Variant::HttpToUwsgi, Proven, true);
    assert_ne!(joined(place(TCP, 1)).judge().cause, Cause::ProtocolMismatch);
    // What has answered before speaks what it was sent.
    let reused = translated.reused();
    assert_ne!(reused.judge().cause, Cause::ProtocolMismatch);
}

#[test]
fn answers() {
    let answered = |upstream: u16, sent: Option<u16>, bytes| {
        let mut scene = scene(TCP, End::Answered, MS).attempt(|a| {
            a.received = bytes;
            a.response = Some(Opening::HttpResponse { status: upstream });
        });
        if let Some(response) = &mut scene.response {
            response.status = sent;
            response.last_attempt = Some(Box::new(scene.tried.attempt.clone()));
        }
        scene
    };
    answered(502, Some(502), 200).is(Cause::UpstreamAnswered, None, Proven, true);
    answered(502, Some(200), 200).is(Cause::UpstreamAnswered, None, Likely, true);
    answered(504, None, 200).is(Cause::UpstreamAnswered, None, Likely, true);
    answered(200, Some(502), 8192).is(Cause::ResponseHeaderTooBig, None, Likely, true);
    answered(200, Some(502), 200).is(Cause::ResponseInvalid, None, Likely, true);
    answered(200, Some(200), 200).is(Cause::Unknown, None, Unknown, true);
    // Cut short by a close whose FIN the proxy had not seen yet.
    let mut cut = answered(200, Some(502), 27).peer_closed(true, true, false, MS / 10);
    if let Some(response) = &mut cut.response {
        response.last_attempt = Some(Box::new(cut.tried.attempt.clone()));
    }
    let partial = Some(Variant::PartialHead);
    cut.is(Cause::UpstreamClosedEarly, partial, Likely, true);
}

#[test]
fn a_retry_that_worked_leaves_the_first_attempts_cause() {
    let scene = fin_in_flight();
    let mut retry = scene.tried.clone();
    retry.attempt.flow = 8;
    retry.attempt.retry_of = Some(FLOW);
    retry.attempt.end = End::Answered;
    retry.attempt.response = Some(Opening::HttpResponse { status: 200 });
    let mut saved = scene.clone().status(200);
    if let Some(response) = &mut saved.response {
        response.adjacent = Some(8);
        response.last_attempt = Some(Box::new(retry.attempt.clone()));
    }
    let host = saved.host();
    let attempts = [saved.tried.clone(), retry];
    let case = saved.case(&host, &attempts);
    let found = crate::diagnose::diagnose(&case);
    assert_eq!(
        (found.cause, found.confidence),
        (Cause::KeepaliveRace, Proven)
    );
    assert_eq!(crate::diagnose::diagnose_attempt(&case, &attempts[1]), None);
}

#[test]
fn no_attempt_at_all() {
    let scene = scene(TCP, End::Answered, 0);
    let host = scene.host();
    let found = crate::diagnose::diagnose(&scene.case(&host, &[]));
    assert_eq!(
        (found.cause, found.confidence, found.settled),
        (Cause::Unknown, Unknown, true)
    );
    assert!(found.missing[0].contains("no_live_upstreams"), "{found:?}");
}

#[test]
fn proof_needs_the_whole_chain() {
    let proven = fin_in_flight();
    // Signals were lost.
    let mut lossy = proven.clone();
    lossy.lost = 3;
    lossy.is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, true);
    // The attempt was begun for another request.
    let other = proven.clone().attempt(|a| {
        if let Some(link) = &mut a.downstream {
            link.ordinal = 2;
        }
    });
    other.is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, true);
    // Order alone: neither adjacency nor content agree.
    let mut order_alone = proven.attempt(|a| {
        a.request = a.request.take().map(|r| RequestSent {
            opening: Opening::Uwsgi,
            ..r
        });
    });
    if let Some(response) = &mut order_alone.response {
        response.adjacent = None;
    }
    order_alone.is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, true);
}

/// `103 Early Hints`, or `100 Continue` that came with what follows it.
#[test]
fn after_an_interim_response_the_status_may_be_the_upstreams() {
    let after = |status| {
        scene(TCP, End::Answered, MS).attempt(|a| {
            a.received = 300;
            a.response = Some(Opening::HttpResponse { status });
        })
    };
    let judge = |status| {
        (
            after(status).judge().cause,
            after(status).judge().confidence,
        )
    };
    for interim in [100, 103] {
        assert_eq!(judge(interim), (Cause::Unknown, Unknown));
    }
    assert_eq!(judge(200), (Cause::ResponseInvalid, Likely));
}
