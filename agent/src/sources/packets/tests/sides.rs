//! Who is the proxy, and which attempt belongs to which response.

use super::build::*;
use super::crowd::path;
use crate::cause::Cause;
use crate::sources::packets::segment::Flags;
use crate::verdict::Kind;

#[test]
fn a_refused_connect_is_tied_by_address_and_time() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    let mut back = wire.connection("10.0.0.1:4000", "10.0.0.2:9000");
    wire.at(1.2).syn(&mut back);
    wire.at(1.4).push(&mut back, SERVER, 0x14, b"");
    wire.at(1.5).send(&mut front, SERVER, &response(502));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 502 connection_refused proven"]
    );
}

#[test]
fn concurrent_refused_connects_are_right_but_not_proven() {
    let mut wire = Wire::default();
    let mut fronts = Vec::new();
    let mut backs = Vec::new();
    for i in 0..3 {
        let mut front = wire
            .at(0.0)
            .open(&format!("10.0.0.9:500{i}"), "10.0.0.1:80");
        wire.at(1.0)
            .send(&mut front, CLIENT, &request("GET", &format!("/{i}")));
        fronts.push(front);
    }
    for i in 0..3 {
        let mut back = wire.connection(&format!("10.0.0.1:400{i}"), "10.0.0.2:9000");
        wire.at(1.2).syn(&mut back);
        backs.push(back);
    }
    for back in &mut backs {
        wire.at(1.4).push(back, SERVER, 0x14, b"");
    }
    for front in &mut fronts {
        wire.at(1.5).send(front, SERVER, &response(502));
    }
    assert_eq!(
        labels(&wire.packets),
        ["verdict 502 connection_refused likely (exchange_link)"; 3]
    );
}

#[test]
fn unanswered_connects_and_requests_are_waits() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    let back = wire.connection("10.0.0.1:4000", "10.0.0.2:9000");
    for at in [1.2, 1001.2] {
        wire.at(at).syn(&mut back.clone());
    }
    wire.at(2001.3).send(&mut front, SERVER, &response(504));
    wire.at(3000.0)
        .send(&mut front, CLIENT, &request("GET", "/b"));
    let mut slow = wire.at(3000.1).open("10.0.0.1:4001", "10.0.0.2:9000");
    wire.send(&mut slow, CLIENT, &request("GET", "/b"));
    wire.at(3001.0).ack(&mut slow, SERVER);
    wire.at(5000.2).fin(&mut slow, CLIENT);
    wire.at(5000.3).send(&mut front, SERVER, &response(504));
    assert_eq!(
        labels(&wire.packets),
        [
            "verdict 504 connect_timeout/unknown_path likely (accept_queue)",
            "verdict 504 read_timeout_no_reply likely (upstream_read, upstream_accepted)",
        ]
    );
}

#[test]
fn an_upstreams_own_failure_is_told_once() {
    let (mut wire, mut front, mut back) = passed_on("/a");
    wire.at(2.0).send(&mut back, SERVER, &response(503));
    wire.at(2.1).send(&mut front, SERVER, &response(503));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 503 upstream_answered proven"]
    );
}

/// It answers and resets while the body is still being sent; what the proxy makes of it decides.
#[test]
fn an_upstream_that_answers_and_resets_under_a_body_has_rejected_it() {
    let labels_of = |upstream: u16, proxy: u16, sent: usize, taken: bool| {
        let head = b"POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5000\r\n\r\n";
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
        wire.at(1.0).send(&mut front, CLIENT, head);
        wire.send(&mut front, CLIENT, &[b'x'; 5000]);
        let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
        wire.send(&mut back, CLIENT, head);
        match taken {
            true => wire.at(1.2).send(&mut back, CLIENT, &vec![b'x'; sent]),
            false => wire
                .at(1.2)
                .lost(&mut back, CLIENT, 0x18, &vec![b'x'; sent]),
        }
        wire.at(1.3).send(&mut back, SERVER, &response(upstream));
        wire.at(1.4).reset(&mut back, SERVER);
        wire.at(2.1).send(&mut front, SERVER, &response(proxy));
        labels(&wire.packets)
    };
    let rejected = ["verdict 502 request_body_rejected likely (upstream_read)"];
    assert_eq!(labels_of(200, 502, 5000, false), rejected);
    assert_eq!(labels_of(200, 502, 3000, false), rejected);
    assert_eq!(labels_of(200, 502, 3000, true), rejected);
    // All of it was taken: what the proxy found wrong is not seen.
    assert_eq!(
        labels_of(200, 502, 5000, true),
        ["verdict 502 response_invalid likely (proxy_log)"]
    );
    // The upstream's own failure, passed on; and a refusal that is the client's.
    let own = labels_of(503, 503, 3000, false);
    assert_eq!(own, ["verdict 503 upstream_answered proven"]);
    assert!(labels_of(413, 413, 3000, false).is_empty());
}

