//! Who is taken for a proxy: what checks, strangers and requests that nobody waits for do not teach.

use super::build::*;
use crate::cause::Cause;

const PROXY: &str = "127.0.0.1:8080";
const UPSTREAM: &str = "127.0.0.1:9000";
const OTHER: &str = "127.0.0.1:9001";
const ANSWERED: &str = "verdict 503 upstream_answered proven";

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Equal requests of somebody who asks two servers at once; the first is always slower.
fn checks(wire: &mut Wire, slow: &mut Connection, fast: &mut Connection, times: u32) {
    let check = request("GET", "/healthz");
    for i in 0..times {
        let at = 10.0 + 100.0 * f64::from(i);
        wire.at(at).send(slow, CLIENT, &check);
        wire.at(at + 0.1).send(fast, CLIENT, &check);
        wire.at(at + 0.2).send(fast, SERVER, &response(200));
        wire.at(at + 0.3).send(slow, SERVER, &response(200));
    }
}

/// A proxy checks both of its upstreams for one path; then one of them answers with failures.
#[test]
fn checks_make_no_upstream_a_proxy() {
    let mut wire = Wire::default();
    let mut one = wire.at(0.0).open(&local(6000), UPSTREAM);
    let mut two = wire.at(0.1).open(&local(6001), OTHER);
    checks(&mut wire, &mut one, &mut two, 20);
    let mut front = wire.at(3000.0).open(&local(5000), PROXY);
    let mut back = wire.at(3000.1).open(&local(6002), UPSTREAM);
    for i in 0..6 {
        let (at, path) = (3001.0 + f64::from(i), format!("/{i}"));
        exchanged(&mut wire, [&mut front, &mut back], at, &path, 503);
    }
    assert_eq!(labels(&wire.packets), [ANSWERED; 6]);
}

/// A proxy that was asked nothing yet checks two upstreams at once, of which one refuses.
#[test]
fn a_check_that_is_answered_hides_none_that_is_refused() {
    let checked = |by: Option<&str>| {
        let mut wire = Wire::default();
        let mut check = wire.at(1.0).open(&local(6000), OTHER);
        wire.send(&mut check, CLIENT, &request("GET", "/healthz"));
        let mut refused = wire.connection(&local(6001), "127.0.0.1:9002");
        wire.at(1.4).syn(&mut refused);
        wire.at(1.41).push(&mut refused, SERVER, 0x14, b"");
        wire.at(4.0).send(&mut check, SERVER, &response(200));
        if let Some(upstream) = by {
            let mut front = wire.at(10.0).open(&local(5000), PROXY);
            let mut back = wire.at(10.1).open(&local(6002), upstream);
            for at in [11.0, 12.0] {
                let path = format!("/{at}");
                exchanged(&mut wire, [&mut front, &mut back], at, &path, 200);
            }
        }
        // The capture goes on.
        let mut last = wire.at(3000.0).open(&local(5001), UPSTREAM);
        wire.send(&mut last, CLIENT, &request("GET", "/last"));
        wire.at(3001.0).send(&mut last, SERVER, &response(200));
        let labels = labels(&wire.packets);
        labels.iter().filter(|l| l.contains("verdict")).count()
    };
    assert_eq!(checked(Some(OTHER)), 0);
    assert_eq!(checked(Some(UPSTREAM)), 0);
    // Nobody else is known to be a proxy.
    assert_eq!(checked(None), 1);
}

/// The same where the slow upstream is on another host: it is not this one.
#[test]
fn a_check_beside_one_of_another_host_does_not_make_both_one_host() {
    let mut wire = Wire::default();
    let mut far = wire.at(0.0).open("10.9.0.1:6000", "10.9.0.2:9000");
    let mut near = wire.at(0.1).open(&local(6001), OTHER);
    checks(&mut wire, &mut far, &mut near, 20);
    let mut front = wire.at(3000.0).open(&local(5000), PROXY);
    let mut back = wire.at(3000.1).open("10.9.0.1:6002", "10.9.0.2:9000");
    for i in 0..6 {
        let (at, path) = (3001.0 + f64::from(i), format!("/{i}"));
        exchanged(&mut wire, [&mut front, &mut back], at, &path, 503);
    }
    assert_eq!(labels(&wire.packets), [ANSWERED; 6]);
}

/// Clients for one path who reset as soon as they have asked: the next one's request did not come from
/// the upstream that still has the last one's.
#[test]
fn requests_that_nobody_waits_for_do_not_turn_roles_round() {
    let mut wire = Wire::default();
    let check = request("GET", "/healthz");
    let mut back = wire.at(0.0).open(&local(6000), UPSTREAM);
    for i in 0..4_u16 {
        let at = 10.0 + 100.0 * f64::from(i);
        for (asks, after) in [(2 * i, 0.0), (2 * i + 1, 5.0)] {
            let mut front = wire.at(at + after).open(&local(5000 + asks), PROXY);
            wire.send(&mut front, CLIENT, &check);
            wire.at(at + after + 0.05)
                .push(&mut front, CLIENT, 0x14, b"");
            if after == 0.0 {
                wire.at(at + 0.1).send(&mut back, CLIENT, &check);
            }
        }
        wire.at(at + 20.0).send(&mut back, SERVER, &response(200));
    }
    let told = labels(&wire.packets);
    assert!(told.iter().all(|l| !l.starts_with("verdict")), "{told:?}");
}

