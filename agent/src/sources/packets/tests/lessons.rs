//! What teaches that a server passes requests on to another, and what looks like it and does not.

use super::build::*;
use crate::sources::packets::Packets;
use crate::sources::packets::flow::Flow;

const PROXY: &str = "127.0.0.1:8080";
const UPSTREAM: &str = "127.0.0.1:9000";
const OUTER: &str = "127.0.0.1:8000";
/// Different requests: more than it takes.
const REQUESTS: u16 = 4;

/// One request on a connection to each of two servers.
struct Pair {
    outer: Connection,
    inner: Connection,
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The request that came to the proxy at this time goes on a tenth of a millisecond later.
fn pair(wire: &mut Wire, at: f64, i: u16) -> Pair {
    let ask = request("GET", &format!("/{i}"));
    let mut outer = wire.at(at - 0.2).open(&local(5000 + i), PROXY);
    let mut inner = wire.at(at - 0.1).open(&local(6000 + i), UPSTREAM);
    wire.at(at).send(&mut outer, CLIENT, &ask);
    wire.at(at + 0.1).send(&mut inner, CLIENT, &ask);
    Pair { outer, inner }
}

/// So many requests of this kind, each a second after the last, and what was made of them.
fn taught(how: impl Fn(&mut Wire, f64, &mut Pair)) -> Packets {
    let mut wire = Wire::default();
    for i in 0..REQUESTS {
        let at = 1000.0 * f64::from(i + 1);
        let mut pair = pair(&mut wire, at, i);
        how(&mut wire, at, &mut pair);
    }
    read(&mut wire)
}

fn read(wire: &mut Wire) -> Packets {
    let last = 1000.0 * f64::from(REQUESTS + 3);
    wire.at(last).open("10.7.0.1:7000", "10.7.0.2:7001");
    wire.packets.sort_by_key(|packet| packet.at);
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    for (i, packet) in wire.packets.iter().enumerate() {
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    source
}

fn agree(source: &Packets, from: &str, to: &str) -> bool {
    let passes = &source.hosts.passes;
    passes.agree(from.parse().unwrap(), to.parse().unwrap())
}

fn goes_on(source: &Packets, from: &str, to: &str) -> bool {
    let content = crate::sources::packets::exchange::content(b"GET", b"/0");
    let passes = &source.hosts.passes;
    passes.goes_on(from.parse().unwrap(), to.parse().unwrap(), content)
}

fn is_upstream(source: &Packets, c: &Connection) -> bool {
    let (key, _) = source.key(c.client, c.server);
    let index = source.flows.find(&key, source.flows.hash(&key)).unwrap();
    source.flows.at(index).is(Flow::UPSTREAM)
}

#[test]
fn an_answer_that_came_back_teaches() {
    let source = taught(|wire, at, p| {
        wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
        wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
    });
    assert!(agree(&source, PROXY, UPSTREAM) && !agree(&source, UPSTREAM, PROXY));
    assert!(source.lessons.is_empty());
}

#[test]
fn an_answer_that_came_later_or_never_does_not() {
    let later = taught(|wire, at, p| {
        wire.at(at + 0.2).send(&mut p.outer, SERVER, &response(200));
        wire.at(at + 0.3).send(&mut p.inner, SERVER, &response(200));
    });
    let never = taught(|wire, at, p| {
        wire.at(at + 0.2).send(&mut p.outer, SERVER, &response(200));
    });
    for source in [later, never] {
        assert!(!agree(&source, PROXY, UPSTREAM) && goes_on(&source, PROXY, UPSTREAM));
        // Nothing is waited for that cannot come any more.
        assert!(source.lessons.is_empty());
    }
}

#[test]
fn a_failure_that_the_upstream_ended_teaches_if_the_answer_is_one() {
    let reset = |status: u16| {
        taught(move |wire, at, p| {
            wire.at(at + 5.0).push(&mut p.inner, SERVER, 0x14, b"");
            wire.at(at + 5.1)
                .send(&mut p.outer, SERVER, &response(status));
        })
    };
    assert!(agree(&reset(502), PROXY, UPSTREAM));
    assert!(!agree(&reset(200), PROXY, UPSTREAM));
    let after = taught(|wire, at, p| {
        wire.at(at + 500.0)
            .send(&mut p.outer, SERVER, &response(502));
        wire.at(at + 505.0).fin(&mut p.inner, SERVER);
    });
    assert!(!agree(&after, PROXY, UPSTREAM));
}

#[test]
fn what_a_timer_gave_up_teaches_at_its_answer() {
    let given_up = |ended: f64, answered: f64| {
        taught(move |wire, at, p| {
            wire.at(at + ended).fin(&mut p.inner, CLIENT);
            wire.at(at + answered)
                .send(&mut p.outer, SERVER, &response(504));
        })
    };
    // Before the answer or behind it, but at once.
    assert!(agree(&given_up(500.0, 500.1), PROXY, UPSTREAM));
    assert!(agree(&given_up(505.0, 500.0), PROXY, UPSTREAM));
    // Though it was looked at in between.
    let looked_at = taught(|wire, at, p| {
        wire.at(at + 455.0).ack(&mut p.outer, SERVER);
        wire.at(at + 500.0)
            .send(&mut p.outer, SERVER, &response(504));
        wire.at(at + 506.0).ack(&mut p.outer, CLIENT);
        wire.at(at + 512.0).fin(&mut p.inner, CLIENT);
    });
    assert!(agree(&looked_at, PROXY, UPSTREAM));
    // Long before it, and sooner than any timer.
    assert!(!agree(&given_up(300.0, 500.0), PROXY, UPSTREAM));
    assert!(!agree(&given_up(50.0, 50.1), PROXY, UPSTREAM));
}

#[test]
fn a_client_that_left_teaches_nothing() {
    let source = taught(|wire, at, p| {
        wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
        wire.at(at + 0.3).push(&mut p.outer, CLIENT, 0x14, b"");
    });
    assert!(!agree(&source, PROXY, UPSTREAM));
}

/// Who asks from elsewhere is no part of the proxy's host after two requests.
#[test]
fn requests_alike_from_another_host_teach_nothing_at_first() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let mut other = wire.at(0.1).open("10.0.0.7:6000", "10.0.0.2:9000");
    for i in 0..2 {
        let at = 1.0 + 100.0 * f64::from(i);
        let path = format!("/{i}");
        exchanged(&mut wire, [&mut front, &mut other], at, &path, 200);
    }
    let source = read(&mut wire);
    assert!(!agree(&source, "10.0.0.1:80", "10.0.0.2:9000") && !is_upstream(&source, &other));
}

/// An equal request is with the upstream already: its client may have asked the proxy's address, too.
#[test]
fn an_equal_request_with_the_same_server_leaves_it_open() {
    let beside = |answered: f64| {
        let mut wire = Wire::default();
        for i in 0..REQUESTS {
            let at = 1000.0 * f64::from(i + 1);
            let ask = request("GET", &format!("/{i}"));
            let mut third = wire.at(at - 50.0).open(&local(7000 + i), UPSTREAM);
            wire.send(&mut third, CLIENT, &ask);
            let mut p = pair(&mut wire, at, i);
            wire.at(at + answered)
                .send(&mut third, SERVER, &response(200));
            wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
            wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
        }
        read(&mut wire)
    };
    assert!(!agree(&beside(0.15), PROXY, UPSTREAM));
    // It was over before.
    assert!(agree(&beside(-40.0), PROXY, UPSTREAM));
}

/// Two servers have it: which of them passed it on is not seen.
#[test]
fn a_request_with_two_servers_teaches_of_neither() {
    let mut wire = Wire::default();
    for i in 0..REQUESTS {
        let at = 1000.0 * f64::from(i + 1);
        let mut before = wire.at(at - 0.5).open(&local(7000 + i), OUTER);
        let ask = request("GET", &format!("/{i}"));
        wire.at(at - 0.4).send(&mut before, CLIENT, &ask);
        let mut p = pair(&mut wire, at, i);
        wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
        wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
        wire.at(at + 0.4).send(&mut before, SERVER, &response(200));
    }
    let source = read(&mut wire);
    assert!(agree(&source, OUTER, PROXY));
    for server in [OUTER, PROXY] {
        assert!(!agree(&source, server, UPSTREAM) && !goes_on(&source, server, UPSTREAM));
    }
}

/// What is known is not turned round by checks that go the other way.
#[test]
fn what_is_known_is_not_turned_round() {
    let mut wire = Wire::default();
    for i in 0..12 {
        let at = 1000.0 * f64::from(i + 1);
        let mut p = pair(&mut wire, at, i);
        if i < 3 {
            wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
            wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
            continue;
        }
        let check = request("GET", &format!("/check/{i}"));
        wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
        wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
        let mut slow = wire.at(at + 100.0).open(&local(7000 + i), UPSTREAM);
        wire.send(&mut slow, CLIENT, &check);
        let mut fast = wire.at(at + 100.1).open(&local(8100 + i), PROXY);
        wire.send(&mut fast, CLIENT, &check);
        wire.at(at + 100.2).send(&mut fast, SERVER, &response(200));
        wire.at(at + 100.3).send(&mut slow, SERVER, &response(200));
    }
    let source = read(&mut wire);
    assert!(agree(&source, PROXY, UPSTREAM));
}

/// Of a target that the snap length cut, others begin alike.
#[test]
fn cut_targets_teach_nothing() {
    let mut wire = Wire::default();
    for i in 0..REQUESTS {
        let at = 1000.0 * f64::from(i + 1);
        let mut p = pair(&mut wire, at, i);
        wire.at(at + 0.2).send(&mut p.inner, SERVER, &response(200));
        wire.at(at + 0.3).send(&mut p.outer, SERVER, &response(200));
    }
    for packet in &mut wire.packets {
        if packet.payload.starts_with(b"GET ") {
            packet.payload.truncate(b"GET /0".len());
        }
    }
    assert!(!agree(&read(&mut wire), PROXY, UPSTREAM));
}

/// Of a known proxy a request is its attempt at once, unless it may be somebody else's.
#[test]
fn of_a_known_proxy_a_request_is_an_attempt_at_once() {
    let begun = |from: &str, other: bool| {
        let mut wire = Wire::default();
        let (proxy, upstream) = ("10.0.0.1:80", "10.0.0.2:9000");
        let mut front = wire.at(0.0).open("10.0.0.9:5000", proxy);
        let mut back = wire.at(0.1).open("10.0.0.1:6000", upstream);
        for i in 0..3 {
            let at = 1.0 + 100.0 * f64::from(i);
            let path = format!("/{i}");
            exchanged(&mut wire, [&mut front, &mut back], at, &path, 200);
        }
        let ask = request("GET", "/last");
        if other {
            // Somebody asks another port of the proxy's host the same.
            let mut third = wire.at(599.0).open("10.0.0.9:5001", "10.0.0.1:81");
            wire.at(600.05).send(&mut third, CLIENT, &ask);
        }
        wire.at(600.0).send(&mut front, CLIENT, &ask);
        let mut next = wire.at(600.1).open(from, upstream);
        wire.at(600.2).send(&mut next, CLIENT, &ask);
        is_upstream(&read(&mut wire), &next)
    };
    assert!(begun("10.0.0.1:6001", false));
    assert!(!begun("10.0.0.7:6001", false));
    assert!(!begun("10.0.0.1:6001", true));
}

#[test]
fn answers_are_waited_for_in_bounded_number() {
    let mut wire = Wire::default();
    for i in 0..600 {
        pair(&mut wire, 1.0 + f64::from(i), i);
    }
    assert_eq!(read(&mut wire).lessons.len(), 512);
}

/// What was learned from two hosts' requests when the inner one was forgotten long before the outer one
/// was answered; `between` may use its place again.
fn forgotten(between: impl Fn(&mut Wire, &mut Connection)) -> Packets {
    let (mut wire, ask) = (Wire::default(), request("GET", "/slow"));
    let mut outer = wire.at(0.0).open("10.0.0.9:5000", FAR_PROXY);
    let mut inner = wire.at(0.1).open("10.0.0.1:6000", FAR_UPSTREAM);
    wire.at(1.0).send(&mut outer, CLIENT, &ask);
    wire.at(1.1).send(&mut inner, CLIENT, &ask);
    wire.at(1.2).send(&mut inner, SERVER, &response(200));
    // The inner one is forgotten a second after its answer.
    for at in [600.0, 1045.0] {
        wire.at(at).ack(&mut inner, CLIENT);
    }
    between(wire.at(1046.0), &mut inner);
    wire.at(1047.0).send(&mut outer, SERVER, &response(200));
    read(&mut wire)
}

const FAR_PROXY: &str = "10.0.0.1:80";
const FAR_UPSTREAM: &str = "10.0.0.2:9000";

/// What it was is not known any more.
#[test]
fn a_request_that_was_forgotten_teaches_nothing() {
    let source = forgotten(|_, _| {});
    assert!(!agree(&source, FAR_PROXY, FAR_UPSTREAM) && source.lessons.is_empty());
}

#[test]
fn nor_does_another_connections_request_in_its_place() {
    let other = "10.0.0.3:7000";
    let source = forgotten(|wire, _| {
        let mut third = wire.open("10.0.0.1:6100", other);
        wire.send(&mut third, CLIENT, &request("GET", "/other"));
        wire.at(1046.5).send(&mut third, SERVER, &response(200));
    });
    assert!(!agree(&source, FAR_PROXY, other) && source.lessons.is_empty());
}

#[test]
fn nor_does_the_next_request_of_its_connection() {
    let source = forgotten(|wire, inner| {
        wire.send(inner, CLIENT, &request("GET", "/next"));
        wire.at(1046.5).send(inner, SERVER, &response(200));
    });
    assert!(!agree(&source, FAR_PROXY, FAR_UPSTREAM) && source.lessons.is_empty());
}
