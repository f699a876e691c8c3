//! What is remembered, for how long, and within which bounds.

use super::*;
use crate::signal::{ClosedBy, DownstreamState, IdleClose, Link, LinkOrder, Place, Software};

fn tell(host: &mut Host, at: Nanos, fact: Fact) {
    host.observe(&Signal {
        at,
        source: Source::Kernel,
        fact,
    });
}

fn idle_close(upstream: &str, by: ClosedBy, idle_ns: u64) -> Fact {
    Fact::IdleClosed(IdleClose {
        flow: 1,
        proxy: 10,
        upstream: Address(upstream.into()),
        by,
        reset: false,
        idle_ns,
        requests: 3,
        longest_reuse_ns: idle_ns / 2,
    })
}

fn listener(address: &str, netns: u32, gone: bool) -> Fact {
    Fact::ListenerSeen(Listener {
        address: Address(address.into()),
        netns,
        pid: 20,
        length: 0,
        limit: 128,
        peak: 0,
        somaxconn: None,
        since: None,
        gone,
    })
}

fn process(pid: u32, name: &str) -> Fact {
    Fact::ProcessSeen(Process {
        pid,
        parent: 1,
        name: name.into(),
        software: Software::Other,
        settings: Vec::new(),
        started: 0,
        netns: 1,
        sagemaker: false,
        home: Default::default(),
    })
}

fn sample(flow: FlowId) -> ProcessSample {
    ProcessSample {
        pid: 1,
        flow,
        thread: crate::signal::ThreadSample {
            thread: 1,
            state: 'S',
            cpu_ns: 0,
            wait_ns: 0,
            syscall: None,
            socket_peer: None,
        },
        throttled_us: None,
        frozen: false,
        throttling_unseen: false,
        freezing_unseen: false,
    }
}

/// Given up for a client that had left.
fn attempt(upstream: &str) -> Attempt {
    Attempt {
        flow: 1,
        proxy: 10,
        thread: 10,
        downstream: Some(Link {
            flow: 2,
            ordinal: 1,
            order: LinkOrder::AfterRead,
            client: Some(Address("10.0.0.7:1".into())),
            proxy_address: None,
            request: None,
            state: DownstreamState::ResetByClient,
            read_before_ns: None,
        }),
        retry_of: None,
        upstream: Address(upstream.into()),
        local: None,
        began: 100 * SECOND,
        connected: None,
        reused: false,
        requests_before: 0,
        idle_ns: None,
        request: None,
        received: 0,
        response: None,
        end: End::GivenUp,
        tcp: None,
        peer: None,
        queue: None,
        netns: 0,
        upstream_end: None,
        spoke_http: false,
        sealed: false,
        tickets: false,
        unasked: false,
        fault: None,
    }
}

#[test]
fn a_risk_from_twenty_closes_on_and_told_once() {
    let mut host = Host::default();
    let upstream = Address("10.0.0.1:80".into());
    for i in 0..19 {
        tell(
            &mut host,
            i,
            idle_close(&upstream.0, ClosedBy::Upstream, 2 * SECOND + i * 1_000_000),
        );
        assert_eq!(host.risk(10, &upstream), None);
    }
    tell(
        &mut host,
        20,
        idle_close(&upstream.0, ClosedBy::Upstream, 2 * SECOND),
    );
    let risk = host.risk(10, &upstream).expect("twenty closes at one age");
    assert_eq!(risk.closes_after_us.n, 20);
    assert!(
        (2_000_000..2_020_000).contains(&risk.closes_after_us.median),
        "{risk:?}"
    );
    assert!(
        (1_000_000..1_020_000).contains(&risk.longest_reuse_us),
        "{risk:?}"
    );
    assert_eq!(host.new_risk(10, &upstream), Some(risk));
    assert_eq!(host.new_risk(10, &upstream), None);
}

