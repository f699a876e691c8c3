//! Several network namespaces at once: each has a loopback of its own, and proxies of its own.

use std::net::SocketAddr;

use super::build::*;
use super::crowd::path;
use crate::https::Ports;
use crate::signal::{Fact, Signal};
use crate::sources::packets::Packets;
use crate::sources::packets::serving::{Own, Owners};
use crate::sources::process::Served;
use crate::track::{Decided, Tracker};

/// One exchange by way of a proxy on loopback; `fails`: the upstream closes instead of answering.
fn exchange(begin: f64, client: u16, fails: bool) -> Vec<Packet> {
    let mut wire = Wire::default();
    let front = format!("127.0.0.1:{client}");
    let mut front = wire.at(begin).open(&front, "127.0.0.1:80");
    let mut back = wire.at(begin).open("127.0.0.1:4000", "127.0.0.1:9000");
    wire.at(begin + 1.0)
        .send(&mut front, CLIENT, &request("GET", "/health"));
    wire.at(begin + 1.1)
        .send(&mut back, CLIENT, &request("GET", "/health"));
    let status = if fails { 502 } else { 200 };
    match fails {
        true => wire.at(begin + 2.0).fin(&mut back, SERVER),
        false => wire.at(begin + 2.0).send(&mut back, SERVER, &response(200)),
    }
    wire.at(begin + 2.1)
        .send(&mut front, SERVER, &response(status));
    wire.packets
}

/// What packets of several namespaces tell, in the order of their times.
fn follow(spaces: &[Vec<Packet>], owners: Owners) -> Vec<Signal> {
    let mut all: Vec<(u32, &Packet)> = spaces
        .iter()
        .zip(0..)
        .flat_map(|(packets, space)| packets.iter().map(move |packet| (space, packet)))
        .collect();
    all.sort_by_key(|(_, packet)| packet.at);
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    source.set_owners(owners);
    for (number, (space, packet)) in all.into_iter().enumerate() {
        source.set_namespace(space);
        source.segment(&packet.segment(number as u64 + 1), &mut out);
    }
    source.finish(&mut out);
    out
}

fn decide(signals: &[Signal]) -> Vec<Decided> {
    let mut tracker = Tracker::default();
    let mut decided: Vec<_> = signals.iter().flat_map(|s| tracker.observe(s)).collect();
    decided.extend(tracker.finish());
    decided
}

#[test]
fn equal_requests_of_two_namespaces_are_not_taken_for_each_other() {
    let spaces = [exchange(0.0, 5000, true), exchange(0.3, 5001, true)];
    let decided = decide(&follow(&spaces, Owners::default()));
    // As sure as if the other namespace were not there.
    let alone = decide(&follow(&spaces[..1], Owners::default()));
    let labels: Vec<String> = decided.iter().map(label).collect();
    assert_eq!(labels, [label(&alone[0]), label(&alone[0])]);
    for (failed, client) in decided.iter().zip(["127.0.0.1:5000", "127.0.0.1:5001"]) {
        assert_eq!(failed.attempts.len(), 1);
        let response = &failed.response.as_ref().unwrap().2;
        assert_eq!(response.client.as_ref().unwrap().0, client);
    }
}

fn served(at: &str, pid: u32) -> Served {
    Served {
        local: Default::default(),
        listeners: vec![(at.parse::<SocketAddr>().unwrap(), Some(pid))],
    }
}

/// Who the proxy is in each failed response, and in its attempt.
fn proxies(signals: &[Signal]) -> Vec<(u32, u32)> {
    let attempt = |s: &Signal| match &s.fact {
        Fact::AttemptEnded(attempt) => Some(attempt.proxy),
        _ => None,
    };
    let response = |s: &Signal| match &s.fact {
        Fact::ResponseSent(response) => Some(response.proxy),
        _ => None,
    };
    let attempts = signals.iter().filter_map(attempt);
    signals.iter().filter_map(response).zip(attempts).collect()
}

#[test]
fn the_proxy_is_the_process_that_serves_its_address() {
    let spaces = [exchange(0.0, 5000, true), exchange(10.0, 5000, true)];
    let owners = Owners::new(vec![
        (0, served("127.0.0.1:80", 7)),
        (1, served("0.0.0.0:80", 8)),
    ]);
    assert_eq!(proxies(&follow(&spaces, owners)), [(7, 7), (8, 8)]);

    // Nobody is known to serve it: a number, larger than any process id.
    let owners = Owners::new(vec![(0, served("127.0.0.1:81", 7))]);
    let found = proxies(&follow(&spaces, owners));
    assert!(found[0].0 == found[0].1 && found[1].0 == found[1].1);
    assert!(found[0].0 != found[1].0 && found[0].0 >= 1 << 22 && found[1].0 >= 1 << 22);
}

#[test]
fn an_upstream_that_closes_idle_connections_is_told_of_the_proxy_that_asked() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:80");
    let mut back = wire.at(0.0).open("127.0.0.1:4000", "127.0.0.1:9000");
    for at in [1.0, 5.0] {
        wire.at(at).send(&mut front, CLIENT, &request("GET", "/a"));
        wire.at(at + 0.1)
            .send(&mut back, CLIENT, &request("GET", "/a"));
        wire.at(at + 1.0).send(&mut back, SERVER, &response(200));
        wire.at(at + 1.1).send(&mut front, SERVER, &response(200));
    }
    wire.at(2000.0).fin(&mut back, SERVER);
    let owners = Owners::new(vec![(0, served("127.0.0.1:80", 7))]);
    let signals = follow(&[wire.packets], owners);
    let mut closes = signals.iter().filter_map(|s| match &s.fact {
        Fact::IdleClosed(close) => Some(close.proxy),
        _ => None,
    });
    assert_eq!((closes.next(), closes.next()), (Some(7), None));
}

