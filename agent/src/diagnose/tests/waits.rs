//! Timeouts, and clients that left first.

use super::build::*;
use crate::cause::{Cause, Variant};
use crate::signal::*;
use crate::verdict::Confidence::{Likely, Proven};

pub(super) fn timed_out() -> Scene {
    scene(UNIX, End::GivenUp, 10 * S).status(504)
}

#[test]
fn read_timeouts_by_the_upstreams_own_socket() {
    timed_out()
        .peer(false, false)
        .is(Cause::ReadTimeoutNeverAccepted, None, Proven, true);
    timed_out()
        .peer(true, false)
        .is(Cause::ReadTimeoutNotRead, None, Proven, true);
    timed_out()
        .peer(true, true)
        .is(Cause::ReadTimeoutNoReply, None, Proven, true);
    timed_out().is(Cause::ReadTimeoutNoReply, None, Likely, true);
    // Served after the proxy had gone: that says nothing of the moment that counts.
    let mut served_later = timed_out();
    served_later.tried.closed = Some(FlowClosed {
        flow: FLOW,
        acked: 0,
        reset_at: None,
        peer: Some(Peer {
            accepted: true,
            read: true,
            reader: Some(Reader {
                pid: WORKER,
                thread: WORKER,
                at: T + 11 * S,
                at_end: None,
            }),
            closed: Some(PeerClose {
                at: T + 11 * S,
                pid: WORKER,
                accepted: true,
                read: true,
                reset: false,
                ..PeerClose::default()
            }),
        }),
    });
    served_later.is(Cause::ReadTimeoutNoReply, None, Likely, true);
    served_later
        .peer(false, false)
        .is(Cause::ReadTimeoutNeverAccepted, None, Proven, true);
}

#[test]
fn what_the_thread_waited_in() {
    let sampled = |change: fn(&mut ProcessSample)| {
        timed_out()
            .peer(true, true)
            .sample(T + S, change)
            .sample(T + 9 * S, |s| {
                change(s);
                s.thread.cpu_ns *= 9;
                s.thread.wait_ns *= 9;
                s.throttled_us = s.throttled_us.map(|us| us * 8);
            })
    };
    type Change = fn(&mut ProcessSample);
    let cases: [(Variant, Change); 10] = [
        (Variant::Sleeping, |s| {
            s.thread.syscall = Some("clock_nanosleep".into())
        }),
        (Variant::Sleeping, |s| {
            s.thread.syscall = Some("pselect6 (nothing)".into())
        }),
        (Variant::WaitingOnLock, |s| {
            s.thread.syscall = Some("futex".into())
        }),
        (Variant::WaitingOnSocket, |s| {
            s.thread.syscall = Some("poll".into());
            s.thread.socket_peer = Some(Address("10.0.0.9:5432".into()));
        }),
        (Variant::Running, |s| {
            s.thread.state = 'R';
            s.thread.cpu_ns = S;
        }),
        (Variant::Runnable, |s| {
            s.thread.state = 'R';
            s.thread.wait_ns = S;
        }),
        (Variant::CpuThrottled, |s| {
            s.thread.state = 'R';
            s.thread.wait_ns = S;
            s.throttled_us = Some(900_000);
        }),
        (Variant::Stopped, |s| s.thread.state = 'T'),
        (Variant::BlockedIo, |s| s.thread.state = 'D'),
        (Variant::Frozen, |s| s.frozen = true),
    ];
    for (variant, change) in cases {
        sampled(change).is(Cause::ReadTimeoutNoReply, variant, Proven, true);
    }
    sampled(|s| s.thread.syscall = Some("epoll_wait".into())).is(
        Cause::ReadTimeoutNoReply,
        None,
        Proven,
        true,
    );
}

/// Where files cannot be read, what they would tell is open, and so is what looks the same.
#[test]
fn what_control_groups_or_the_scheduler_do_not_tell_is_left_open() {
    let is = |variant: Option<Variant>, change: fn(&mut ProcessSample)| {
        let scene = timed_out().peer(true, true).sample(T + S, change);
        let scene = scene.sample(T + 9 * S, |s| {
            change(s);
            s.thread.cpu_ns *= 9;
            s.thread.wait_ns *= 9;
        });
        scene.is(Cause::ReadTimeoutNoReply, variant, Proven, true);
    };
    is(None, |s| {
        (s.thread.state, s.thread.wait_ns) = ('R', S);
        s.throttling_unseen = true;
    });
    is(Some(Variant::Running), |s| {
        (s.thread.state, s.thread.cpu_ns) = ('R', S);
        (s.throttling_unseen, s.freezing_unseen) = (true, true);
    });
    is(None, |s| s.thread.state = 'R');
    is(Some(Variant::Sleeping), |s| {
        s.thread.syscall = Some("clock_nanosleep".into());
        s.throttling_unseen = true;
    });
    is(None, |s| {
        s.thread.syscall = Some("clock_nanosleep".into());
        s.freezing_unseen = true;
    });
    is(None, |s| (s.thread.state, s.freezing_unseen) = ('D', true));
    is(Some(Variant::Stopped), |s| {
        (s.thread.state, s.freezing_unseen) = ('T', true);
    });
    // What was read is so.
    is(Some(Variant::Frozen), |s| {
        (s.frozen, s.freezing_unseen) = (true, true)
    });
}

