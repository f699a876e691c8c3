//! The keep-alive race in its variants, and what only looks like it.

use super::build::*;
use crate::cause::{Cause, Variant};
use crate::signal::*;
use crate::track::Tracker;
use crate::verdict::Confidence::{Likely, Proven, Unknown};
use crate::verdict::Kind;

pub(super) fn fin(scene: Scene, at: Nanos, acked: u64, after_request: bool) -> Scene {
    scene.tcp(|t| {
        t.acked = acked;
        t.fin = Some(Fin {
            at,
            acked,
            after_request,
        });
    })
}

pub(super) fn fin_in_flight() -> Scene {
    let scene = scene(TCP, End::PeerClosed, 10 * MS).reused();
    fin(scene, T + 10 * MS, 0, true).closed(0, Some(T + 20 * MS))
}

pub(super) fn fin_already_received() -> Scene {
    let scene = scene(TCP, End::PeerClosed, 20 * MS).reused();
    fin(scene, T - 5 * MS, 0, false).closed(0, Some(T + 20 * MS))
}

pub(super) fn closed_unread() -> Scene {
    scene(TCP, End::Reset, 2 * MS)
        .reused()
        .tcp(|t| t.reset_at = Some(T + 2 * MS))
        .peer_closed(true, false, true, MS)
}

#[test]
fn a_fin_that_crossed_the_request() {
    fin_in_flight().is(Cause::KeepaliveRace, Variant::FinInFlight, Proven, true);
    let mut waiting = fin_in_flight();
    waiting.tried.closed = None;
    waiting.is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, false);
    waiting
        .clone()
        .late()
        .is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, true);
    // The upstream's own FIN on this host may be a shutdown(): it could still read.
    let local = waiting.peer_closed(true, false, false, 9 * MS);
    local.is(Cause::KeepaliveRace, Variant::FinInFlight, Likely, false);
    local
        .closed(124, None)
        .is(Cause::KeepaliveRace, Variant::HalfClose, Proven, true);
}

/// The process that held the idle connection crashed: the wire shows the same.
#[test]
fn a_close_by_a_death_is_no_proof_of_a_race() {
    let unread = || closed_unread().workers(Software::Gunicorn);
    unread().is(Cause::KeepaliveRace, Variant::ClosedUnread, Proven, true);
    let ended = |signal, status| unread().signal(T + MS, exited(signal, status));
    ended(11, 0).is(Cause::KeepaliveRace, Variant::ClosedUnread, Likely, true);
    // It has served its share of requests.
    ended(0, 0).is(Cause::KeepaliveRace, Variant::ClosedUnread, Proven, true);
}

/// Seen from packets: an idle connection that a crashing worker's end closed after 17 ms.
#[test]
fn a_close_out_of_sight_of_what_was_hardly_idle_is_no_proof() {
    let idle = |scene: Scene, ns: Nanos| {
        let mut scene = scene;
        scene.tried.attempt.idle_ns = Some(ns);
        scene
    };
    let (race, in_flight) = (Cause::KeepaliveRace, Variant::FinInFlight);
    idle(fin_in_flight(), 17 * MS).is(race, in_flight, Likely, true);
    idle(fin_in_flight(), 100 * MS).is(race, in_flight, Proven, true);
    // Here the kernel shows who closed, and that nobody died.
    idle(closed_unread(), 17 * MS).is(race, Variant::ClosedUnread, Proven, true);
}

/// Seen from packets: one that ended with others of other ages. What takes data after its FIN lives on.
#[test]
fn a_close_out_of_sight_with_others_is_no_proof() {
    let with_others = |mut scene: Scene| {
        scene.tried.attempt.tcp.as_mut().unwrap().ended_with_others = true;
        scene
    };
    let race = Cause::KeepaliveRace;
    with_others(fin_in_flight()).is(race, Variant::FinInFlight, Likely, true);
    with_others(fin_already_received()).is(race, Variant::FinAlreadyReceived, Likely, true);
    with_others(fin_already_received().closed(124, None)).is(
        race,
        Variant::HalfClose,
        Proven,
        true,
    );
}

#[test]
fn a_fin_that_was_there_before() {
    fin_already_received().is(
        Cause::KeepaliveRace,
        Variant::FinAlreadyReceived,
        Proven,
        true,
    );
    let mut waiting = fin_already_received();
    waiting.tried.closed = None;
    waiting.is(
        Cause::KeepaliveRace,
        Variant::FinAlreadyReceived,
        Likely,
        false,
    );
    waiting
        .closed(124, None)
        .is(Cause::KeepaliveRace, Variant::HalfClose, Proven, true);
}

