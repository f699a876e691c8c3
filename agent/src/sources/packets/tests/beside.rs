//! What goes on beside failures, and is none: clients that left, checks, requests alike.

use super::build::*;

const LOCAL: &str = "127.0.0.1:8080";
const SERVER_ADDRESS: &str = "127.0.0.1:9000";

/// A proxy on loopback: its clients, it and its upstream have one address.
fn client(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The client closes, the proxy gives up, and writes its 502 to nobody.
#[test]
fn a_failure_written_to_a_client_that_had_left_is_a_near_miss() {
    let labels_of = |acknowledged: bool, reset: bool| {
        let (mut wire, mut front, mut back) = passed_on("/a");
        wire.at(15.0).fin(&mut front, CLIENT);
        wire.at(15.1).fin(&mut back, CLIENT);
        match acknowledged {
            true => wire.at(15.2).send(&mut front, SERVER, &response(502)),
            false => wire.at(15.2).lost(&mut front, SERVER, 0x18, &response(502)),
        }
        match reset {
            true => wire.at(15.3).reset(&mut front, CLIENT),
            false => wire.at(15.3).ack(&mut front, CLIENT),
        }
        labels(&wire.packets)
    };
    assert_eq!(
        labels_of(false, true),
        ["nearmiss - downstream_gave_up proven"]
    );
    // Who closes its sending side alone reads on.
    assert_eq!(
        labels_of(true, false),
        ["verdict 502 read_timeout_no_reply likely (upstream_read, upstream_accepted)"]
    );
}

#[test]
fn an_upstreams_failure_that_nobody_read_is_a_near_miss() {
    let (mut wire, mut front, mut back) = passed_on("/a");
    wire.at(15.0).fin(&mut front, CLIENT);
    wire.at(15.1).ack(&mut back, SERVER);
    wire.at(15.2).fin(&mut back, SERVER);
    wire.at(15.3).lost(&mut front, SERVER, 0x18, &response(502));
    wire.at(15.4).reset(&mut front, CLIENT);
    let labels = labels(&wire.packets);
    assert_eq!(labels.len(), 1);
    assert!(
        labels[0].starts_with("nearmiss - upstream_closed_early"),
        "{labels:?}"
    );
    // One that the proxy made by itself.
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    wire.at(15.0).fin(&mut front, CLIENT);
    wire.at(15.3).lost(&mut front, SERVER, 0x18, &response(503));
    wire.at(15.4).reset(&mut front, CLIENT);
    assert!(super::build::labels(&wire.packets).is_empty());
}

/// A reset that acknowledges the response comes from who read it.
#[test]
fn a_client_that_resets_when_it_has_its_answer_has_not_left() {
    let (mut wire, mut front, mut back) = passed_on("/a");
    wire.at(2.0).send(&mut back, SERVER, &response(503));
    wire.at(2.1).send(&mut front, SERVER, &response(503));
    wire.at(2.2).push(&mut front, CLIENT, 0x14, b"");
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 upstream_answered proven"]
    );
}

/// A check for what another client just asked for, which leaves before it is passed on: it did not come
/// from the upstream that answers the other one.
#[test]
fn of_requests_alike_on_one_host_none_goes_back_to_the_proxy() {
    let mut wire = Wire::default();
    let ask = request("GET", "/a");
    let mut front = wire.at(0.0).open(&client(5000), LOCAL);
    let mut back = wire.at(0.1).open(&client(6000), SERVER_ADDRESS);
    wire.at(1.0).send(&mut front, CLIENT, &ask);
    wire.at(1.1).send(&mut back, CLIENT, &ask);
    let mut check = wire.at(2.0).open(&client(5001), LOCAL);
    wire.at(2.1).send(&mut check, CLIENT, &ask);
    wire.at(2.2).push(&mut check, CLIENT, 0x14, b"");
    wire.at(10.0).send(&mut back, SERVER, &response(200));
    wire.at(10.1).send(&mut front, SERVER, &response(200));
    let told = labels(&wire.packets);
    assert!(told.is_empty(), "{told:?}");
}

/// The proxy passes a request on whose client has left already, and takes it back as it learns of that: no
/// try for another client that asked for the same and has its answer.
#[test]
fn what_was_asked_for_a_client_that_had_left_is_no_others_try() {
    let mut wire = Wire::default();
    let ask = request("GET", "/a");
    let mut front = wire.at(0.0).open(&client(5000), LOCAL);
    let mut back = wire.at(0.1).open(&client(6000), SERVER_ADDRESS);
    let mut other = wire.at(0.2).open(&client(6001), SERVER_ADDRESS);
    wire.at(1.0).send(&mut front, CLIENT, &ask);
    wire.at(1.5).send(&mut back, CLIENT, &ask);
    let mut left = wire.at(11.0).open(&client(5001), LOCAL);
    wire.at(11.1).send(&mut left, CLIENT, &ask);
    wire.at(11.12).push(&mut left, CLIENT, 0x14, b"");
    wire.at(11.4).send(&mut other, CLIENT, &ask);
    wire.at(11.5).push(&mut other, CLIENT, 0x14, b"");
    wire.at(21.0).send(&mut back, SERVER, &response(200));
    wire.at(21.2).send(&mut front, SERVER, &response(200));
    let told = labels(&wire.packets);
    assert!(
        told.iter().all(|one| one.starts_with("nearmiss")),
        "{told:?}"
    );
}