#[test]
fn no_risk_where_the_proxy_closes_first_or_a_restart_closes_all() {
    let upstream = Address("10.0.0.1:80".into());
    let mut host = Host::default();
    for i in 0..25 {
        tell(
            &mut host,
            i,
            idle_close(&upstream.0, ClosedBy::Upstream, 2 * SECOND),
        );
        tell(
            &mut host,
            i,
            idle_close(&upstream.0, ClosedBy::Proxy, SECOND),
        );
    }
    assert_eq!(host.risk(10, &upstream), None);
    let mut host = Host::default();
    for i in 0..25 {
        tell(
            &mut host,
            i,
            idle_close(&upstream.0, ClosedBy::Upstream, i * SECOND),
        );
    }
    assert_eq!(host.risk(10, &upstream), None);
}

#[test]
fn percentiles_are_observations() {
    let spread = spread((1..=100).rev()).expect("values");
    assert_eq!(
        (spread.p5, spread.median, spread.p95, spread.n),
        (6, 51, 95, 100)
    );
    assert_eq!(super::spread(std::iter::empty()), None);
    let one = super::spread(std::iter::once(7)).expect("a value");
    assert_eq!((one.p5, one.median, one.p95, one.n), (7, 7, 7, 1));
}

/// A call of this address by a proxy in network namespace 1, whose own address is 10.0.0.1.
fn call(upstream: &str) -> Attempt {
    Attempt {
        local: Some(Address("10.0.0.1:5000".into())),
        netns: 1,
        ..attempt(upstream)
    }
}

#[test]
fn listeners_by_address_wildcard_and_namespace() {
    let mut host = Host::default();
    tell(&mut host, 1, listener("0.0.0.0:80", 1, false));
    tell(&mut host, 1, listener("127.0.0.1:81", 1, false));
    tell(&mut host, 1, listener("127.0.0.1:81", 2, false));
    tell(&mut host, 1, listener("[::]:82", 2, false));
    tell(&mut host, 1, listener("unix:/a", 1, false));
    let seen = |host: &Host, attempt: &Attempt| {
        let found = host.listener(attempt);
        found.map(|l| (l.fact.address.0.clone(), l.fact.netns, l.fact.gone))
    };
    let at = |address: &str, netns, gone| Some((address.to_owned(), netns, gone));
    for (upstream, found) in [
        ("10.0.0.1:80", at("0.0.0.0:80", 1, false)),
        ("127.0.0.1:80", at("0.0.0.0:80", 1, false)),
        ("10.0.0.5:80", None),
        ("127.0.0.1:81", at("127.0.0.1:81", 1, false)),
        ("127.0.0.1:82", None),
        ("unix:/a", at("unix:/a", 1, false)),
        ("unix:/b", None),
        ("rubbish", None),
    ] {
        assert_eq!(seen(&host, &call(upstream)), found, "{upstream}");
    }
    // The other end of the connection was seen in another namespace, where it has its own address.
    let joined = Attempt {
        upstream_end: Some(Place {
            address: Address("172.17.0.2:82".into()),
            netns: 2,
        }),
        spoke_http: false,
        sealed: false,
        tickets: false,
        unasked: false,
        fault: None,
        ..call("10.0.0.5:8080")
    };
    assert_eq!(seen(&host, &joined), at("[::]:82", 2, false));
    // The one for exactly this address comes first, as long as it is there.
    tell(&mut host, 2, listener("127.0.0.1:80", 1, false));
    assert_eq!(
        seen(&host, &call("127.0.0.1:80")),
        at("127.0.0.1:80", 1, false)
    );
    tell(&mut host, 3, listener("127.0.0.1:80", 1, true));
    assert_eq!(
        seen(&host, &call("127.0.0.1:80")),
        at("0.0.0.0:80", 1, false)
    );
    tell(&mut host, 4, listener("0.0.0.0:80", 1, true));
    assert_eq!(
        seen(&host, &call("127.0.0.1:80")),
        at("0.0.0.0:80", 1, true)
    );
    tell(&mut host, 2, listener("unix:/a", 1, true));
    assert_eq!(seen(&host, &call("unix:/a")), at("unix:/a", 1, true));
    // An older report does not undo a newer one.
    tell(&mut host, 1, listener("unix:/a", 1, false));
    assert_eq!(seen(&host, &call("unix:/a")), at("unix:/a", 1, true));
}