#[test]
fn a_server_that_closes_one_direction_and_may_read_on() {
    // As recorded: the FIN came before the request, the upstream is on this host.
    let half = fin_already_received().peer_closed(true, false, false, 35 * MS);
    let mut waiting = half.clone();
    waiting.tried.closed = None;
    waiting.is(
        Cause::KeepaliveRace,
        Variant::FinAlreadyReceived,
        Likely,
        false,
    );
    waiting
        .closed(124, None)
        .is(Cause::KeepaliveRace, Variant::HalfClose, Proven, true);
    // It had the request when it closed its direction, unread: close() would have sent a reset.
    fin(
        scene(TCP, End::PeerClosed, 10 * MS).reused(),
        T + 10 * MS,
        124,
        true,
    )
    .peer_closed(true, false, false, MS)
    .is(Cause::KeepaliveRace, Variant::HalfClose, Proven, true);
}

#[test]
fn a_reset_that_the_upstreams_kernel_sent_to_what_came_after_its_close() {
    // The close, and then, seen last, the reset: nothing was read before the one, or can be after the other.
    let late = |read| {
        let scene = scene(TCP, End::Reset, 10 * MS)
            .reused()
            .tcp(|t| t.reset_at = Some(T + 10 * MS))
            .peer_closed(true, read, false, 5 * MS)
            .closed(0, Some(T + 10 * MS));
        let mut peer = scene.tried.attempt.peer.clone();
        let close = peer.as_mut().and_then(|p| p.closed.as_mut());
        let close = close.expect("the upstream closed");
        close.reset = true;
        close.reset_by = Some(ResetBy::LateData);
        close.reset_reason = Some("TCP_ABORT_ON_DATA".into());
        scene.late().closed_by(peer)
    };
    let raced = late(false);
    raced.is(Cause::KeepaliveRace, Variant::ClosedUnread, Proven, true);
    let told = "reset sent to what came after (TCP_ABORT_ON_DATA)";
    let evidence = raced.judge().evidence;
    assert!(
        evidence.iter().any(|fact| fact.text.contains(told)),
        "{evidence:#?}"
    );
    // It had read before it closed: no abort, and no data left unread, are claimed.
    late(true).is(Cause::UpstreamReset, None, Likely, true);
}

#[test]
fn other_ways_to_lose_the_race() {
    closed_unread().is(Cause::KeepaliveRace, Variant::ClosedUnread, Proven, true);
    let reset_on_idle = scene(TCP, End::Reset, MS)
        .reused()
        .tcp(|t| t.reset_at = Some(T - MS))
        .attempt(|a| a.request = None);
    reset_on_idle.is(Cause::KeepaliveRace, Variant::ResetOnIdle, Proven, true);
    let epipe = scene(UNIX, End::SendFailed { errno: 32 }, MS)
        .reused()
        .attempt(|a| {
            a.request = a.request.take().map(|r| RequestSent {
                bytes: 0,
                write_errno: Some(32),
                ..r
            });
        });
    epipe.is(
        Cause::KeepaliveRace,
        Variant::FinAlreadyReceived,
        Proven,
        true,
    );
    let unread = scene(UNIX, End::Reset, MS)
        .reused()
        .peer_closed(true, false, true, MS / 2);
    unread.is(Cause::KeepaliveRace, Variant::ClosedUnread, Proven, true);
    unread.attempt(|a| a.peer = None).is(
        Cause::KeepaliveRace,
        Variant::ClosedUnread,
        Likely,
        false,
    );
}

#[test]
fn why_the_pool_was_closed() {
    // Told to stop just before.
    closed_unread()
        .signal(T - MS, sent(15, WORKER, MASTER, 1))
        .is(Cause::KeepaliveRace, Variant::Reload, Proven, true);
    let mut limited = closed_unread().attempt(|a| {
        a.idle_ns = Some(2 * MS);
        a.requests_before = 100;
    });
    for flow in 0..4 {
        limited = limited.signal(T - S, idle_closed(flow, ClosedBy::Upstream, MS, 100));
    }
    limited.is(Cause::KeepaliveRace, Variant::RequestLimit, Proven, true);
}

fn idle_closed(flow: FlowId, by: ClosedBy, idle_ns: Nanos, requests: u32) -> Fact {
    Fact::IdleClosed(IdleClose {
        flow,
        proxy: PROXY,
        upstream: Address(TCP.into()),
        by,
        reset: false,
        idle_ns,
        requests,
        longest_reuse_ns: 900 * MS,
    })
}