/// A proxy checks its upstreams, all on this host: none of these was asked by another one of them.
#[test]
fn checks_of_several_upstreams_at_one_moment_are_no_tries_of_each_other() {
    for (later, answers) in [(0.35, true), (5.0, true), (0.11, false), (5.0, false)] {
        let mut wire = Wire::default();
        let ask = request("GET", "/healthz");
        let mut first = wire.at(1.0).open(&client(6000), SERVER_ADDRESS);
        wire.at(1.1).send(&mut first, CLIENT, &ask);
        let mut refused = wire.at(1.3).connection(&client(6001), "127.0.0.1:9002");
        wire.syn(&mut refused);
        wire.at(1.31).push(&mut refused, SERVER, 0x14, b"");
        let mut third = wire.at(2.0).open(&client(6002), "127.0.0.1:9003");
        wire.at(2.2).send(&mut third, CLIENT, &ask);
        wire.at(2.4).send(&mut first, SERVER, &response(200));
        match answers {
            true => wire
                .at(2.4 + later)
                .send(&mut third, SERVER, &response(200)),
            false => wire.at(2.4 + later).fin(&mut third, SERVER),
        }
        wire.at(2.43 + later).fin(&mut third, CLIENT);
        let told = labels(&wire.packets);
        assert!(
            !told.iter().any(|one| one.starts_with("verdict 200")),
            "{later} {answers} {told:?}"
        );
    }
}

/// A check of a proxy's that has one address for its clients and asks from another: before enough requests
/// have gone on to tell that both are its own.
#[test]
fn an_early_check_of_a_proxy_with_two_addresses_is_nobodys_request() {
    let told = |passed_on: u16| {
        let mut wire = Wire::default();
        let upstream = "10.0.0.2:9000";
        let mut checks = wire.at(0.0).open("10.0.0.1:7000", upstream);
        wire.at(1.0)
            .send(&mut checks, CLIENT, &request("GET", "/healthz"));
        wire.at(2.0).send(&mut checks, SERVER, &response(200));
        let pass_on = |wire: &mut Wire, at: f64, number: u16| {
            let ask = request("GET", &format!("/{number}"));
            let mut front = wire.at(at).open(&client(5000 + number), LOCAL);
            let mut back = wire.open(&format!("10.0.0.1:{}", 6000 + number), upstream);
            wire.at(at + 1.0).send(&mut front, CLIENT, &ask);
            wire.at(at + 2.0).send(&mut back, CLIENT, &ask);
            wire.at(at + 3.0).send(&mut back, SERVER, &response(200));
            wire.at(at + 4.0).send(&mut front, SERVER, &response(200));
        };
        pass_on(&mut wire, 10.0, 0);
        // The upstream closes as it is asked again.
        wire.at(200.0)
            .lost(&mut checks, CLIENT, 0x18, &request("GET", "/healthz"));
        wire.at(201.0).fin(&mut checks, SERVER);
        wire.at(202.0).reset(&mut checks, SERVER);
        for number in 1..=passed_on {
            pass_on(&mut wire, 2_000.0 * f64::from(number), number);
        }
        labels(&wire.packets)
    };
    let soon = told(3);
    assert!(
        soon.iter().all(|one| one.starts_with("nearmiss")),
        "{soon:?}"
    );
    // From elsewhere, as far as known: clients that are not in the capture lost a request.
    assert_eq!(told(0), ["verdict - keepalive_race/fin_in_flight proven"]);
}

/// Failures alike: each response has the upstream's answer of its own request, and is told once.
#[test]
fn of_failures_alike_each_is_told_once() {
    let mut wire = Wire::default();
    let open = |wire: &mut Wire, port: u16, to: &str| wire.open(&client(port), to);
    let mut fronts: Vec<_> = (0..3)
        .map(|i| open(wire.at(0.0), 5000 + i, LOCAL))
        .collect();
    let mut backs: Vec<_> = (0..3)
        .map(|i| open(wire.at(0.0), 6000 + i, SERVER_ADDRESS))
        .collect();
    let ask = request("GET", "/a");
    wire.at(1.0).send(&mut fronts[0], CLIENT, &ask);
    wire.at(1.05).send(&mut backs[0], CLIENT, &ask);
    wire.at(1.06).send(&mut fronts[1], CLIENT, &ask);
    wire.at(1.07).send(&mut fronts[2], CLIENT, &ask);
    wire.at(1.09).send(&mut backs[1], CLIENT, &ask);
    wire.at(1.1).send(&mut backs[0], SERVER, &response(503));
    wire.at(1.15).send(&mut backs[1], SERVER, &response(503));
    wire.at(1.22).send(&mut fronts[0], SERVER, &response(503));
    wire.at(1.27).send(&mut backs[2], CLIENT, &ask);
    wire.at(1.29).send(&mut fronts[1], SERVER, &response(503));
    wire.at(1.61).send(&mut backs[2], SERVER, &response(503));
    wire.at(1.73).send(&mut fronts[2], SERVER, &response(503));
    let told = labels(&wire.packets);
    assert_eq!(told.len(), 3, "{told:?}");
    let answered = |l: &String| l.starts_with("verdict 503 upstream_answered");
    assert!(told.iter().all(answered), "{told:?}");
}