/// An upstream on another host that nothing is heard of: the proxy asks from another address than it is
/// asked at, and no answer ever tells that both are one host's.
#[test]
fn what_is_given_up_late_is_told_once_where_the_proxy_has_two_addresses() {
    let mut wire = Wire::default();
    for (i, alike) in [1, 1, 1, 3, 3].into_iter().enumerate() {
        let (at, ask) = (5000.0 * i as f64, request("GET", &format!("/{i}")));
        let port = |j: u16| 10 * i as u16 + j;
        let mut fronts: Vec<_> = (0..alike)
            .map(|j| wire.at(at).open(&local(5000 + port(j)), PROXY))
            .collect();
        for front in &mut fronts {
            wire.at(at + 1.0).send(front, CLIENT, &ask);
        }
        let mut backs: Vec<_> = (0..alike)
            .map(|j| format!("10.9.0.1:{}", 6000 + port(j)))
            .map(|from| wire.at(at + 110.0).open(&from, "10.9.0.2:9000"))
            .collect();
        for back in &mut backs {
            wire.at(at + 150.0).send(back, CLIENT, &ask);
            wire.at(at + 180.0).ack(back, SERVER);
        }
        for (j, (front, back)) in fronts.iter_mut().zip(&mut backs).enumerate() {
            let over = at + 1500.0 + j as f64;
            wire.at(over).fin(back, CLIENT);
            wire.at(over + 0.05).send(front, SERVER, &response(504));
        }
    }
    let told = labels(&wire.packets);
    let waited = |l: &String| l.starts_with("verdict 504 read_timeout_no_reply");
    assert!(told.len() == 9 && told.iter().all(waited), "{told:?}");
}

/// Two tiers are named; the second one's upstream is down from the start, so that it passes nothing on.
#[test]
fn a_named_second_tier_stays_one_though_it_only_fails() {
    let mut wire = Wire::default();
    for i in 0..3_u16 {
        let (at, ask) = (100.0 * f64::from(i), request("GET", &format!("/{i}")));
        let mut outer = wire
            .at(at)
            .open(&format!("10.0.0.9:{}", 5000 + i), "10.0.0.1:80");
        wire.at(at + 1.0).send(&mut outer, CLIENT, &ask);
        let mut inner = wire
            .at(at + 1.1)
            .open(&format!("10.0.0.1:{}", 6000 + i), "10.0.0.2:80");
        wire.at(at + 1.2).send(&mut inner, CLIENT, &ask);
        let mut refused = wire.connection(&format!("10.0.0.2:{}", 7000 + i), "10.0.0.3:9000");
        wire.at(at + 1.3).syn(&mut refused);
        wire.at(at + 1.4).push(&mut refused, SERVER, 0x14, b"");
        wire.at(at + 1.5).send(&mut inner, SERVER, &response(502));
        wire.at(at + 1.6).send(&mut outer, SERVER, &response(502));
    }
    let named = verdicts(&wire.packets, &["10.0.0.1", "10.0.0.2"]);
    let refused = named.iter().map(label);
    let refused = refused.filter(|l| l.starts_with("verdict 502 connection_refused"));
    assert_eq!(
        refused.count(),
        3,
        "{:?}",
        named.iter().map(label).collect::<Vec<_>>()
    );
}

