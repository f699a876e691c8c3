//! Connects that were refused among several requests: whose they were, and what is not claimed.

use super::build::*;
use super::crowd::*;
use crate::sources::packets::Packets;
use crate::sources::packets::segment::{Frame, Unreachable};

#[test]
fn a_refused_connect_is_the_request_s_that_had_waited_longest() {
    let mut crowd = Crowd::default();
    // nginx reads both; the second fails at once (no such socket), the first when the reset is seen.
    let tcp = crowd.ask(1.0, "/tcp");
    let unix = crowd.ask(1.1, "/unix");
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.answer(1.35, unix, 502);
    crowd.answer(1.4, tcp, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp verdict 502 {REFUSED}"),
            format!("/unix verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_slow_failure_belongs_to_the_request_that_was_taken_up_first() {
    let mut crowd = Crowd::default();
    let unreachable = crowd.ask(1.0, "/unreachable");
    let mut slow = crowd.back("10.0.0.2:9000");
    crowd.wire.at(1.01).syn(&mut slow);
    let refused = crowd.ask(1.1, "/refused");
    crowd.refused(1.11, "10.0.0.3:9000");
    crowd.answer(1.2, refused, 502);
    // A little later a router answers the slow one, and the proxy its client.
    crowd.answer(1.55, unreachable, 502);
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    let last = crowd.wire.packets.len() - 1;
    for (i, packet) in crowd.wire.packets.iter().enumerate() {
        if i == last {
            let error = Unreachable {
                at: packet.at - MS / 20,
                frame: Frame::default(),
                router: "10.0.0.254".parse().unwrap(),
                from: slow.client,
                to: slow.server,
                seq: slow.seq[CLIENT].wrapping_sub(1),
                errno: 113,
            };
            source.unreachable(&error, &mut out);
        }
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    source.finish(&mut out);
    let mut told: Vec<String> = decided(out)
        .iter()
        .map(|decided| format!("{} {}", path(decided).unwrap(), label(decided)))
        .collect();
    told.sort();
    let likely = |cause| format!("verdict 502 {cause} likely (exchange_link)");
    assert_eq!(
        told,
        [
            format!("/refused {}", likely("connection_refused")),
            format!("/unreachable {}", likely("host_unreachable")),
        ]
    );
}

/// Who is asked on loopback asks from an address of which nothing is known but this connect.
#[test]
fn a_refusal_is_told_of_though_its_address_never_asked_anything() {
    let mut wire = Wire::default();
    let mut front = wire.at(1.0).open("127.0.0.1:5000", "127.0.0.1:80");
    wire.send(&mut front, CLIENT, &request("GET", "/a"));
    let mut back = wire.connection("10.0.0.1:4000", "10.0.0.2:9000");
    wire.at(1.2).syn(&mut back);
    wire.at(25.0).push(&mut back, SERVER, 0x14, b"");
    wire.at(25.3).send(&mut front, SERVER, &response(503));
    let mut next = wire.at(1000.0).open("127.0.0.1:5001", "127.0.0.1:80");
    wire.send(&mut next, CLIENT, &request("GET", "/b"));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 connection_refused likely (exchange_link)"]
    );
}

/// By the clocks' doubt the answer came before the reset: it is a refusal all the same, and no wait.
#[test]
fn a_refusal_that_seems_to_come_after_its_answer_is_no_timeout() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.1, "/b"));
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.refused(1.4, "10.0.0.2:9000");
    crowd.answer(1.35, a, 502);
    crowd.answer(1.405, b, 502);
    assert_eq!(
        crowd.told(),
        ["/a", "/b"].map(|path| format!("{path} verdict 502 {REFUSED}"))
    );
}

