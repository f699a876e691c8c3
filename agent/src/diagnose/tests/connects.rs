//! Connects that failed or were given up.

use super::build::*;
use crate::cause::{Cause, Variant};
use crate::diagnose::{Case, advise, diagnose};
use crate::signal::*;
use crate::track::host::Host;
use crate::verdict::Confidence::{Likely, Proven, Unknown};

#[test]
fn connects_that_failed() {
    for (upstream, errno, cause) in [
        (UNIX, 2, Cause::UnixSocketMissing),
        (UNIX, 111, Cause::UnixSocketRefused),
        (UNIX, 13, Cause::UnixSocketDenied),
        (UNIX, 91, Cause::UnixSocketWrongType),
        (UNIX, 11, Cause::UnixAcceptQueueFull),
        (UNIX, 24, Cause::ProxyFdsExhausted),
        (TCP, 111, Cause::ConnectionRefused),
        (TCP, 113, Cause::HostUnreachable),
        (TCP, 101, Cause::HostUnreachable),
        (TCP, 99, Cause::PortsExhausted),
        (TCP, 23, Cause::ProxyFdsExhausted),
    ] {
        scene(upstream, End::ConnectFailed { errno }, 0).is(cause, None, Proven, true);
    }
    for (upstream, errno) in [(UNIX, 1), (UNIX, 36), (TCP, 1), (TCP, 0), (TCP, i32::MIN)] {
        scene(upstream, End::ConnectFailed { errno }, 0).is(Cause::Unknown, None, Unknown, true);
    }
    scene("[2001:db8::1]:80", End::ConnectFailed { errno: 99 }, 0).is(
        Cause::PortsExhausted,
        None,
        Likely,
        true,
    );
}

#[test]
fn a_queue_that_was_seen_with_room_is_not_proven_full() {
    let full = scene(UNIX, End::ConnectFailed { errno: 11 }, 0);
    full.clone()
        .queue(129, 128, 0)
        .is(Cause::UnixAcceptQueueFull, None, Proven, true);
    full.queue(3, 128, 0)
        .is(Cause::UnixAcceptQueueFull, None, Likely, true);
}

pub(super) fn listener(address: &str, gone: bool) -> Fact {
    Fact::ListenerSeen(Listener {
        address: Address(address.into()),
        netns: 1,
        pid: MASTER,
        length: 0,
        limit: 128,
        peak: 0,
        somaxconn: Some(4096),
        since: None,
        gone,
    })
}

fn told_to_listen(name: &str, value: &str) -> Fact {
    match process(30, 1, "slow", Software::Other) {
        Fact::ProcessSeen(p) => Fact::ProcessSeen(Process {
            settings: vec![(name.into(), value.into())],
            started: T - 2 * S,
            ..p
        }),
        other => other,
    }
}

#[test]
fn refused_with_what_is_known_of_the_listener() {
    let refused = scene("127.0.0.1:9000", End::ConnectFailed { errno: 111 }, 0);
    let is = |scene: Scene, variant| scene.is(Cause::ConnectionRefused, variant, Proven, true);
    is(refused.clone(), None);
    is(
        refused.clone().signal(S, listener("0.0.0.0:80", false)),
        Some(Variant::NoListener),
    );
    is(
        refused.clone().signal(S, listener("127.0.0.1:9000", true)),
        Some(Variant::NoListener),
    );
    is(
        refused.clone().queue(0, 128, 0),
        Some(Variant::RejectedByFirewall),
    );
    is(
        refused.clone().signal(S, told_to_listen("--port", "9000")),
        Some(Variant::Starting),
    );
    is(
        refused
            .clone()
            .signal(S, told_to_listen("--bind", "127.0.0.1:9001")),
        None,
    );
    let missing = scene(UNIX, End::ConnectFailed { errno: 2 }, 0);
    missing
        .signal(S, told_to_listen("--bind", "unix:/run/app.sock"))
        .is(Cause::UnixSocketMissing, Variant::Starting, Proven, true);
}

#[test]
fn refused_by_what_listens_elsewhere() {
    // In another network namespace, or for all addresses of this host but not of the one called.
    let elsewhere = |fact: Fact| match fact {
        Fact::ListenerSeen(l) => Fact::ListenerSeen(Listener { netns: 2, ..l }),
        Fact::ProcessSeen(p) => Fact::ProcessSeen(Process { netns: 2, ..p }),
        other => other,
    };
    let refused = |upstream| scene(upstream, End::ConnectFailed { errno: 111 }, 0);
    let is = |scene: Scene, variant| scene.is(Cause::ConnectionRefused, variant, Proven, true);
    let here = refused("127.0.0.1:9000");
    let container = elsewhere(listener("127.0.0.1:9000", false));
    is(here.clone().signal(S, container), Some(Variant::NoListener));
    let loading = || told_to_listen("--bind", "0.0.0.0:9000");
    let other = here.clone().signal(S, elsewhere(loading()));
    is(other, None);
    is(here.clone().signal(S, loading()), Some(Variant::Starting));
    // The listener for all addresses went.
    let wildcard = |gone| listener("0.0.0.0:9000", gone);
    is(here.clone().signal(S, wildcard(false)), None);
    let gone = here
        .signal(S, wildcard(false))
        .signal(2 * S, wildcard(true));
    is(gone, Some(Variant::NoListener));
    let remote = refused(TCP);
    for fact in [loading(), wildcard(true)] {
        is(remote.clone().signal(S, fact), None);
    }
}