/// Two tiers and the upstream behind them have the one address that is named: the upstream's own answer
/// is no third proxy's, and what a tier was refused is a near miss as without the name.
#[test]
fn of_tiers_at_the_named_address_none_has_a_verdict_that_is_not_its_own() {
    let told = |refused: bool, proxies: &[&str]| {
        let (mut wire, status) = (Wire::default(), if refused { 502 } else { 503 });
        for i in 0..4_u16 {
            let (at, ask) = (100.0 * f64::from(i), request("GET", &format!("/{i}")));
            let mut outer = wire.at(at).open(&local(5000 + i), PROXY);
            wire.at(at + 1.0).send(&mut outer, CLIENT, &ask);
            let mut inner = wire.at(at + 1.1).open(&local(6000 + i), "127.0.0.1:8081");
            wire.at(at + 1.2).send(&mut inner, CLIENT, &ask);
            if refused {
                let mut back = wire.connection(&local(7000 + i), UPSTREAM);
                wire.at(at + 1.3).syn(&mut back);
                wire.at(at + 1.4).push(&mut back, SERVER, 0x14, b"");
            } else {
                let mut back = wire.at(at + 1.3).open(&local(7000 + i), UPSTREAM);
                wire.send(&mut back, CLIENT, &ask);
                wire.at(at + 1.4).send(&mut back, SERVER, &response(status));
            }
            wire.at(at + 1.5)
                .send(&mut inner, SERVER, &response(status));
            wire.at(at + 1.6)
                .send(&mut outer, SERVER, &response(status));
        }
        let mut told: Vec<String> = verdicts(&wire.packets, proxies).iter().map(label).collect();
        told.sort();
        told
    };
    for refused in [false, true] {
        let (unnamed, named) = (told(refused, &[]), told(refused, &["127.0.0.1"]));
        assert_eq!(named, unnamed);
        assert!(named.iter().all(|l| !l.contains("unknown")), "{named:?}");
        let answered = format!(
            "verdict {} upstream_answered proven",
            if refused { 502 } else { 503 }
        );
        assert_eq!(
            named.iter().filter(|l| **l == answered).count(),
            4,
            "{named:?}"
        );
    }
}

#[test]
fn tiers_on_one_host_are_told_apart() {
    let mut wire = Wire::default();
    let mut outer = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:8000");
    wire.send(&mut outer, CLIENT, &request("GET", "/slow"));
    let mut inner = wire.at(0.2).open("127.0.0.1:5100", "127.0.0.1:8080");
    wire.send(&mut inner, CLIENT, &request("GET", "/slow"));
    let mut app = wire.at(0.4).open("127.0.0.1:5200", "127.0.0.1:9000");
    wire.send(&mut app, CLIENT, &request("GET", "/slow"));
    wire.ack(&mut app, SERVER);
    // The tier in front gives up first, the one behind it a moment later.
    wire.at(3000.4).send(&mut outer, SERVER, &response(504));
    wire.at(3000.5).fin(&mut inner, CLIENT);
    wire.at(3001.5).fin(&mut app, CLIENT);
    let mut told = labels(&wire.packets);
    told.sort();
    assert_eq!(
        told,
        [
            "nearmiss - downstream_gave_up likely (exchange_link)",
            "verdict 504 read_timeout_no_reply likely (upstream_read, upstream_accepted)",
        ]
    );
    let near_miss = verdicts(&wire.packets, &[]);
    let near_miss = near_miss
        .iter()
        .find(|d| d.diagnosis.cause == Cause::DownstreamGaveUp);
    let upstream = &near_miss.unwrap().attempts[0].attempt.upstream;
    assert_eq!(upstream.0, "127.0.0.1:9000");
}

/// A request of the proxy's own, whose client is not seen: a check that the server closes unanswered.
fn check(wire: &mut Wire, at: f64, from: &str, to: &str) {
    let mut check = wire.at(at).open(from, to);
    wire.at(at + 1.0)
        .send(&mut check, CLIENT, &request("GET", "/check"));
    wire.at(at + 1.1).ack(&mut check, SERVER);
    wire.at(at + 2.0).fin(&mut check, SERVER);
    wire.at(at + 2.1).fin(&mut check, CLIENT);
}

const MISSED: &str = "nearmiss - upstream_closed_early/no_bytes likely (upstream_read)";

/// Named are two tiers: what the one asks the other is a request to a proxy, not to an upstream.
#[test]
fn a_named_proxy_that_asks_another_named_one_misses_nothing_of_its_own() {
    let told = |checked: &str| {
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
        wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
        wire.at(1.1).send(&mut front, SERVER, &response(200));
        check(&mut wire, 100.0, "10.0.0.1:6000", checked);
        let named = verdicts(&wire.packets, &["10.0.0.1", "10.0.0.2"]);
        named.iter().map(label).collect::<Vec<_>>()
    };
    assert_eq!(told("10.0.0.3:9000"), [MISSED]);
    assert!(told("10.0.0.2:80").is_empty());
}

/// The upstream has the proxy's address, which is named: requests that go on to it tell that it is none.
#[test]
fn an_upstream_at_the_named_address_is_no_proxy_once_requests_went_on_to_it() {
    let told = |requests: u16| {
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open(&local(5000), PROXY);
        let mut back = wire.at(0.1).open(&local(6000), UPSTREAM);
        wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
        wire.at(1.1).send(&mut front, SERVER, &response(200));
        for i in 0..requests {
            let (at, path) = (100.0 * f64::from(i + 1), format!("/{i}"));
            exchanged(&mut wire, [&mut front, &mut back], at, &path, 200);
        }
        check(&mut wire, 1000.0, &local(7000), UPSTREAM);
        let named = verdicts(&wire.packets, &["127.0.0.1"]);
        named.iter().map(label).collect::<Vec<_>>()
    };
    assert_eq!(told(3), [MISSED]);
    // Without them it may be the next tier.
    assert!(told(0).is_empty());
}