#[test]
fn a_connect_led_to_no_answer_that_came_before_it_failed() {
    let mut crowd = Crowd::default();
    let unix = crowd.ask(1.0, "/unix");
    let tcp = crowd.ask(1.1, "/tcp");
    crowd.answer(1.25, unix, 502);
    crowd.refused(1.3, "10.0.0.2:9000");
    crowd.answer(1.4, tcp, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp verdict 502 {REFUSED}"),
            format!("/unix verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn a_request_that_waits_elsewhere_gets_no_connect_of_another() {
    let mut crowd = Crowd::default();
    // Answered without an attempt in the capture: the proxy has other upstreams.
    let healthy = crowd.ask(1.0, "/unix/1");
    let slow = crowd.ask(2.0, "/unix/2");
    let first = crowd.ask(3.0, "/tcp/1");
    crowd.refused(3.1, "10.0.0.2:9000");
    crowd.answer(3.2, first, 502);
    crowd.answer(10.0, healthy, 200);
    let second = crowd.ask(2000.0, "/tcp/2");
    crowd.refused(2000.1, "10.0.0.2:9000");
    crowd.answer(2000.15, slow, 502);
    crowd.answer(2000.2, second, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/tcp/1 verdict 502 {REFUSED}"),
            format!("/tcp/2 verdict 502 {REFUSED}"),
            format!("/unix/2 verdict 502 {UNKNOWN}"),
        ]
    );
}

#[test]
fn one_request_s_connects_are_not_shared_out() {
    let mut crowd = Crowd::default();
    let tcp = crowd.ask(1.0, "/tcp");
    let other = crowd.ask(1.05, "/no-live-upstream");
    crowd.refused(1.1, "10.0.0.2:9000");
    crowd.refused(1.2, "10.0.0.3:9000");
    crowd.answer(1.3, tcp, 502);
    crowd.answer(1.35, other, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/no-live-upstream verdict 502 {UNKNOWN}"),
            "/tcp verdict 502 connection_refused likely (exchange_link) → \
             10.0.0.2:9000 10.0.0.3:9000"
                .to_owned(),
        ]
    );
}

#[test]
fn where_servers_differ_none_is_named() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.1, "/b"));
    // So far apart that neither is the other's next try.
    crowd.refused(2.0, "10.0.0.2:9000");
    crowd.refused(6.0, "10.0.0.3:9000");
    crowd.answer(6.1, a, 502);
    crowd.answer(6.2, b, 502);
    assert_eq!(
        crowd.told(),
        ["/a", "/b"]
            .map(|path| format!("{path} verdict 502 connection_refused likely (exchange_link) → "))
    );
}

#[test]
fn a_retry_that_is_refused_decides_not_the_race_before_it() {
    let mut crowd = Crowd::default();
    let mut pooled = Vec::new();
    for i in 0..3 {
        let first = crowd.ask(f64::from(i), &format!("/first/{i}"));
        let mut back = crowd.back("10.0.0.2:9000");
        crowd.wire.syn(&mut back);
        crowd.wire.push(&mut back, SERVER, 0x12, b"");
        crowd.wire.ack(&mut back, CLIENT);
        let get = request("GET", &format!("/first/{i}"));
        crowd.wire.send(&mut back, CLIENT, &get);
        crowd.wire.send(&mut back, SERVER, &response(200));
        crowd.wire.ack(&mut back, CLIENT);
        crowd.answer(f64::from(i) + 0.5, first, 200);
        pooled.push(back);
    }
    // The server dies: pooled connections are reset, new ones refused.
    let fronts: Vec<usize> = (0..3)
        .map(|i| crowd.ask(2000.0, &format!("/second/{i}")))
        .collect();
    for (i, back) in pooled.iter_mut().enumerate() {
        let get = request("GET", &format!("/second/{i}"));
        crowd.wire.at(2000.1).lost(back, CLIENT, 0x18, &get);
        crowd.wire.at(2000.2).fin(back, SERVER);
        crowd.wire.at(2000.3).reset(back, SERVER);
    }
    for _ in 0..3 {
        crowd.refused(2000.4, "10.0.0.2:9000");
    }
    for front in fronts {
        crowd.answer(2000.5, front, 502);
    }
    let attempts = "10.0.0.2:9000 10.0.0.2:9000";
    assert_eq!(
        crowd.told(),
        [0, 1, 2].map(|i| format!(
            "/second/{i} verdict 502 connection_refused likely (exchange_link) → {attempts}"
        ))
    );
}

/// One of two requests alike is refused while the other is still with an upstream, which answers it well.
#[test]
fn an_attempt_that_is_answered_later_was_not_given_up() {
    let mut crowd = Crowd::default();
    let (a, b) = (crowd.ask(1.0, "/a"), crowd.ask(1.01, "/a"));
    crowd.forward(1.1, "/a", 200);
    crowd.refused(1.2, "10.0.0.2:9000");
    crowd.answer(1.3, a, 502);
    crowd.answer(2.2, b, 200);
    assert_eq!(crowd.told(), [format!("/a verdict 502 {REFUSED}")]);
}