#[test]
fn a_proxy_without_a_descriptor_for_an_attempt() {
    let host = Host::default();
    let with = |open, limit| {
        let scene = scene(TCP, End::ConnectGivenUp, 0).status(500);
        let mut response = scene.response.clone().expect("a response");
        let at = T;
        response.descriptors = Some(Descriptors { at, open, limit });
        let case = Case {
            response: Some(&response),
            ..scene.case(&host, &[])
        };
        let told = diagnose(&case);
        (told.cause, told.confidence)
    };
    let exhausted = (Cause::ProxyFdsExhausted, Likely);
    assert_eq!(with(1024, 1024), exhausted);
    // The client has gone meanwhile.
    assert_eq!(with(1023, 1024), exhausted);
    // The limit was lowered.
    assert_eq!(with(40, 20), exhausted);
    assert_eq!(with(1000, 1024), (Cause::Unknown, Unknown));
}

#[test]
fn a_listener_that_dropped_though_it_had_room() {
    let after = |waited| scene(TCP, End::ConnectGivenUp, waited).status(504).local();
    let with = |scene: Scene, count: u32| {
        scene.attempt(|a| {
            if let Some(queue) = &mut a.queue {
                queue.half_open = Some(count);
            }
        })
    };
    let dropped = |count| with(after(2 * S).queue(0, 128, 2), count);
    let queue =
        |scene: Scene| scene.is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Likely, true);
    dropped(97).is(Cause::SynBacklogFull, None, Likely, true);
    // As many as come about without any fault.
    queue(dropped(3));
    queue(with(after(2 * S).queue(60, 128, 2), 50));
    // As many as its network namespace allows: all but a quarter of its limit, and no more than the accept
    // queue's; none where it answers with cookies.
    let allowed = |count, max_backlog, cookies| {
        dropped(count).attempt(|a| {
            if let Some(queue) = &mut a.queue {
                queue.syn_settings = Some(SynSettings {
                    max_backlog,
                    cookies,
                });
            }
        })
    };
    for (count, max_backlog, cookies, is) in [
        (13, 16, 0, true),
        (12, 16, 0, false),
        (97, 1024, 0, false),
        (128, 1024, 0, true),
        (97, 128, 0, true),
        (97, 16, 1, false),
    ] {
        let scene = allowed(count, max_backlog, cookies);
        match is {
            true => scene.is(Cause::SynBacklogFull, None, Likely, true),
            false => queue(scene),
        }
    }
    let missing = |scene: Scene| scene.judge().missing.remove(0);
    assert!(missing(dropped(97)).contains("could not be read"));
    assert!(missing(allowed(97, 16, 0)).contains("at the moment"));
    // Others' SYNs, in part: its own was dropped twice.
    let repeated = dropped(97).tcp(|tcp| tcp.retransmits = 2);
    queue(repeated);
    // The accept queue was full meanwhile, or may have been.
    let over = match listener(TCP, false) {
        Fact::ListenerSeen(l) => Fact::ListenerSeen(Listener { peak: 129, ..l }),
        other => other,
    };
    let full = dropped(97).signal(T + S, over);
    full.is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Proven, true);
    queue(with(after(300 * MS).queue(0, 128, 1), 97));
    // Nothing was dropped: something before it did that.
    with(after(2 * S).queue(0, 128, 0), 97).is(Cause::ConnectTimeout, None, Proven, true);
}