#[test]
fn an_upstream_at_the_named_proxys_address_is_none() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:8080");
    let mut back = wire.at(0.1).open("127.0.0.1:4000", "127.0.0.1:9000");
    for (i, status) in [200, 503, 504].into_iter().enumerate() {
        let (at, path) = (1.0 + 500.0 * i as f64, format!("/{i}"));
        exchanged(&mut wire, [&mut front, &mut back], at, &path, status);
    }
    let named: Vec<String> = verdicts(&wire.packets, &["127.0.0.1"])
        .iter()
        .map(label)
        .collect();
    assert_eq!(named, labels(&wire.packets));
    assert_eq!(named.len(), 2, "{named:?}");
}

#[test]
fn with_one_side_alone_the_other_is_named_as_missing() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    wire.at(2.0).send(&mut front, SERVER, &response(502));
    assert_eq!(
        labels(&wire.packets),
        ["verdict 502 unknown unknown (upstream_side, proxy_log)"]
    );
    // Named by hand, the client is the proxy, and it is its upstream that answered.
    let named = verdicts(&wire.packets, &["10.0.0.9"]);
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].diagnosis.cause, Cause::UpstreamAnswered);
    assert_ne!(
        named[0].diagnosis.confidence,
        crate::verdict::Confidence::Proven
    );
}

#[test]
fn a_client_that_left_is_a_near_miss() {
    let (mut wire, mut front, mut back) = passed_on("/a");
    wire.at(1500.0).fin(&mut front, CLIENT);
    wire.at(1500.1).fin(&mut back, CLIENT);
    wire.at(1500.2).fin(&mut front, SERVER);
    let decided = verdicts(&wire.packets, &[]);
    assert_eq!(decided.len(), 1, "{:?}", labels(&wire.packets));
    assert_eq!(decided[0].kind, Kind::NearMiss);
    assert_eq!(decided[0].diagnosis.cause, Cause::DownstreamGaveUp);
}

#[test]
fn one_connection_captured_under_two_addresses_is_one() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    let mut back = wire.at(1.1).open("172.17.0.2:4000", "10.0.0.2:9000");
    wire.send(&mut back, CLIENT, &request("GET", "/a"));
    wire.at(2.0).send(&mut back, SERVER, &response(503));
    wire.at(2.1).send(&mut front, SERVER, &response(503));
    // Each packet once more: into the container, and out of the host.
    let mut both = Vec::new();
    for packet in &wire.packets {
        let mut other = packet.clone();
        for end in [&mut other.from, &mut other.to] {
            match end.to_string().as_str() {
                "10.0.0.1:80" => *end = "172.17.0.2:8080".parse().unwrap(),
                "172.17.0.2:4000" => *end = "10.0.0.1:4000".parse().unwrap(),
                _ => {}
            }
        }
        other.at += 5_000;
        both.extend([packet.clone(), other]);
    }
    assert_eq!(labels(&both), ["verdict 503 upstream_answered proven"]);
}

/// Some stacks begin all connections with the same number. Of two clients that happen to have the same
/// port their answers tell that they are two, whichever comes first.
#[test]
fn two_clients_with_one_port_and_sequence_number_are_two() {
    for order in [[0, 1], [1, 0]] {
        let mut wire = Wire::default();
        let mut fronts = ["10.0.0.8:5000", "10.0.0.9:5000"].map(|client| {
            let mut front = wire.connection(client, "10.0.0.1:80");
            front.seq[SERVER] = u32::from(client.as_bytes()[7]) << 20;
            wire.at(0.0).syn(&mut front);
            front
        });
        for i in order {
            wire.at(1.0)
                .push(&mut fronts[i], SERVER, Flags::SYN | Flags::ACK, b"");
        }
        for (front, path) in fronts.iter_mut().zip(["/a", "/b"]) {
            wire.at(2.0).ack(front, CLIENT);
            wire.send(front, CLIENT, &request("GET", path));
            wire.at(5.0).send(front, SERVER, &response(502));
        }
        wire.packets.sort_by_key(|packet| packet.at);
        let told: Vec<_> = verdicts(&wire.packets, &[])
            .iter()
            .filter_map(path)
            .collect();
        assert_eq!(told, ["/a", "/b"], "{order:?}");
    }
}