/// The same where the proxy asks from another address than it is asked at.
#[test]
fn failures_alike_are_told_once_where_the_proxy_has_two_addresses() {
    let mut wire = Wire::default();
    let ask = request("GET", "/a");
    let mut fronts = Vec::new();
    let mut backs = Vec::new();
    for i in 0..4 {
        let mut front = wire.at(0.0).open(&client(5000 + i), LOCAL);
        wire.at(0.5).send(&mut front, CLIENT, &ask);
        fronts.push(front);
    }
    for i in 0..4 {
        let from = format!("10.9.0.1:{}", 6000 + i);
        let mut back = wire.at(1.0).open(&from, "10.9.0.2:9000");
        wire.at(2.0).send(&mut back, CLIENT, &ask);
        backs.push(back);
    }
    for (i, (front, back)) in fronts.iter_mut().zip(&mut backs).enumerate() {
        let at = 10.0 + i as f64;
        wire.at(at).ack(back, SERVER);
        wire.at(at + 0.1).push(back, SERVER, 0x14, b"");
        wire.at(at + 0.2).send(front, SERVER, &response(502));
    }
    let told = labels(&wire.packets);
    let of_client = |l: &String| l.starts_with("verdict 502 upstream_reset");
    assert!(told.len() == 4 && told.iter().all(of_client), "{told:?}");
}

/// Checks of two servers for one path: the one that answers did not ask the other.
#[test]
fn checks_alike_of_two_servers_are_no_request_that_went_on() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(&client(5000), LOCAL);
    let mut good = wire.at(0.1).open(&client(6000), SERVER_ADDRESS);
    let mut silent = wire.at(0.2).open(&client(6001), "127.0.0.1:9001");
    let check = request("GET", "/healthz");
    wire.at(1.0).send(&mut good, CLIENT, &check);
    wire.at(1.1).send(&mut silent, CLIENT, &check);
    wire.at(1.3).send(&mut good, SERVER, &response(200));
    // A request that is well, and a connect of the checks that fails behind its answer.
    wire.at(400.0)
        .send(&mut front, CLIENT, &request("GET", "/b"));
    wire.at(400.1)
        .send(&mut good, CLIENT, &request("GET", "/b"));
    wire.at(400.2).send(&mut good, SERVER, &response(200));
    let mut refused = wire.connection(&client(6002), "127.0.0.1:9002");
    wire.at(400.22).syn(&mut refused);
    wire.at(400.23).push(&mut refused, SERVER, 0x14, b"");
    wire.at(400.3).send(&mut front, SERVER, &response(200));
    wire.at(500.0).fin(&mut silent, CLIENT);
    let told = labels(&wire.packets);
    assert!(told.iter().all(|l| l.starts_with("nearmiss")), "{told:?}");
}

/// Requests alike, each of whose answers the proxy made a failure of: the last answer before it is its own.
#[test]
fn of_answers_alike_that_became_failures_each_is_its_requests_own() {
    let mut wire = Wire::default();
    let ask = request("GET", "/a");
    let open = |wire: &mut Wire, port: u16, to: &str| wire.open(&client(port), to);
    let mut fronts: Vec<_> = (0..3)
        .map(|i| open(wire.at(0.0), 5000 + i, LOCAL))
        .collect();
    let mut backs: Vec<_> = (0..3)
        .map(|i| open(wire.at(0.0), 6000 + i, SERVER_ADDRESS))
        .collect();
    for (i, (front, back)) in fronts.iter_mut().zip(&mut backs).enumerate() {
        let at = 1.0 + i as f64;
        wire.at(at).send(front, CLIENT, &ask);
        wire.at(at + 0.5).send(back, CLIENT, &ask);
    }
    for (i, (front, back)) in fronts.iter_mut().zip(&mut backs).enumerate() {
        let at = 10.0 + 0.1 * i as f64;
        wire.at(at).send(back, SERVER, &response(200));
        wire.at(at + 0.05).send(front, SERVER, &response(500));
    }
    let told = labels(&wire.packets);
    let invalid = |l: &String| l.starts_with("verdict 500 response_invalid");
    assert!(told.len() == 3 && told.iter().all(invalid), "{told:?}");
}
