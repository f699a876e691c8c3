//! Upstream processes that died, or closed and lived on.

use super::build::*;
use super::connects::listener;
use super::races::fin;
use crate::cause::{Cause, Variant};
use crate::signal::*;
use crate::verdict::Confidence::{Likely, Proven};

pub(super) fn worker_gone(end: End, software: Software) -> Scene {
    fin(scene(TCP, end, 2 * S), T + 2 * S, 124, true)
        .peer_closed(true, true, false, MS)
        .workers(software)
}

#[test]
fn gunicorns_timeout() {
    let killed = worker_gone(End::PeerClosed, Software::Gunicorn)
        .signal(T + 2 * S - MS - MS / 5, sent(6, WORKER, MASTER, MASTER));
    killed.is(Cause::WorkerTimeoutKilled, None, Likely, false);
    killed.clone().signal(T + 2 * S + 38 * MS, exited(0, 1)).is(
        Cause::WorkerTimeoutKilled,
        None,
        Proven,
        true,
    );
    // The arbiter was told to stop, and stops its workers by force after the graceful time.
    worker_gone(End::PeerClosed, Software::Gunicorn)
        .signal(T - 20 * S, sent(15, MASTER, 1, 1))
        .signal(T + 2 * S - 2 * MS, sent(9, WORKER, MASTER, MASTER))
        .signal(T + 2 * S - MS, exited(9, 0))
        .is(Cause::UpstreamShutdown, None, Proven, true);
}

#[test]
fn who_killed_it() {
    let at = T + 2 * S - 2 * MS;
    for (software, from, signal, exit, cause, confidence) in [
        (
            Software::Uwsgi,
            MASTER,
            9,
            exited(9, 0),
            Cause::WorkerTimeoutKilled,
            Proven,
        ),
        (
            Software::Uwsgi,
            0,
            14,
            exited(0, 0),
            Cause::WorkerTimeoutKilled,
            Proven,
        ),
        (
            Software::PhpFpm,
            MASTER,
            15,
            exited(15, 0),
            Cause::WorkerTimeoutKilled,
            Proven,
        ),
        (
            Software::Gunicorn,
            99,
            9,
            exited(9, 0),
            Cause::WorkerKilled,
            Proven,
        ),
        // Whoever started it killed it; no supervisor's timer did.
        (
            Software::Node,
            MASTER,
            9,
            exited(9, 0),
            Cause::WorkerKilled,
            Proven,
        ),
        (
            Software::Gunicorn,
            99,
            3,
            exited(0, 0),
            Cause::UpstreamShutdown,
            Proven,
        ),
        (
            Software::Node,
            99,
            15,
            exited(15, 0),
            Cause::UpstreamShutdown,
            Proven,
        ),
        (
            Software::Node,
            WORKER,
            11,
            exited(11, 0),
            Cause::WorkerCrashed,
            Proven,
        ),
        (
            Software::Node,
            0,
            11,
            exited(11, 0),
            Cause::WorkerCrashed,
            Proven,
        ),
        // The kernel's KILL without the OOM killer's mark.
        (
            Software::Node,
            0,
            9,
            exited(9, 0),
            Cause::WorkerOomKilled,
            Likely,
        ),
    ] {
        let scene = worker_gone(End::PeerClosed, software)
            .attempt(|a| {
                if software == Software::PhpFpm {
                    a.request = a.request.take().map(|r| RequestSent {
                        opening: Opening::FastCgi,
                        ..r
                    });
                }
            })
            .signal(at, sent(signal, WORKER, MASTER, from))
            .signal(at + MS / 2, exit);
        let found = scene.judge();
        assert_eq!(
            (found.cause, found.confidence),
            (cause, confidence),
            "{found:#?}"
        );
    }
}