/// All its requests end at once: an event loop is awake when the last one does, and slept before.
#[test]
fn who_is_awake_for_a_moment_was_not_running() {
    let awake = |cpu_ns: u64| {
        timed_out()
            .peer(true, true)
            .sample(T + 9 * S, |s| {
                s.thread.syscall = Some("clock_nanosleep".into())
            })
            .sample(T + 10 * S - MS, move |s| {
                s.thread.state = 'R';
                s.thread.cpu_ns = cpu_ns;
            })
    };
    awake(MS).is(Cause::ReadTimeoutNoReply, Variant::Sleeping, Proven, true);
    awake(S).is(Cause::ReadTimeoutNoReply, Variant::Running, Proven, true);
}

/// The worker is released right after the proxy gave up: what it does then is not what it did.
#[test]
fn a_late_sample_counts_only_if_nothing_has_happened_since() {
    let end = T + 10 * S;
    let scene = |state: char, cpu_ns: u64| {
        timed_out()
            .peer(true, true)
            .reader(|r| r.at_end = Some(ThreadAtEnd { state, cpu_ns }))
            .sample(T + S, |s| {
                s.thread.syscall = Some("clock_nanosleep".into());
                s.thread.cpu_ns = MS;
            })
    };
    let at_end = |scene: Scene, cpu_ns: u64| {
        scene.sample(end + 10 * MS, move |s| {
            s.thread.syscall = Some("futex".into());
            s.thread.cpu_ns = cpu_ns;
        })
    };
    let is = |scene: Scene, variant| scene.is(Cause::ReadTimeoutNoReply, variant, Proven, true);
    is(at_end(scene('S', 2 * MS), 2 * MS), Variant::WaitingOnLock);
    is(at_end(scene('S', MS), 2 * MS), Variant::Sleeping);
    is(at_end(scene('R', MS), 2 * MS), Variant::Sleeping);
    is(at_end(scene('T', MS), 2 * MS), Variant::Stopped);
}

#[test]
fn requests_that_were_not_taken() {
    let stuck = |acked, retransmits, zero_window| {
        scene(TCP, End::GivenUp, 10 * S).status(504).tcp(|t| {
            t.acked = acked;
            t.retransmits = retransmits;
            t.zero_window = zero_window;
        })
    };
    stuck(0, 4, false)
        .reused()
        .is(Cause::RequestUnacknowledged, None, Proven, true);
    stuck(0, 4, false).is(Cause::RequestUnacknowledged, None, Likely, true);
    stuck(0, 4, false).queue(129, 128, 3).is(
        Cause::TcpAcceptQueueFull,
        Variant::AckDropped,
        Proven,
        true,
    );
    // The proxy's own FIN found room in the queue: too late for the request.
    stuck(0, 4, false).queue(128, 128, 3).closed(1000, None).is(
        Cause::TcpAcceptQueueFull,
        Variant::AckDropped,
        Proven,
        true,
    );
    stuck(60, 0, true).is(Cause::SendTimeout, None, Likely, true);
    stuck(60, 0, true)
        .peer(true, true)
        .is(Cause::SendTimeout, None, Proven, true);
    stuck(60, 0, true)
        .peer(false, false)
        .is(Cause::ReadTimeoutNeverAccepted, None, Proven, true);
}

#[test]
fn a_client_that_left_first() {
    let left = timed_out().peer(true, true).client_left();
    left.is(Cause::DownstreamGaveUp, None, Likely, false);
    left.clone()
        .late()
        .is(Cause::DownstreamGaveUp, None, Proven, true);
    // The client's half of the connection was closed, and the proxy answered all the same.
    let mut answered = left;
    answered.response = timed_out().response;
    answered.is(Cause::ReadTimeoutNoReply, None, Proven, true);
    let unseen = timed_out()
        .peer(true, true)
        .no_response()
        .attempt(|a| a.downstream = None);
    unseen
        .late()
        .is(Cause::ReadTimeoutNoReply, None, Likely, true);
}

#[test]
fn the_tier_in_front_is_named_by_its_constant_wait() {
    let left = |count: u64, step: Nanos| {
        let mut scene = timed_out().peer(true, true).client_left().late();
        for i in 0..count {
            let mut attempt = scene.tried.attempt.clone();
            attempt.began = T - 3 * S - i * step;
            scene = scene.signal(T, Fact::AttemptEnded(Box::new(attempt)));
        }
        scene
            .judge()
            .evidence
            .iter()
            .any(|f| f.name == "constant_wait")
    };
    assert!(left(5, MS));
    assert!(!left(5, 300 * MS), "random aborts");
    assert!(!left(2, MS), "twice is no pattern");
}
