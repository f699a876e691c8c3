//! Advice names the settings of the software seen, with what was observed of them.

use super::blanking::complete;
use super::build::*;
use super::deaths::worker_gone;
use super::races::fin_in_flight;
use super::waits::timed_out;
use crate::signal::*;
use crate::verdict::{Advice, Setting};

#[track_caller]
fn find<'a>(advice: &'a Advice, name: &str) -> &'a Setting {
    let found = advice.settings.iter().find(|s| s.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {advice:#?}"))
}

#[track_caller]
fn says(advice: &Advice, words: &[&str]) {
    for word in words {
        assert!(
            advice.text.contains(word),
            "no {word:?} in {:?}",
            advice.text
        );
    }
}

#[test]
fn every_cause_has_advice_that_can_be_read() {
    for (name, scene) in complete() {
        let advice = scene.late().advice();
        assert!(advice.text.ends_with('.'), "{name}: {:?}", advice.text);
        assert!(!advice.text.contains("  "), "{name}: {:?}", advice.text);
        assert!(advice.text.len() < 700, "{name}: {:?}", advice.text);
        for setting in &advice.settings {
            assert!(
                !setting.suggested.is_empty() && !setting.software.is_empty(),
                "{name}"
            );
            // Something observed says from where.
            let seen = setting.observed.is_some() || setting.observed_seconds.is_some();
            assert_eq!(seen, setting.observed_from.is_some(), "{name}: {setting:?}");
            // An alternative is one to something that is there.
            let other = setting.alternative_to.as_ref();
            assert!(
                other.is_none_or(|o| advice.settings.iter().any(|s| s.name == *o)),
                "{name}: {setting:?}"
            );
        }
    }
}

#[test]
fn what_was_not_seen_is_not_said_of_a_timeout() {
    let seen = timed_out().peer(true, true).late().advice();
    says(&seen, &["had read the request"]);
    let unseen = timed_out().attempt(|a| a.peer = None).late().advice();
    says(&unseen, &["did not answer", "is not seen"]);
    assert!(
        !unseen.text.contains("had read the request and"),
        "{unseen:?}"
    );
}

#[test]
fn the_race_has_three_ways_out() {
    let advice = fin_in_flight()
        .peer_closed(true, false, false, 9 * MS)
        .workers(Software::Node)
        .settings(
            PROXY,
            &[
                ("upstream other server", "10.9.0.9:1"),
                ("upstream other keepalive_timeout", "5s"),
                ("upstream app server", "10.9.0.2:9000"),
                ("upstream app keepalive_timeout", "60s"),
            ],
        )
        .advice();
    says(&advice, &["after 978 ms", "idle for 968 ms"]);
    let node = find(&advice, "server.keepAliveTimeout");
    assert_eq!(
        (node.observed_seconds, node.observed_from),
        (Some(0.978), Some("wire"))
    );
    assert!(node.suggested.contains("60.0 s"), "{node:?}");
    let pool = find(&advice, "upstream keepalive_timeout");
    assert_eq!(
        (pool.observed_seconds, pool.observed_from),
        (Some(60.0), Some("configuration"))
    );
    assert_eq!(
        pool.alternative_to.as_deref(),
        Some("server.keepAliveTimeout")
    );
    let retry = find(&advice, "proxy_next_upstream");
    assert!(
        retry
            .risk
            .as_ref()
            .is_some_and(|r| r.contains("POST") && r.contains("twice"))
    );
}

fn listener(address: &str, limit: u32, somaxconn: u32) -> Fact {
    Fact::ListenerSeen(Listener {
        address: Address(address.into()),
        netns: 4_026_531_840,
        pid: WORKER,
        length: limit,
        limit,
        peak: limit + 1,
        somaxconn: Some(somaxconn),
        since: None,
        gone: false,
    })
}

#[test]
fn who_limits_the_queue() {
    let full = |limit, somaxconn, backlog: &str| {
        scene(UNIX, End::ConnectFailed { errno: 11 }, 0)
            .queue(limit + 1, limit, 0)
            .signal(S, listener(UNIX, limit, somaxconn))
            .workers(Software::Gunicorn)
            .settings(WORKER, &[("--backlog", backlog), ("--workers", "1")])
            .advice()
    };
    let own = full(128, 4096, "128");
    says(
        &own,
        &[
            "129 connections waited",
            "limit is 128",
            "backlog of 128 sets",
            "restarted",
        ],
    );
    let backlog = find(&own, "--backlog");
    assert_eq!(
        (backlog.observed.as_deref(), backlog.observed_from),
        (Some("128"), Some("command_line"))
    );
    assert_eq!(find(&own, "--workers").observed.as_deref(), Some("1"));
    assert!(
        find(&own, "net.core.somaxconn")
            .suggested
            .contains("leave it")
    );

    let host = full(128, 128, "2048");
    says(
        &host,
        &[
            "net.core.somaxconn of its network namespace (128)",
            "not its backlog of 2048",
        ],
    );
    assert!(
        find(&host, "net.core.somaxconn")
            .suggested
            .contains("namespace 4026531840")
    );
}

#[test]
fn which_timer_fired_first() {
    let waited = timed_out()
        .peer(true, true)
        .workers(Software::Gunicorn)
        .settings(WORKER, &[("--timeout", "30")])
        .settings(PROXY, &[("proxy_read_timeout", "10s")]);
    let advice = waited.clone().advice();
    says(
        &advice,
        &[
            "nginx's timer fired first",
            "10.0 s",
            "gunicorn --timeout of 30.0 s would have fired later",
        ],
    );
    assert_eq!(
        find(&advice, "proxy_read_timeout").observed_seconds,
        Some(10.0)
    );
    assert_eq!(
        find(&advice, "--timeout").observed_from,
        Some("command_line")
    );

    let at = T + 2 * S - 2 * MS;
    let killed = worker_gone(End::PeerClosed, Software::Gunicorn)
        .settings(WORKER, &[("timeout", "2")])
        .settings(PROXY, &[("proxy_read_timeout", "10s")])
        .signal(at, sent(6, WORKER, MASTER, MASTER))
        .signal(at + 38 * MS, exited(0, 1))
        .advice();
    says(
        &killed,
        &[
            "gunicorn's timer fired first",
            "--timeout 2",
            "proxy_read_timeout 10s",
        ],
    );
    assert_eq!(
        find(&killed, "--timeout").observed_from,
        Some("configuration")
    );

    let peer = waited.sample(T + S, |s| {
        s.thread.syscall = Some("recvfrom".into());
        s.thread.socket_peer = Some(Address("10.0.0.9:5432".into()));
    });
    says(&peer.advice(), &["waited for 10.0.0.9:5432"]);
}

/// The wire knows how long a proxy waited as well as its kernel does, and is named where it does.
#[test]
fn a_wait_is_observed_by_who_saw_it() {
    let connect = scene(TCP, End::ConnectGivenUp, 2 * S).status(504);
    for (mut scene, timer) in [
        (timed_out(), "proxy_read_timeout"),
        (connect, "proxy_connect_timeout"),
    ] {
        for (source, from) in [(Source::Kernel, "kernel"), (Source::Packets, "wire")] {
            scene.tried.source = source;
            let advice = scene.advice();
            let timeout = find(&advice, timer);
            assert!(timeout.observed_seconds.is_some(), "{timeout:?}");
            assert_eq!(timeout.observed_from, Some(from), "{timer}");
        }
    }
}

#[test]
fn the_proxys_timer_is_named_as_the_proxy_names_it_and_only_its_known_value() {
    let at = T + 2 * S - 2 * MS;
    let killed = |opening: Opening, proxy: Software, settings: &[(&str, &str)]| {
        let mut scene = worker_gone(End::PeerClosed, Software::Uwsgi)
            .attempt(|a| {
                if let Some(request) = &mut a.request {
                    request.opening = opening;
                }
            })
            .signal(at, sent(9, WORKER, MASTER, MASTER))
            .signal(at + MS, exited(9, 0));
        for signal in &mut scene.signals {
            if let Fact::ProcessSeen(process) = &mut signal.fact
                && process.pid == PROXY
            {
                process.software = proxy;
            }
        }
        scene.settings(PROXY, settings).advice()
    };
    for (opening, proxy, settings, name, words) in [
        (
            Opening::Uwsgi,
            Software::Nginx,
            &[("proxy_read_timeout", "10s"), ("uwsgi_read_timeout", "20s")][..],
            "uwsgi_read_timeout",
            "(uwsgi_read_timeout 20s had not passed)",
        ),
        (
            Opening::Uwsgi,
            Software::Nginx,
            &[("proxy_read_timeout", "10s")],
            "uwsgi_read_timeout",
            "(uwsgi_read_timeout, 60 s by default, had not passed)",
        ),
        // It waited for two seconds: the one is another location's.
        (
            request_line(),
            Software::Nginx,
            &[("proxy_read_timeout", "10s, 1s")],
            "proxy_read_timeout",
            "(its proxy_read_timeout had not passed)",
        ),
        (
            request_line(),
            Software::Nginx,
            &[("proxy_read_timeout", "1s")],
            "proxy_read_timeout",
            "(its proxy_read_timeout had not passed)",
        ),
        // Its configuration could not be read.
        (
            request_line(),
            Software::Nginx,
            &[],
            "proxy_read_timeout",
            "(its proxy_read_timeout had not passed)",
        ),
        (
            request_line(),
            Software::Haproxy,
            &[],
            "timeout server",
            "(its timeout server had not passed)",
        ),
    ] {
        let advice = killed(opening, proxy, settings);
        says(&advice, &[words]);
        find(&advice, name);
    }
    let several = timed_out()
        .settings(PROXY, &[("proxy_read_timeout", "10s, 2s")])
        .advice();
    says(&several, &["(proxy_read_timeout)"]);
}

#[test]
fn sagemakers_own_names() {
    let mut scene = timed_out()
        .peer(true, true)
        .workers(Software::Gunicorn)
        .settings(
            WORKER,
            &[
                ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "120"),
                ("SAGEMAKER_MODEL_SERVER_WORKERS", "2"),
            ],
        );
    for signal in &mut scene.signals {
        if let Fact::ProcessSeen(process) = &mut signal.fact {
            process.sagemaker = process.pid == WORKER;
        }
    }
    let advice = scene.advice();
    says(
        &advice,
        &["/invocations", "60 s", "MaxConcurrentTransforms"],
    );
    let timeout = find(&advice, "SAGEMAKER_MODEL_SERVER_TIMEOUT");
    assert_eq!(
        (timeout.observed_seconds, timeout.observed_from),
        (Some(120.0), Some("environment"))
    );
    assert_eq!(
        find(&advice, "SAGEMAKER_MODEL_SERVER_WORKERS")
            .observed
            .as_deref(),
        Some("2")
    );
    find(&advice, "MaxConcurrentTransforms");
}

#[test]
fn names_from_processes_are_cleaned() {
    let at = T + 2 * S - 2 * MS;
    let mut scene = worker_gone(End::PeerClosed, Software::Node)
        .signal(at, sent(9, WORKER, MASTER, 99))
        .signal(at, exited(9, 0));
    for signal in &mut scene.signals {
        if let Fact::SignalSent(sent) = &mut signal.fact {
            sent.from_name = "evil\x1b[2J\n".into();
        }
    }
    let advice = scene.advice();
    assert!(!advice.text.contains(['\x1b', '\n']), "{:?}", advice.text);
    says(&advice, &["evil"]);
}