/// gunicorn's workers close their connections at once and exit some 340 ms later.
#[test]
fn who_obeys_an_order_to_stop_is_waited_for() {
    let told = |software| {
        worker_gone(End::PeerClosed, software)
            .signal(T + 2 * S - 2 * MS, sent(3, WORKER, MASTER, MASTER))
    };
    let leaving = told(Software::Gunicorn);
    leaving.is(Cause::UpstreamShutdown, None, Likely, false);
    assert_eq!(leaving.judge().awaits_exit, Some(S));
    let left = leaving.signal(T + 2 * S + 340 * MS, exited(0, 0));
    left.is(Cause::UpstreamShutdown, None, Proven, true);
    // Node.js may do with it what it likes.
    assert_eq!(told(Software::Node).judge().awaits_exit, None);
    // Told long before, it may close for reasons of its own.
    let drains = worker_gone(End::PeerClosed, Software::Gunicorn)
        .signal(T - 10 * S, sent(3, WORKER, MASTER, MASTER));
    assert_eq!(drains.judge().awaits_exit, None);
    let left = drains.signal(T + 2 * S + 900 * MS, exited(0, 0));
    assert_ne!(left.judge().confidence, Proven);
}

#[test]
fn a_supervisor_that_kills_is_not_proven_to_be_anybody() {
    // The worker was never seen alive, or has a name of its own.
    let at = T + 2 * S - 2 * MS;
    let killed = |worker: Option<Software>| {
        let scene = fin(scene(TCP, End::PeerClosed, 2 * S), T + 2 * S, 124, true)
            .peer_closed(true, true, false, MS)
            .signal(S, process(MASTER, 1, "python3", Software::Gunicorn))
            .signal(at, sent(9, WORKER, MASTER, MASTER))
            .signal(at + MS / 2, exited(9, 0));
        match worker {
            Some(software) => scene.signal(S, process(WORKER, MASTER, "python3", software)),
            None => scene,
        }
    };
    for worker in [None, Some(Software::Other)] {
        killed(worker).is(Cause::WorkerTimeoutKilled, None, Likely, false);
    }
    killed(Some(Software::Gunicorn)).is(Cause::WorkerTimeoutKilled, None, Proven, true);
}

#[test]
fn an_exit_of_its_own() {
    let exit = T + 2 * S - MS;
    // Closed for one reason, gone for another: nothing tells.
    worker_gone(End::PeerClosed, Software::Node)
        .signal(T + 2 * S + 100 * MS, exited(0, 1))
        .is(Cause::WorkerCrashed, Variant::Exit, Likely, true);
    let crashed = worker_gone(End::PeerClosed, Software::Node).signal(exit, exited(0, 1));
    crashed.is(Cause::WorkerCrashed, Variant::Exit, Proven, true);
    // Signals are not seen here: the exit may have been a timeout's work.
    let mut blind = crashed;
    blind.signals.remove(0);
    blind.is(Cause::WorkerCrashed, Variant::Exit, Likely, true);
    worker_gone(End::PeerClosed, Software::Node)
        .signal(exit, exited(11, 0))
        .is(Cause::WorkerCrashed, Variant::Signal, Likely, true);
}

#[test]
fn out_of_memory() {
    let oom = worker_gone(End::PeerClosed, Software::Gunicorn)
        .signal(T + S, Fact::OomKilled { pid: WORKER })
        .signal(T + S, sent(9, WORKER, MASTER, 0));
    oom.is(Cause::WorkerOomKilled, None, Likely, false);
    oom.signal(T + 2 * S, exited(9, 0))
        .is(Cause::WorkerOomKilled, None, Proven, true);
    // Another process's mark is not this one's.
    let other = worker_gone(End::PeerClosed, Software::Gunicorn)
        .signal(T + S, Fact::OomKilled { pid: 77 })
        .signal(T + 2 * S - MS, exited(0, 1));
    other.is(Cause::WorkerCrashed, Variant::Exit, Proven, true);
}

