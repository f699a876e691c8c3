//! Takes facts away from complete cases, one and two at a time: what is left is the same cause,
//! or not proven. A wrong `proven` is the worst thing this program could say.

use super::build::*;
use super::deaths::worker_gone;
use super::races::closed_unread;
use super::races::fin_already_received;
use super::races::fin_in_flight;
use super::waits::timed_out;
use crate::cause::Cause;
use crate::signal::*;
use crate::verdict::Confidence;

/// One fact less.
type Blank = (&'static str, fn(&mut Scene));

fn without(scene: &mut Scene, unwanted: fn(&Fact) -> bool, kind: &str) {
    scene.signals.retain(|s| !unwanted(&s.fact));
    for signal in &mut scene.signals {
        if let Fact::SourceStarted { sees, .. } = &mut signal.fact {
            sees.retain(|seen| seen != kind);
        }
    }
}

const BLANKS: &[Blank] = &[
    ("nothing", |_| {}),
    ("tcp facts", |s| s.tried.attempt.tcp = None),
    ("the FIN", |s| {
        if let Some(tcp) = &mut s.tried.attempt.tcp {
            tcp.fin = None;
        }
    }),
    ("the reset", |s| {
        if let Some(tcp) = &mut s.tried.attempt.tcp {
            tcp.reset_at = None;
        }
        if let Some(closed) = &mut s.tried.closed {
            closed.reset_at = None;
        }
    }),
    ("later facts", |s| s.tried.closed = None),
    ("the upstream's end", |s| s.tried.attempt.peer = None),
    ("the reader", |s| {
        if let Some(peer) = &mut s.tried.attempt.peer {
            peer.reader = None;
        }
    }),
    ("the upstream's close", |s| {
        if let Some(peer) = &mut s.tried.attempt.peer {
            peer.closed = None;
        }
    }),
    ("the queue", |s| s.tried.attempt.queue = None),
    ("the request", |s| s.tried.attempt.request = None),
    ("the idle time", |s| s.tried.attempt.idle_ns = None),
    ("the link", |s| s.tried.attempt.downstream = None),
    ("the client's state", |s| {
        if let Some(link) = &mut s.tried.attempt.downstream {
            link.state = DownstreamState::Unknown;
        }
    }),
    ("the response", |s| s.response = None),
    ("the status", |s| {
        if let Some(response) = &mut s.response {
            response.status = None;
        }
    }),
    ("signals sent", |s| {
        without(s, |f| matches!(f, Fact::SignalSent(_)), "signal_sent");
    }),
    ("exits", |s| {
        without(s, |f| matches!(f, Fact::ProcessExited(_)), "process_exited")
    }),
    ("OOM marks", |s| {
        without(s, |f| matches!(f, Fact::OomKilled { .. }), "oom_killed")
    }),
    ("processes", |s| {
        s.signals
            .retain(|s| !matches!(s.fact, Fact::ProcessSeen(_)))
    }),
    ("samples", |s| {
        s.signals
            .retain(|s| !matches!(s.fact, Fact::ProcessSampled(_)))
    }),
    ("listeners", |s| {
        s.signals
            .retain(|s| !matches!(s.fact, Fact::ListenerSeen(_)))
    }),
];

pub(super) fn complete() -> Vec<(&'static str, Scene)> {
    let at = T + 2 * S - 2 * MS;
    let gone = |software| worker_gone(End::PeerClosed, software);
    let local = |scene: Scene, before| scene.peer_closed(true, false, false, before);
    vec![
        ("fin in flight", fin_in_flight()),
        ("fin in flight, local", local(fin_in_flight(), 9 * MS)),
        ("fin already received", fin_already_received()),
        (
            "fin already received, local",
            local(fin_already_received(), 19 * MS),
        ),
        ("closed unread", closed_unread()),
        (
            "gunicorn timeout",
            gone(Software::Gunicorn)
                .signal(at, sent(6, WORKER, MASTER, MASTER))
                .signal(at + 38 * MS, exited(0, 1)),
        ),
        (
            "gunicorn timeout on a reused connection",
            gone(Software::Gunicorn)
                .reused()
                .signal(at, sent(6, WORKER, MASTER, MASTER))
                .signal(at + 38 * MS, exited(0, 1)),
        ),
        (
            "killed on a reused connection",
            gone(Software::Node)
                .reused()
                .signal(at, sent(9, WORKER, MASTER, 99))
                .signal(at, exited(9, 0)),
        ),
        (
            "shutdown",
            gone(Software::Gunicorn)
                .signal(T, sent(3, MASTER, 1, 99))
                .signal(at, sent(3, WORKER, MASTER, MASTER))
                .signal(at, exited(0, 0)),
        ),
        (
            "out of memory",
            gone(Software::Gunicorn)
                .signal(at, Fact::OomKilled { pid: WORKER })
                .signal(at, sent(9, WORKER, MASTER, 0))
                .signal(at, exited(9, 0)),
        ),
        (
            "crash",
            gone(Software::Node).reused().signal(at, exited(0, 7)),
        ),
        (
            "fault",
            gone(Software::Node)
                .signal(at, sent(11, WORKER, MASTER, 0))
                .signal(at, exited(11, 0)),
        ),
        ("closed early", gone(Software::Node).reused()),
        (
            "listener died",
            scene(UNIX, End::Reset, 2 * S).peer_closed(false, false, true, MS),
        ),
        ("never accepted", timed_out().peer(false, false)),
        ("not read", timed_out().peer(true, false)),
        (
            "no reply",
            timed_out()
                .peer(true, true)
                .sample(T + S, |s| s.thread.state = 'D'),
        ),
        (
            "unacknowledged",
            scene(TCP, End::GivenUp, 9 * S)
                .reused()
                .status(504)
                .tcp(|t| {
                    t.acked = 0;
                    t.retransmits = 5;
                }),
        ),
        (
            "final ACK dropped",
            scene(TCP, End::GivenUp, 9 * S)
                .status(504)
                .queue(129, 128, 9)
                .tcp(|t| {
                    t.acked = 0;
                    t.retransmits = 5;
                }),
        ),
        (
            "queue full",
            scene(TCP, End::ConnectGivenUp, 9 * S)
                .status(504)
                .queue(129, 128, 9),
        ),
        (
            "queue full, Unix",
            scene(UNIX, End::ConnectFailed { errno: 11 }, 0).queue(129, 128, 0),
        ),
        ("refused", scene(TCP, End::ConnectFailed { errno: 111 }, 0)),
        (
            "body rejected",
            scene(TCP, End::SendFailed { errno: 104 }, S)
                .tcp(|t| t.acked = 60)
                .peer_closed(true, true, true, MS)
                .workers(Software::Node)
                .attempt(begins_to_answer),
        ),
        (
            "reset",
            scene(TCP, End::Reset, S)
                .tcp(|t| t.reset_at = Some(T + S))
                .peer_closed(true, true, true, MS)
                .workers(Software::Node)
                .attempt(begins_to_answer),
        ),
    ]
}

/// Speaks, so that it is known to speak what it was sent.
fn begins_to_answer(attempt: &mut Attempt) {
    attempt.received = 9;
    attempt.response = Some(Opening::Other);
}

#[test]
fn less_is_never_wrongly_proven() {
    for (name, full) in complete() {
        for deadline_passed in [false, true] {
            let mut full = full.clone();
            full.deadline_passed = deadline_passed;
            let truth = full.clone().late().judge();
            assert_eq!(truth.confidence, Confidence::Proven, "{name}: {truth:#?}");
            for (first, blank) in BLANKS {
                for (second, blank_too) in BLANKS {
                    let mut less = full.clone();
                    blank(&mut less);
                    blank_too(&mut less);
                    let found = less.judge();
                    let ok = found.confidence != Confidence::Proven || found.cause == truth.cause;
                    assert!(
                        ok,
                        "{name} without {first} and {second} (late: {deadline_passed}): \
                         {} {:?} is claimed as proven; the truth is {}\n{found:#?}",
                        found.cause, found.variant, truth.cause
                    );
                    let unknown = found.confidence == Confidence::Unknown;
                    assert_eq!(unknown, found.cause == Cause::Unknown, "{name}: {found:#?}");
                    assert!(
                        found.confidence == Confidence::Proven || !found.missing.is_empty(),
                        "{name}: {found:#?}"
                    );
                }
            }
        }
    }
}

/// What is settled before the deadline stays when the later facts come.
#[test]
fn settled_means_settled() {
    for (name, full) in complete() {
        let truth = full.clone().late().judge();
        // The later facts: what the flow's end told, exits, samples after the attempt's end.
        let mut early = full.clone();
        early.tried.closed = None;
        let end = early.tried.at;
        early.signals.retain(|s| s.at <= end);
        let found = early.judge();
        if found.settled {
            assert_eq!(
                (found.cause, found.variant, found.confidence),
                (truth.cause, truth.variant, truth.confidence),
                "{name}: {found:#?}"
            );
        }
    }
}

pub(super) fn judged(scene: Scene) -> (Cause, Confidence, String) {
    let found = scene.late().judge();
    (found.cause, found.confidence, found.missing.join("; "))
}

/// gunicorn's timeout with the arbiter's SIGABRT lost: the exit alone looks like a crash.
#[test]
fn a_loss_before_a_death_may_hide_who_ordered_it() {
    let at = T + 2 * S - 2 * MS;
    let lost = Fact::SignalsLost {
        stage: "ring_buffer".into(),
        reason: "full".into(),
        count: 1,
        probe: None,
    };
    let gone = worker_gone(End::PeerClosed, Software::Gunicorn).signal(at + 38 * MS, exited(0, 1));
    let (cause, confidence, _) = judged(gone.clone());
    assert_eq!(
        (cause, confidence),
        (Cause::WorkerCrashed, Confidence::Proven)
    );
    let (_, confidence, missing) = judged(gone.clone().signal(at - 30 * S, lost.clone()));
    assert_eq!(confidence, Confidence::Likely);
    assert!(missing.starts_with("signals: 1 "), "{missing}");
    let (_, confidence, _) = judged(gone.clone().signal(at - 60 * S, lost));
    assert_eq!(confidence, Confidence::Proven);
    // Of a probe that did not run once nothing is lost but what that one tells.
    let of = |probe: &str| {
        let lost = Fact::SignalsLost {
            stage: "probes".into(),
            reason: "recursion".into(),
            count: 1,
            probe: Some(probe.into()),
        };
        judged(gone.clone().signal(at - 30 * S, lost)).1
    };
    assert_eq!(of("signal_generate"), Confidence::Likely);
    assert_eq!(of("inet_sock_set_state"), Confidence::Proven);
}

/// uWSGI reads HTTP as a malformed packet and closes; a TLS server may, too.
#[test]
fn an_upstream_that_has_not_answered_yet_may_not_speak_http() {
    let early = worker_gone(End::PeerClosed, Software::Node);
    assert_eq!(judged(early.clone().reused()).1, Confidence::Proven);
    let spoke = early.clone().attempt(|a| a.spoke_http = true);
    assert_eq!(judged(spoke.clone()).1, Confidence::Proven);
    // What it had spoken was not what it is sent now.
    let sealed = spoke.attempt(|a| {
        let request = a.request.take();
        a.request = request.map(|sent| RequestSent {
            opening: Opening::Tls,
            ..sent
        });
    });
    assert_eq!(judged(sealed).1, Confidence::Likely);
    let (cause, confidence, missing) = judged(early);
    assert_eq!(cause, Cause::UpstreamClosedEarly);
    assert_eq!(confidence, Confidence::Likely);
    assert!(missing.starts_with("upstream_protocol"), "{missing}");
}

/// Where resets are not seen, a broken connection looks as if the proxy had waited in vain.
#[test]
fn giving_up_on_a_connection_that_the_upstream_had_closed_proves_no_timeout() {
    let (_, confidence, missing) = judged(timed_out().peer_closed(true, true, true, MS));
    assert_eq!(confidence, Confidence::Likely);
    assert!(missing.starts_with("peer_closed"), "{missing}");
}

/// Without connect()'s result, a connection's first request seems to be on an old connection.
#[test]
fn where_connects_are_not_seen_a_first_request_proves_no_race() {
    let mut race = closed_unread();
    assert_eq!(judged(race.clone()).1, Confidence::Proven);
    let blind = Fact::SourceStarted {
        sees: vec![],
        blind: vec!["tcp_connections".into()],
    };
    race = race.signal(0, blind);
    let (_, confidence, missing) = judged(race);
    assert_eq!(confidence, Confidence::Likely);
    assert!(missing.starts_with("tcp_connections"), "{missing}");
}

/// Before Linux 5.12 what is told of a socket may be of the one before it at its address.
#[test]
fn where_sockets_are_not_told_apart_nothing_is_proven() {
    for (name, scene) in complete() {
        let blind = Fact::SourceStarted {
            sees: vec![],
            blind: vec!["socket_identity".into()],
        };
        let sighted = scene.clone().judge();
        let judged = scene.signal(0, blind).judge();
        assert_eq!(judged.cause, sighted.cause, "{name}");
        assert_ne!(judged.confidence, Confidence::Proven, "{name}");
    }
}

#[test]
fn losses_are_never_proven() {
    for (name, mut scene) in complete() {
        scene.lost = 1;
        scene.deadline_passed = true;
        assert_ne!(scene.judge().confidence, Confidence::Proven, "{name}");
    }
}