/// Nothing was asked.
static NONE: Ports = Ports::new();

/// Our own server says 503 until we are ready.
#[test]
fn what_we_answer_ourselves_is_no_proxys_failure() {
    let told = |own: u32, behind: bool| {
        let mut wire = Wire::default();
        let mut probe = wire.at(0.0).open("127.0.0.1:4000", "127.0.0.1:9502");
        if behind {
            let mut front = wire.at(1.0).open("127.0.0.1:5000", "127.0.0.1:80");
            exchanged(&mut wire, [&mut front, &mut probe], 2.0, "/readyz", 503);
        } else {
            let ask = request("GET", "/readyz");
            wire.at(2.0).send(&mut probe, CLIENT, &ask);
            wire.at(2.1).send(&mut probe, SERVER, &response(503));
            // And one that it leaves without an answer.
            wire.at(500.0).send(&mut probe, CLIENT, &ask);
            wire.at(2500.0).fin(&mut probe, SERVER);
        }
        let owners = Owners::new(vec![(0, served("0.0.0.0:9502", 7))]).with_own(Own {
            pid: own,
            space: None,
            ports: &NONE,
        });
        let decided = decide(&follow(&[wire.packets], owners));
        decided.iter().map(label).collect::<Vec<_>>()
    };
    assert!(told(7, false).is_empty());
    assert_eq!(told(8, false).len(), 2);
    // As any upstream it may be why a proxy fails.
    for own in [7, 8] {
        assert_eq!(told(own, true), ["verdict 503 upstream_answered proven"]);
    }
}

fn ours() -> Owners {
    Owners::new(vec![(0, served("0.0.0.0:9502", 7))]).with_own(Own {
        pid: 7,
        space: None,
        ports: &NONE,
    })
}

/// Though our client had waited longer.
#[test]
fn what_a_proxy_was_refused_is_none_of_ours() {
    let mut wire = Wire::default();
    let mut probe = wire.at(0.0).open("127.0.0.1:4000", "127.0.0.1:9502");
    wire.at(0.8)
        .send(&mut probe, CLIENT, &request("GET", "/readyz"));
    let mut front = wire.at(0.85).open("127.0.0.1:5000", "127.0.0.1:80");
    wire.at(0.9).send(&mut front, CLIENT, &request("GET", "/a"));
    let mut refused = wire.connection("127.0.0.1:4001", "127.0.0.1:9000");
    wire.at(1.0).syn(&mut refused);
    wire.at(1.1).push(&mut refused, SERVER, 0x14, b"");
    wire.at(1.2).send(&mut probe, SERVER, &response(503));
    wire.at(1.3).send(&mut front, SERVER, &response(502));
    let decided = decide(&follow(&[wire.packets], ours()));
    let told: Vec<_> = decided.iter().map(|d| (path(d), label(d))).collect();
    let expected = "verdict 502 connection_refused likely (exchange_link)";
    assert_eq!(told, [(Some("/a".to_owned()), expected.to_owned())]);
}

/// We have not answered yet.
#[test]
fn a_proxys_check_of_the_same_path_is_no_attempt_of_ours() {
    let mut wire = Wire::default();
    let mut probe = wire.at(0.0).open("127.0.0.1:4000", "127.0.0.1:9502");
    wire.at(0.8)
        .send(&mut probe, CLIENT, &request("GET", "/readyz"));
    let mut check = wire.at(0.9).open("127.0.0.1:4001", "127.0.0.1:9000");
    wire.at(1.0)
        .send(&mut check, CLIENT, &request("GET", "/readyz"));
    wire.at(1.1).ack(&mut check, SERVER);
    wire.at(200.0).fin(&mut check, SERVER);
    let decided = decide(&follow(&[wire.packets], ours()));
    assert!(decided.is_empty(), "{decided:?}");
}

/// A collector that takes nothing now, and one that is not there while a proxy fails for another reason.
#[test]
fn what_we_ask_ourselves_is_no_proxys_failure() {
    let told = |client: u16, answered: bool| {
        let mut wire = Wire::default();
        let collector = ("127.0.0.1:4000", "127.0.0.1:4318");
        if answered {
            let mut sent = wire.at(1.0).open(collector.0, collector.1);
            wire.send(&mut sent, CLIENT, &request("POST", "/v1/logs"));
            wire.at(2.0).send(&mut sent, SERVER, &response(503));
        } else {
            let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:80");
            wire.at(0.9).send(&mut front, CLIENT, &request("GET", "/a"));
            let mut sent = wire.connection(collector.0, collector.1);
            wire.at(1.0).syn(&mut sent);
            wire.at(1.1).push(&mut sent, SERVER, 0x14, b"");
            wire.at(1.2).send(&mut front, SERVER, &response(503));
        }
        let ports: &'static Ports = Box::leak(Box::new(Ports::new()));
        ports.note(client, BEGIN);
        let owners = Owners::new(vec![(0, served("0.0.0.0:80", 7))]).with_own(Own {
            pid: 8,
            space: Some(0),
            ports,
        });
        let decided = decide(&follow(&[wire.packets], owners));
        decided.iter().map(label).collect::<Vec<_>>()
    };
    assert!(told(4000, true).is_empty());
    let unknown = "verdict 503 unknown unknown (upstream_side, proxy_log)";
    assert_eq!(told(4000, false), [unknown]);
    // Somebody else's.
    assert_eq!(told(4001, true), [unknown]);
    assert_eq!(told(4001, false), ["verdict 503 connection_refused proven"]);
}