#[test]
fn reloads_concern_only_the_workers_they_replace() {
    let crashed = |hup| {
        worker_gone(End::PeerClosed, Software::Gunicorn)
            .signal(hup, sent(1, MASTER, 1, 99))
            .signal(T + 2 * S - MS, exited(0, 1))
    };
    // It may as well have crashed on its own while it finished.
    crashed(T - 10 * S).is(Cause::UpstreamShutdown, None, Likely, true);
    // The worker was started a second after the clock's zero: after this signal.
    crashed(S / 2).is(Cause::WorkerCrashed, Variant::Exit, Proven, true);
    // An old signal is past its graceful time.
    crashed(T - 60 * S).is(Cause::WorkerCrashed, Variant::Exit, Proven, true);
}

#[test]
fn the_listener_died() {
    let lost = scene(UNIX, End::Reset, 2 * S).peer_closed(false, false, true, MS);
    lost.is(Cause::ListenerDied, None, Proven, true);
    let unseen = scene(TCP, End::Reset, 2 * S).local().peer(false, false);
    unseen
        .clone()
        .late()
        .is(Cause::ListenerDied, None, Likely, true);
    unseen
        .signal(T + S, listener(TCP, true))
        .is(Cause::ListenerDied, None, Proven, true);
}

#[test]
fn a_death_on_this_host_is_not_a_remote_upstreams() {
    let closed = fin(scene(TCP, End::PeerClosed, 2 * S), T + 2 * S, 124, true)
        .workers(Software::Gunicorn)
        .signal(S, listener("0.0.0.0:9000", false))
        .signal(T + 2 * S + MS, exited(0, 1))
        .late();
    closed.is(Cause::UpstreamClosedEarly, Variant::NoBytes, Likely, true);
    // Called at an address of this host, it is the one that died.
    closed
        .local()
        .is(Cause::WorkerCrashed, Variant::Exit, Likely, true);
}

#[test]
fn closed_by_a_living_process() {
    let early = worker_gone(End::PeerClosed, Software::Node);
    early.is(Cause::UpstreamClosedEarly, Variant::NoBytes, Likely, false);
    early
        .clone()
        .late()
        .reused()
        .is(Cause::UpstreamClosedEarly, Variant::NoBytes, Proven, true);
    // Nothing says that it speaks HTTP at all.
    let first = early.clone().late();
    first.is(Cause::UpstreamClosedEarly, Variant::NoBytes, Likely, true);
    let partial = early.late().attempt(|a| {
        a.received = 9;
        a.response = Some(Opening::Other);
    });
    partial.is(
        Cause::UpstreamClosedEarly,
        Variant::PartialHead,
        Proven,
        true,
    );
    // Behind a status line, a head that is whole and malformed looks alike.
    let head = |received| {
        partial.clone().attempt(|a| {
            a.received = received;
            a.response = Some(Opening::HttpResponse { status: 200 });
        })
    };
    let cut = Variant::PartialHead;
    head(27).is(Cause::UpstreamClosedEarly, cut, Likely, true);
    head(71).is(Cause::ResponseInvalid, None, Likely, true);
    // What still lay in the proxy's memory was all that had come, and no whole head.
    let seen = head(71).attempt(|a| a.fault = Some(HeadFault::Cut));
    seen.is(Cause::UpstreamClosedEarly, cut, Proven, true);
    let mut blind = partial;
    blind.signals.remove(0);
    blind.is(
        Cause::UpstreamClosedEarly,
        Variant::PartialHead,
        Likely,
        true,
    );
}