#[test]
fn a_health_check_proves_nothing_about_the_request_beside_it() {
    let checked = |before: bool| {
        let mut crowd = Crowd::default();
        if before {
            let first = crowd.ask(0.0, "/first");
            crowd.forward(0.1, "/first", 200);
            crowd.answer(2.0, first, 200);
            crowd.refused(1000.0, "10.0.0.3:9000");
        }
        let own = crowd.ask(3000.0, "/own");
        crowd.refused(3000.2, "10.0.0.3:9000");
        crowd.answer(3000.4, own, 502);
        crowd.told()
    };
    let of_own = |told: Vec<String>| told.into_iter().find(|line| line.starts_with("/own"));
    assert_eq!(
        of_own(checked(false)).unwrap(),
        "/own verdict 502 connection_refused proven → 10.0.0.3:9000"
    );
    assert_eq!(
        of_own(checked(true)).unwrap(),
        "/own verdict 502 connection_refused likely (exchange_link) → 10.0.0.3:9000"
    );
}

/// Interfaces have clocks of their own: only within a connection the order is sure.
#[test]
fn requests_within_the_clocks_doubt_are_in_flight_together() {
    let mut crowd = Crowd::default();
    let first = crowd.ask(1.0, "/first");
    crowd.answer(1.2, first, 502);
    let second = crowd.ask(1.4, "/second");
    crowd.refused(1.5, "10.0.0.2:9000");
    crowd.answer(1.6, second, 502);
    assert_eq!(
        crowd.told(),
        [
            format!("/first verdict 502 {UNKNOWN}"),
            format!("/second verdict 502 {REFUSED}"),
        ]
    );
    let mut crowd = Crowd::default();
    let one = crowd.ask(1.0, "/first");
    crowd.answer(1.2, one, 502);
    let get = request("GET", "/second");
    crowd
        .wire
        .at(1.4)
        .send(&mut crowd.fronts[one], CLIENT, &get);
    crowd.refused(1.5, "10.0.0.2:9000");
    crowd.answer(1.6, one, 502);
    assert_eq!(
        crowd.told()[1],
        "/second verdict 502 connection_refused proven → 10.0.0.2:9000"
    );
}

#[test]
fn a_connect_during_an_attempt_is_not_the_request_s() {
    let mut crowd = Crowd::default();
    let own = crowd.ask(1.0, "/own");
    crowd.forward(1.1, "/own", 502);
    crowd.refused(1.5, "10.0.0.3:9000");
    crowd.answer(2.2, own, 502);
    assert_eq!(
        crowd.told(),
        [
            " nearmiss - connection_refused likely (exchange_link) → 10.0.0.3:9000",
            "/own verdict 502 upstream_answered proven → 10.0.0.2:8000",
        ]
    );
}

/// On loopback every client has the proxy's address: who looks whether a server listens by now is no proxy.
#[test]
fn a_client_waits_for_a_proxy_on_its_own_host() {
    let told = |asked_before: bool, goes_on: bool| {
        let mut wire = Wire::default();
        let ask = request("GET", "/");
        let other = match asked_before {
            true => "127.0.0.1:8080",
            false => "127.0.0.1:7000",
        };
        let mut first = wire.at(0.0).open("127.0.0.1:5000", other);
        wire.at(1.0).send(&mut first, CLIENT, &ask);
        wire.at(1.1).send(&mut first, SERVER, &response(200));
        wire.at(2.0).fin(&mut first, CLIENT);
        let mut early = wire.connection("127.0.0.1:5001", "127.0.0.1:8080");
        wire.at(100.0).syn(&mut early);
        wire.at(100.01).push(&mut early, SERVER, 0x14, b"");
        if goes_on {
            let mut front = wire.at(2000.0).open("127.0.0.1:5002", "127.0.0.1:8080");
            let mut back = wire.at(2000.1).open("127.0.0.1:5003", "127.0.0.1:9000");
            exchanged(&mut wire, [&mut front, &mut back], 2001.0, "/shop", 200);
        }
        labels(&wire.packets)
    };
    assert_eq!(told(false, true), [""; 0]);
    assert_eq!(told(false, false), [""; 0]);
    // An upstream that was asked from there before, and whose proxy's clients are not in the capture.
    assert_eq!(told(true, false), ["verdict - connection_refused proven"]);
}