#[test]
fn recordings_without_namespaces_have_those_of_their_processes() {
    let mut host = Host::default();
    tell(&mut host, 1, listener("0.0.0.0:80", 1, false));
    let old = |upstream: &str| Attempt {
        netns: 0,
        ..call(upstream)
    };
    let found = |host: &Host, attempt: &Attempt| host.listener(attempt).is_some();
    assert!(!found(&host, &old("127.0.0.1:80")), "the proxy is unknown");
    tell(&mut host, 1, process(10, "nginx"));
    assert!(found(&host, &old("127.0.0.1:80")));
    assert!(!found(&host, &old("10.0.0.5:80")));
    tell(&mut host, 1, process(20, "node"));
    let mut read = old("10.0.0.5:80");
    read.peer = Some(crate::signal::Peer {
        reader: Some(crate::signal::Reader {
            pid: 20,
            thread: 20,
            at: 1,
            at_end: None,
        }),
        ..crate::signal::Peer::default()
    });
    assert!(found(&host, &read));
}

#[test]
fn deaths_are_found_out_of_order_and_forgotten_in_time() {
    let mut host = Host::default();
    let exit = |pid| {
        Fact::ProcessExited(ProcessExit {
            pid,
            parent: 3,
            signal: 9,
            status: 0,
        })
    };
    tell(&mut host, 20 * SECOND, exit(2));
    tell(&mut host, 19 * SECOND, exit(1));
    assert!(host.exit_near(1, 19 * SECOND + 5, 10).is_some());
    assert!(host.exit_near(1, 19 * SECOND + 50, 10).is_none());
    assert_eq!(host.parent_of(1), Some(3));
    tell(&mut host, 40 * SECOND, exit(4));
    assert!(host.exit_near(1, 19 * SECOND, 10).is_none());
    assert!(host.sees("process_exited") && !host.sees("signal_sent"));
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_counted() {
    let mut host = Host::default();
    for i in 0..6000_u32 {
        let at = SECOND + u64::from(i);
        tell(&mut host, at, process(i + 1, "x"));
        tell(&mut host, at, listener(&format!("10.0.0.1:{i}"), 1, false));
        tell(
            &mut host,
            at,
            idle_close(&format!("10.0.0.1:{i}"), ClosedBy::Proxy, 1),
        );
        tell(&mut host, at, Fact::OomKilled { pid: i });
        tell(&mut host, at, Fact::ProcessSampled(sample(u64::from(i))));
    }
    let dropped: BTreeMap<_, _> = host.dropped().collect();
    assert_eq!(dropped["processes"], 6000 - 4096);
    assert_eq!(dropped["listeners"], 6000 - 1024);
    assert_eq!(dropped["pools"], 6000 - 512);
    assert_eq!(dropped["oom_kills"], 6000 - 4096);
    assert_eq!(dropped["samples"], 6000 - 1024);
    // The latest are the ones kept.
    assert!(host.process(6000).is_some() && host.process(1).is_none());
    assert!(host.listener(&call("10.0.0.1:5999")).is_some());
}

#[test]
fn one_pool_for_all_workers_of_a_proxy() {
    let mut host = Host::default();
    tell(&mut host, 1, process(10, "nginx"));
    tell(&mut host, 1, process(11, "nginx"));
    let upstream = Address("10.0.0.1:80".into());
    tell(
        &mut host,
        2,
        idle_close(&upstream.0, ClosedBy::Upstream, SECOND),
    );
    let seen = host
        .pool(11, &upstream)
        .and_then(Pool::upstream_closes_after);
    assert_eq!(seen.map(|s| s.median), Some(SECOND));
}

fn gave_up(client: &str, at: Nanos, waited: Nanos) -> Fact {
    let mut gave_up = attempt("unix:/a");
    gave_up.began = at - waited;
    if let Some(link) = &mut gave_up.downstream {
        link.client = Some(Address(client.into()));
    }
    Fact::AttemptEnded(Box::new(gave_up))
}

#[test]
fn any_number_of_clients_may_give_up_and_a_tier_in_front_is_still_learned() {
    let mut host = Host::default();
    for i in 0..5000_u64 {
        let at = (100 + i) * SECOND;
        let client = format!("10.{}.{}.1:1", i / 250, i % 250);
        tell(&mut host, at, gave_up(&client, at, SECOND + i * 7_000_000));
        if i % 500 == 0 {
            tell(&mut host, at, gave_up("10.99.0.7:1", at, 3 * SECOND));
        }
    }
    assert_eq!(host.dropped().collect::<Vec<_>>(), []);
    let wait = host.gives_up_after(10, &Address("10.99.0.7:9".into()));
    assert_eq!(wait, Some(3 * SECOND));
}

#[test]
fn a_long_wait_is_no_loss() {
    let mut host = Host::default();
    for i in 0..600 {
        tell(&mut host, i * SECOND, Fact::ProcessSampled(sample(1)));
    }
    assert_eq!(host.samples(1).len(), SAMPLES);
    assert_eq!(host.samples(1).last().map(|s| s.at), Some(599 * SECOND));
    assert_eq!(host.dropped().collect::<Vec<_>>(), []);
}

#[test]
fn patience_is_told_per_client() {
    let mut host = Host::default();
    for i in 0..4 {
        tell(
            &mut host,
            100 * SECOND,
            gave_up("10.0.0.7:1", 100 * SECOND, 3 * SECOND + i),
        );
        tell(
            &mut host,
            100 * SECOND,
            gave_up("10.0.0.8:1", 100 * SECOND, i * SECOND),
        );
    }
    let wait = |host: &Host, client: &str| host.gives_up_after(10, &Address(client.into()));
    assert_eq!(wait(&host, "10.0.0.7:9999").map(|w| w / SECOND), Some(3));
    assert_eq!(wait(&host, "10.0.0.8:1"), None);
    assert_eq!(wait(&host, "unix:"), None);
}

#[test]
fn a_process_is_not_forgotten_for_what_its_corpse_shows() {
    let mut host = Host::default();
    let seen = |started, software, netns, settings: &[(&str, &str)]| {
        let owned = settings.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        Fact::ProcessSeen(Process {
            pid: 7,
            parent: 6,
            name: "python3".into(),
            software,
            settings: owned.collect(),
            started,
            netns,
            sagemaker: false,
            home: Default::default(),
        })
    };
    let known = |host: &Host| {
        let process = host.process(7).expect("it was seen");
        (process.software, process.settings.len(), process.netns)
    };
    let worker = [("timeout", "2")];
    tell(
        &mut host,
        SECOND,
        seen(SECOND, Software::Gunicorn, 1, &worker),
    );
    // Zombies: of the same process, though suspended time is not the same to the nanosecond.
    tell(
        &mut host,
        5 * SECOND,
        seen(SECOND + 7, Software::Other, 0, &[]),
    );
    assert_eq!(known(&host), (Software::Gunicorn, 1, 1));
    tell(
        &mut host,
        5 * SECOND,
        seen(SECOND, Software::Gunicorn, 0, &[]),
    );
    assert_eq!(known(&host), (Software::Gunicorn, 1, 1));
    // Settings read anew count, and the number's next process.
    tell(
        &mut host,
        6 * SECOND,
        seen(SECOND, Software::Gunicorn, 1, &[]),
    );
    assert_eq!(known(&host), (Software::Gunicorn, 0, 1));
    tell(
        &mut host,
        9 * SECOND,
        seen(8 * SECOND, Software::Other, 0, &[]),
    );
    assert_eq!(known(&host), (Software::Other, 0, 0));
}