#[test]
fn resets_by_a_living_process() {
    let reset = |sent_reset| {
        scene(TCP, End::Reset, S)
            .tcp(|t| t.reset_at = Some(T + S))
            .peer_closed(true, true, sent_reset, MS)
            .workers(Software::Node)
            .late()
    };
    for (sent, variant) in [(true, Variant::UnreadData), (false, Variant::Abort)] {
        reset(sent).is(Cause::UpstreamReset, variant, Likely, true);
        reset(sent)
            .reused()
            .is(Cause::UpstreamReset, variant, Proven, true);
    }
    // The reset acknowledged nothing, but the server had read it all before it aborted (SO_LINGER 0).
    let aborted = |read| {
        reset(true)
            .peer_closed(true, read, true, MS)
            .reused()
            .tcp(|t| t.acked = 0)
            .close(|c| {
                c.taken = Some(if read { 124 } else { 0 });
                c.unread = Some(0);
                c.reset_by = Some(ResetBy::Abort);
            })
    };
    aborted(true).is(Cause::UpstreamReset, Variant::Abort, Proven, true);
    aborted(false).is(Cause::KeepaliveRace, Variant::ResetOnIdle, Proven, true);
    // A part of the request was acknowledged, but never read.
    let partly = |taken: u64| {
        let closed = reset(true).reused().tcp(|t| t.acked = 124);
        closed.close(|c| {
            c.taken = Some(taken);
            c.unread = Some(124 - taken);
            c.reset_by = Some(ResetBy::UnreadData);
        })
    };
    partly(100).is(Cause::RequestBodyRejected, None, Proven, true);
    partly(124).is(Cause::UpstreamReset, Variant::UnreadData, Proven, true);
    // Who has only shut down his half may read the rest.
    let shut_down = reset(true).reused().tcp(|t| t.acked = 124);
    let shut_down = shut_down.close(|c| c.taken = Some(100));
    assert_ne!(shut_down.judge().cause, Cause::RequestBodyRejected);
    // A FIN that left a part of the request to a socket that nobody reads any more.
    let spurned = |acked| {
        fin(scene(TCP, End::PeerClosed, S), T + S, acked, true)
            .tcp(|t| t.acked = acked)
            .peer_closed(true, true, false, MS)
            .close(|c| c.taken = Some(100))
            .workers(Software::Node)
            .reused()
            .late()
    };
    spurned(100).is(Cause::RequestBodyRejected, None, Proven, true);
    spurned(124).is(Cause::UpstreamClosedEarly, Variant::NoBytes, Proven, true);
    // All that was sent was read, but that was not all of the body.
    spurned(124)
        .announces(124)
        .is(Cause::UpstreamClosedEarly, Variant::NoBytes, Proven, true);
    spurned(124)
        .announces(125)
        .is(Cause::RequestBodyRejected, None, Likely, true);
    // The upstream on this host did not close: something between did.
    scene(TCP, End::Reset, S)
        .tcp(|t| t.reset_at = Some(T + S))
        .peer(true, true)
        .late()
        .is(Cause::UpstreamReset, Variant::Middlebox, Likely, true);
    let body = scene(TCP, End::SendFailed { errno: 104 }, S)
        .tcp(|t| t.acked = 60)
        .peer_closed(true, true, true, MS)
        .workers(Software::Node)
        .late();
    body.is(Cause::RequestBodyRejected, None, Likely, true);
    body.reused()
        .is(Cause::RequestBodyRejected, None, Proven, true);
}

#[test]
fn ends_within_a_tls_handshake() {
    let tls = |scene: Scene| {
        scene.late().attempt(|a| {
            if let Some(request) = &mut a.request {
                request.opening = Opening::Tls;
            }
        })
    };
    let failed = Cause::TlsHandshakeFailed;
    let closed = || tls(worker_gone(End::PeerClosed, Software::Node));
    closed().is(failed, Variant::PeerClosed, Likely, true);
    let answered = |scene: Scene| {
        scene.attempt(|a| {
            a.received = 3000;
            a.response = Some(Opening::Tls);
        })
    };
    let (cause, _, _) = super::blanking::judged(answered(closed()));
    assert_ne!(cause, failed, "the handshake was answered");
    // Unless nothing but a handshake was sent.
    let unasked = |scene: Scene| scene.attempt(|a| a.unasked = true);
    let refused = || unasked(answered(closed()));
    refused().is(failed, None, Likely, true);
    unasked(answered(tls(scene(TCP, End::GivenUp, S).peer(true, true))))
        .is(failed, None, Likely, true);
    unasked(answered(tls(scene(TCP, End::Answered, S)))).is(failed, None, Likely, true);
    let (cause, _, _) = super::blanking::judged(refused().reused());
    assert_ne!(cause, failed, "a request had been sent before");
    let silent = |accepted| tls(scene(TCP, End::GivenUp, S).peer(accepted, false));
    silent(true).is(failed, Variant::Timeout, Likely, true);
    silent(false).is(Cause::ReadTimeoutNeverAccepted, None, Proven, true);
    // Sooner than any timer.
    let at_once = |accepted| unasked(tls(scene(TCP, End::GivenUp, MS).peer(accepted, false)));
    at_once(true).is(failed, None, Likely, true);
    at_once(false).is(failed, None, Likely, true);
}