/// What was refused, seen behind a translation alone, is nobody else's failure.
#[test]
fn a_translated_connect_is_not_proven_to_be_another_ones() {
    let labels_of = |front: bool, twin: bool, step: f64| {
        let mut wire = Wire::default();
        if front {
            let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
            wire.send(&mut front, CLIENT, &request("GET", "/a"));
            wire.at(0.4).send(&mut front, SERVER, &response(200));
        }
        for (i, client) in ["10.0.0.1:4001", "192.168.0.1:4001"].iter().enumerate() {
            if twin || i == 1 {
                let mut back = wire.at(1.0 + 0.1 * i as f64).open(client, "10.0.0.2:9000");
                wire.send(&mut back, CLIENT, &request("GET", "/b"));
                wire.send(&mut back, SERVER, &response(200));
            }
        }
        let mut back = wire.at(5.0).open("192.168.0.1:4002", "10.0.0.2:9000");
        wire.send(&mut back, CLIENT, &request("GET", "/c"));
        wire.send(&mut back, SERVER, &response(200));
        let mut refused = wire.connection("192.168.0.1:4003", "10.0.0.2:9001");
        wire.at(2000.0).syn(&mut refused);
        wire.at(2000.1).push(&mut refused, SERVER, 0x14, b"");
        wire.at(2001.0 - step).ack(&mut back, CLIENT);
        labels(&wire.packets)
    };
    let proven = ["verdict - connection_refused proven"];
    let likely = ["nearmiss - connection_refused likely (exchange_link)"];
    let none: [&str; 0] = [];
    // A host that only asks is taken for a proxy whose clients are not in the capture.
    assert_eq!(labels_of(false, false, 0.0), proven);
    assert_eq!(labels_of(false, false, 1500.0), likely);
    assert_eq!(labels_of(false, true, 0.0), likely);
    // The other address's clients are there, and none of them waits.
    assert_eq!(labels_of(true, true, 0.0), none);
}

/// Some stacks, and captures made by hand, begin each connection with the same sequence number.
#[test]
fn equal_sequence_numbers_make_no_translation() {
    for other_client in [false, true] {
        let mut wire = Wire::default();
        for i in 0..20 {
            let at = 2.0 * f64::from(i);
            let (mut client, port) = ("10.0.0.9".to_owned(), 5000 + i);
            if other_client {
                client = format!("10.0.1.{i}");
            }
            let mut front = wire.at(at).open(&format!("{client}:{port}"), "10.0.0.1:80");
            wire.at(at + 0.1)
                .send(&mut front, CLIENT, &request("GET", &format!("/{i}")));
            let mut back = wire.connection(&format!("10.0.0.1:{}", 6000 + i), "10.0.0.2:9000");
            wire.at(at + 0.2).syn(&mut back);
            wire.at(at + 0.3).push(&mut back, SERVER, 0x14, b"");
            wire.at(at + 0.4).send(&mut front, SERVER, &response(502));
        }
        let begins = |port: u16| u32::from(port).wrapping_mul(0x9e37_79b9);
        for packet in &mut wire.packets {
            let (from, to) = (packet.from.port(), packet.to.port());
            match (5000..9000).contains(&from) {
                true => packet.seq = packet.seq.wrapping_sub(begins(from)),
                false => packet.ack = packet.ack.wrapping_sub(begins(to)),
            }
        }
        assert_eq!(labels(&wire.packets).len(), 20);
    }
}

#[test]
fn tls_outside_leaves_the_upstream_side() {
    let mut wire = Wire::default();
    super::opaque::in_front(&mut wire);
    let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
    wire.send(&mut back, CLIENT, &request("GET", "/a"));
    wire.at(2.0).send(&mut back, SERVER, &response(200));
    wire.at(900.0)
        .lost(&mut back, CLIENT, 0x18, &request("POST", "/b"));
    wire.at(900.1).fin(&mut back, SERVER);
    wire.at(920.0).reset(&mut back, SERVER);
    assert_eq!(
        labels(&wire.packets),
        ["verdict - keepalive_race/fin_in_flight proven"]
    );
}

#[test]
fn healthy_traffic_gives_nothing() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
    for i in 0..5 {
        let (at, path) = (2.0 + f64::from(i) * 100.0, format!("/{i}"));
        exchanged(&mut wire, [&mut front, &mut back], at, &path, 200);
    }
    wire.at(5000.0).fin(&mut back, SERVER);
    wire.at(5000.1).fin(&mut back, CLIENT);
    wire.at(6000.0).fin(&mut front, CLIENT);
    assert!(labels(&wire.packets).is_empty());
    let closes = signals(&wire.packets, &[]);
    let idle = closes
        .iter()
        .filter(|s| matches!(s.fact, crate::signal::Fact::IdleClosed(_)));
    assert_eq!(idle.count(), 1);
}