#[test]
fn what_is_no_race() {
    // A new connection.
    let mut fresh = fin_in_flight().attempt(|a| a.reused = false);
    fresh.tried.closed = None;
    assert_ne!(fresh.late().judge().cause, Cause::KeepaliveRace);
    // The application read the request and died: the proxy's log has the same line.
    let died = fin(
        scene(TCP, End::PeerClosed, 5 * MS).reused(),
        T + 5 * MS,
        124,
        true,
    )
    .peer_closed(true, true, false, MS)
    .workers(Software::Node)
    .signal(T + 3 * MS, sent(9, WORKER, MASTER, 99))
    .signal(T + 4 * MS, exited(9, 0));
    died.is(Cause::WorkerKilled, None, Proven, true);
    // A remote upstream's reset, though it acknowledges nothing: it may have read the request.
    scene(TCP, End::Reset, 20 * MS)
        .reused()
        .tcp(|t| {
            t.acked = 0;
            t.reset_at = Some(T + 20 * MS);
        })
        .late()
        .is(Cause::KeepaliveRace, Variant::ClosedUnread, Likely, true);
    // A remote upstream that took the request and closed in peace.
    let taken = fin(
        scene(TCP, End::PeerClosed, 5 * MS).reused(),
        T + 5 * MS,
        124,
        true,
    );
    taken
        .late()
        .is(Cause::UpstreamClosedEarly, Variant::NoBytes, Likely, true);
    // Nothing but the end is known.
    let blind = scene(TCP, End::PeerClosed, 5 * MS)
        .reused()
        .attempt(|a| a.tcp = None);
    blind.late().is(Cause::Unknown, None, Unknown, true);
    // It waited in a stopped server's queue until that was killed.
    scene(TCP, End::Reset, 3 * S)
        .reused()
        .tcp(|t| t.reset_at = Some(T + 3 * S))
        .peer_closed(true, false, true, 0)
        .workers(Software::Node)
        .signal(T + 3 * S - MS, sent(9, WORKER, MASTER, 99))
        .signal(T + 3 * S - MS, exited(9, 0))
        .is(Cause::WorkerKilled, None, Proven, true);
}

/// What is made of it if the client that it is linked to has reset its connection.
fn kind_after_reset(scene: Scene, request: Opening) -> Kind {
    let scene = scene.no_response().attempt(|a| {
        if let Some(link) = &mut a.downstream {
            link.state = DownstreamState::ResetByClient;
            link.request = Some(request);
        }
    });
    let ended = Fact::AttemptEnded(Box::new(scene.tried.attempt.clone()));
    let mut tracker = Tracker::default();
    for signal in scene.signals.iter().chain([&kernel(scene.tried.at, ended)]) {
        tracker.observe(signal);
    }
    tracker.finish()[0].kind
}

#[test]
fn behind_tls_the_client_that_left_may_be_another() {
    let given_up = || scene(TCP, End::GivenUp, S).peer(true, true);
    for (scene, request, kind) in [
        (fin_in_flight(), request_line(), Kind::NearMiss),
        (fin_in_flight(), Opening::Tls, Kind::Verdict),
        (fin_in_flight(), Opening::Unseen, Kind::Verdict),
        (given_up(), Opening::Tls, Kind::NearMiss),
    ] {
        assert_eq!(
            kind_after_reset(scene, request.clone()),
            kind,
            "{request:?}"
        );
    }
}

/// Who fails is the tier in front: nothing of this proxy's own exchanges is tied to it.
#[test]
fn a_close_of_the_proxys_own_is_a_near_miss() {
    let front = fin(scene(TCP, End::Reset, 0).reused(), T - 5 * MS, 0, true)
        .tcp(|t| t.reset_at = Some(T))
        .peer_closed(true, false, true, 5 * MS);
    let mut tracker = Tracker::default();
    for signal in &front.signals {
        assert!(tracker.observe(signal).is_empty());
    }
    let met = |tracker: &mut Tracker, at| {
        let attempt = front.tried.attempt.clone();
        let mut decided = tracker.observe(&kernel(at, Fact::RequestMetClose(Box::new(attempt))));
        assert_eq!(decided.len(), 1);
        decided.remove(0)
    };
    let told = met(&mut tracker, T);
    assert_eq!(told.kind, Kind::NearMiss);
    let diagnosis = &told.diagnosis;
    assert_eq!(
        (diagnosis.cause, diagnosis.variant, diagnosis.confidence),
        (Cause::KeepaliveRace, Some(Variant::FinInFlight), Likely)
    );
    assert!(diagnosis.missing[0].starts_with("request: "));
    let settings: Vec<&str> = (told.advice.settings.iter())
        .map(|setting| setting.name.as_str())
        .collect();
    assert_eq!(
        settings,
        ["keepalive_timeout", "its idle timeout for this proxy"]
    );
    // Told to stop before: what closes then is no timer.
    tracker.observe(&kernel(T - 6 * MS, sent(3, WORKER, MASTER, 1)));
    let told = met(&mut tracker, T);
    assert_eq!(told.diagnosis.variant, Some(Variant::Reload));
    assert!(tracker.finish().is_empty());
}