#[test]
fn after_the_handshake_encrypted_bytes_prove_nothing() {
    let tls = |scene: Scene| {
        scene.late().attempt(|a| {
            a.received = 3000;
            a.response = Some(Opening::Tls);
            if let Some(request) = &mut a.request {
                request.opening = Opening::Tls;
            }
        })
    };
    // The same without TLS is proven: see above.
    for scene in [
        worker_gone(End::PeerClosed, Software::Node),
        worker_gone(End::PeerClosed, Software::Node).reused(),
        scene(TCP, End::GivenUp, S).peer(true, false),
        scene(TCP, End::GivenUp, S).peer(true, true),
    ] {
        let found = tls(scene).judge();
        let (cause, variant) = (found.cause, found.variant);
        assert_ne!(found.confidence, Proven, "{cause:?} {variant:?}");
        assert_ne!(variant, Some(Variant::PartialHead), "{cause:?}");
    }
}

#[test]
fn frames_of_http2_prove_nothing() {
    let http2 = |scene: Scene| {
        scene.late().attempt(|a| {
            if let Some(request) = &mut a.request {
                request.opening = Opening::Http2;
            }
        })
    };
    for (scene, own) in [
        (
            worker_gone(End::PeerClosed, Software::Node).reused(),
            Cause::UpstreamClosedEarly,
        ),
        (
            scene(TCP, End::GivenUp, S).peer(true, true),
            Cause::ReadTimeoutNoReply,
        ),
    ] {
        let found = http2(scene.clone()).judge();
        assert_eq!((found.cause, found.confidence), (own, Likely));
        // Settings, a farewell or a reset of the stream.
        let answered = http2(scene).attempt(|a| {
            a.received = 35;
            a.response = Some(Opening::Http2);
        });
        assert_eq!(answered.judge().cause, Cause::Unknown);
    }
}

#[test]
fn a_stop_that_takes_long_is_perhaps_no_timeout() {
    let killed = |signal| {
        worker_gone(End::PeerClosed, Software::Uwsgi)
            .signal(T + 2 * S - 2 * MS, sent(signal, WORKER, MASTER, MASTER))
            .signal(T + 2 * S - MS, exited(signal, 0))
    };
    killed(9).is(Cause::WorkerTimeoutKilled, None, Proven, true);
    // A reload with 60 s of mercy.
    worker_gone(End::PeerClosed, Software::Uwsgi)
        .signal(T - 58 * S, sent(1, MASTER, 1, 1))
        .signal(T + 2 * S - 2 * MS, sent(9, WORKER, MASTER, MASTER))
        .signal(T + 2 * S - MS, exited(9, 0))
        .is(Cause::WorkerTimeoutKilled, None, Likely, true);
    // php-fpm's reload: its master is told by USR2, and ends its children with TERM.
    worker_gone(End::PeerClosed, Software::PhpFpm)
        .attempt(|a| {
            if let Some(request) = &mut a.request {
                request.opening = Opening::FastCgi;
            }
        })
        .signal(T + S, sent(12, MASTER, 1, 1))
        .signal(T + 2 * S - 2 * MS, sent(15, WORKER, MASTER, MASTER))
        .signal(T + 2 * S - MS, exited(15, 0))
        .is(Cause::UpstreamShutdown, None, Proven, true);
}