#[test]
fn connects_given_up() {
    let waited = || scene(TCP, End::ConnectGivenUp, 2 * S).status(504);
    waited().is(Cause::ConnectTimeout, Variant::UnknownPath, Likely, true);
    waited()
        .queue(129, 128, 2)
        .is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Proven, true);
    waited()
        .queue(129, 128, 0)
        .is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Likely, true);
    // It dropped something, but was not full: another's SYN, or its SYN queue.
    waited()
        .queue(5, 128, 2)
        .is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Likely, true);
    let over = match listener(TCP, false) {
        Fact::ListenerSeen(l) => Fact::ListenerSeen(Listener { peak: 129, ..l }),
        other => other,
    };
    let waited_here = || waited().local().queue(127, 128, 2);
    let before = waited_here().signal(T - S, over.clone());
    before.is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Likely, true);
    let meanwhile = waited_here().signal(T + S, over);
    let meanwhile = meanwhile.signal(T + 2 * S, listener(TCP, false));
    meanwhile.is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Proven, true);
    waited()
        .queue(0, 128, 0)
        .is(Cause::ConnectTimeout, None, Proven, true);
    // Of several that listen at this address one was looked at.
    let one_of_several = |length, drops| {
        waited().queue(length, 128, drops).attempt(|a| {
            if let Some(queue) = &mut a.queue {
                queue.shared = true;
            }
        })
    };
    one_of_several(129, 2).is(Cause::TcpAcceptQueueFull, Variant::SynDropped, Likely, true);
    one_of_several(0, 0).is(Cause::ConnectTimeout, None, Likely, true);
    let filtered = |count| waited().tcp(|t| (t.retransmits, t.filtered) = (1, count));
    let by_filter = (Cause::ConnectTimeout, Variant::DroppedByFilter);
    filtered(2).is(by_filter.0, by_filter.1, Proven, true);
    filtered(1).is(by_filter.0, by_filter.1, Likely, true);
    // What was written to had been connected: no SYN of it was dropped in the end.
    let written = |acked| {
        let full = waited().queue(128, 128, 600);
        full.tcp(|t| (t.acked, t.retransmits) = (acked, 8))
            .attempt(|a| {
                a.request = Some(RequestSent {
                    at: T + S,
                    bytes: 124,
                    opening: Opening::Other,
                    write_errno: None,
                });
            })
    };
    written(0).is(Cause::TcpAcceptQueueFull, Variant::AckDropped, Proven, true);
    written(124).is(Cause::ReadTimeoutNoReply, None, Likely, true);
    // EADDRNOTAVAIL without the call's return value.
    scene(TCP, End::ConnectGivenUp, MS / 10).is(Cause::Unknown, None, Unknown, true);
}

#[test]
fn connects_that_cannot_be_told_apart_are_likely_whichever_it_was() {
    let host = Host::default();
    let said = |end: End, captured: bool| {
        let mut response = scene(TCP, end, 0).response.expect("a response");
        response.adjacent = None;
        response.untied = Some(Untied {
            at: T,
            end,
            upstreams: vec![
                Address("10.0.0.2:9000".into()),
                Address("10.0.0.3:9000".into()),
            ],
            captured,
            waited_ns: 2 * S,
        });
        let case = Case {
            attempts: &[],
            response: Some(&response),
            answered_at: 0,
            source: Source::Packets,
            told: None,
            surely_told: false,
            named: false,
            host: &host,
            lost: 0,
            deadline_passed: false,
        };
        let found = diagnose(&case);
        let advice = advise(&case, &found);
        let named = |m: &String| m.starts_with("exchange_link: ");
        assert!(found.missing.iter().any(named), "{found:#?}");
        assert!(found.settled);
        assert!(
            found.evidence[0]
                .text
                .starts_with("to 10.0.0.2:9000, 10.0.0.3:9000")
        );
        (found.cause, found.variant, found.confidence, advice.text)
    };
    let refused = said(End::ConnectFailed { errno: 111 }, true);
    assert_eq!((refused.0, refused.2), (Cause::ConnectionRefused, Likely));
    assert!(refused.3.starts_with("Nobody listens on one of these"));
    let unreachable = said(End::ConnectFailed { errno: 113 }, true);
    assert_eq!(
        (unreachable.0, unreachable.2),
        (Cause::HostUnreachable, Likely)
    );
    for captured in [true, false] {
        let silent = said(End::ConnectGivenUp, captured);
        assert_eq!((silent.0, silent.2), (Cause::ConnectTimeout, Likely));
        assert_eq!(silent.1, Some(Variant::UnknownPath));
        assert!(
            silent
                .3
                .starts_with("No answer to a connect to one of these")
        );
    }
}

/// No thread is seen in a capture: an unclear tie stays one, whatever follows the attempt.
#[test]
fn packets_prove_nothing_across_an_unclear_tie() {
    let mut scene = scene(TCP, End::ConnectFailed { errno: 111 }, 0);
    scene.is(Cause::ConnectionRefused, None, Proven, true);
    let link = scene.tried.attempt.downstream.as_mut().expect("a link");
    link.order = LinkOrder::Unclear;
    scene.tried.source = Source::Packets;
    let host = scene.host();
    let attempts = std::slice::from_ref(&scene.tried);
    let mut case = scene.case(&host, attempts);
    case.source = Source::Packets;
    let found = diagnose(&case);
    assert_eq!(
        (found.cause, found.confidence),
        (Cause::ConnectionRefused, Likely)
    );
    assert!(found.missing[0].starts_with("exchange_link: "));
    // Nor where the request cannot be read, and only what came next would tie the two.
    let mut response = scene.response.clone().expect("a response");
    response.request = None;
    case.response = Some(&response);
    assert_eq!(diagnose(&case).confidence, Likely);
}
