//! What a capture lacks, or has in another order: the answers that it holds stay with their requests.

use super::build::*;
use crate::signal::Opening;
use crate::sources::packets::Packets;
use crate::sources::packets::requests::PIPELINED;
use crate::track::Decided;

const FRONT: (&str, &str) = ("10.0.0.9:5000", "10.0.0.1:80");
pub(super) const BACK: (&str, &str) = ("10.0.0.1:4000", "10.0.0.2:9000");

/// The path of each verdict's request, and of its last attempt's, with the label.
pub(super) fn told(mut wire: Wire) -> Vec<(String, String)> {
    wire.packets.sort_by_key(|packet| packet.at);
    let verdicts = verdicts(&wire.packets, &[]);
    let described = verdicts.iter().map(|one| (paths(one), label(one)));
    described.collect()
}

fn paths(decided: &Decided) -> String {
    [asked(decided), tried(decided)]
        .map(Option::unwrap_or_default)
        .join(" ")
}

/// The path that the client asked for.
pub(super) fn asked(decided: &Decided) -> Option<String> {
    let (_, _, response) = decided.response.as_ref()?;
    Some(path(response.request.as_ref()?))
}

/// The path of the last attempt.
pub(super) fn tried(decided: &Decided) -> Option<String> {
    let tried = &decided.attempts.last()?.attempt;
    Some(path(&tried.request.as_ref()?.opening))
}

fn path(opening: &Opening) -> String {
    match opening {
        Opening::HttpRequest { path, .. } => path.clone(),
        other => format!("{other:?}"),
    }
}

/// Two kept-alive connections; the third request fails as the upstream answers it with a 503.
fn third_fails() -> Wire {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    let mut back = wire.at(0.1).open(BACK.0, BACK.1);
    for (at, path, status) in [(100.0, "/1", 200), (300.0, "/2", 200), (600.0, "/3", 503)] {
        exchanged(&mut wire, [&mut front, &mut back], at, path, status);
    }
    wire
}

/// Where the first answer on this connection is.
fn first_answer(wire: &Wire, port: u16) -> usize {
    let is_it = |p: &Packet| p.from.port() == port && p.length > 0;
    wire.packets.iter().position(is_it).unwrap()
}

#[test]
fn a_missing_answer_moves_no_other_to_its_request() {
    let whole = told(third_fails());
    assert_eq!(
        whole,
        [(
            "/3 /3".to_owned(),
            "verdict 503 upstream_answered proven".to_owned()
        )]
    );
    for port in [80, 9000] {
        let mut wire = third_fails();
        wire.packets.remove(first_answer(&wire, port));
        let told = told(wire);
        assert_eq!(told.len(), 1, "{port}: {told:?}");
        let (paths, label) = &told[0];
        assert_eq!(paths, "/3 /3", "{port}");
        assert!(
            label.starts_with("verdict 503 upstream_answered"),
            "{port}: {label}"
        );
    }
}

/// Two interfaces, one of each direction: their times differ by more than the server takes.
#[test]
fn an_answer_captured_before_its_request_moves_no_other() {
    for port in [80, 9000] {
        let mut wire = third_fails();
        let answer = first_answer(&wire, port);
        wire.packets[answer].at -= 4 * MS / 10;
        let told = told(wire);
        assert_eq!(told.len(), 1, "{port}: {told:?}");
        assert_eq!(told[0].0, "/3 /3", "{port}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amiss {
    /// An answer that is captured before its request.
    Early,
    NoAnswer,
    NoRequest,
}

/// Of six requests the fifth fails. Whatever is missing before it or too early, on either connection
/// or on both, the failure stays with its request.
#[test]
fn what_is_amiss_once_spoils_no_later_verdict() {
    let six = || {
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
        let mut back = wire.at(0.1).open(BACK.0, BACK.1);
        for i in 1..=6 {
            let (at, path) = (300.0 * f64::from(i), format!("/{i}"));
            let status = if i == 5 { 503 } else { 200 };
            exchanged(&mut wire, [&mut front, &mut back], at, &path, status);
        }
        wire
    };
    for nth in 0..4 {
        for ports in [&[80][..], &[9000], &[80, 9000]] {
            for amiss in [Amiss::Early, Amiss::NoAnswer, Amiss::NoRequest] {
                let mut wire = six();
                for &port in ports {
                    let from_server = amiss != Amiss::NoRequest;
                    let is_it = |p: &Packet| {
                        let end = if from_server { p.from } else { p.to };
                        end.port() == port && p.length > 0
                    };
                    let packets = &mut wire.packets;
                    let mut those = (0..packets.len()).filter(|i| is_it(&packets[*i]));
                    let place = those.nth(nth).unwrap();
                    match amiss {
                        Amiss::Early => packets[place].at -= 4 * MS / 10,
                        Amiss::NoAnswer | Amiss::NoRequest => drop(packets.remove(place)),
                    }
                }
                let (told, case) = (told(wire), format!("{nth} {ports:?} {amiss:?}"));
                assert_eq!(told.len(), 1, "{case}: {told:?}");
                let (paths, label) = &told[0];
                assert_eq!(paths, "/5 /5", "{case}: {label}");
                assert!(
                    label.starts_with("verdict 503 upstream_answered"),
                    "{case}: {label}"
                );
            }
        }
    }
}

/// The same of every answer, be the handshake in the capture or not: then none is known, and none is
/// another's.
#[test]
fn answers_that_are_all_captured_too_early_are_nobodys() {
    for (port, joined) in [(80, false), (80, true), (9000, false), (9000, true)] {
        let mut wire = third_fails();
        for packet in wire.packets.iter_mut().filter(|p| p.length > 0) {
            if packet.from.port() == port {
                packet.at -= 4 * MS / 10;
            }
        }
        if joined {
            wire.packets.drain(..6);
        }
        for (paths, label) in told(wire) {
            assert!(
                paths.starts_with("/3 ") && !label.ends_with("proven"),
                "{port} {joined}: {paths} {label}"
            );
        }
    }
}

/// A request was missing, so that its answer was nobody's; later it is an interim one that is missing.
#[test]
fn an_answer_after_a_missing_interim_one_is_its_requests() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    let missing = wire.packets.len();
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/1"));
    wire.at(2.0).send(&mut front, SERVER, &response(200));
    wire.at(300.0)
        .send(&mut front, CLIENT, &request("GET", "/2"));
    let interim = wire.packets.len();
    wire.at(301.0)
        .send(&mut front, SERVER, b"HTTP/1.1 103 Early Hints\r\n\r\n");
    wire.at(350.0).send(&mut front, SERVER, &response(503));
    wire.packets.remove(interim);
    wire.packets.remove(missing);
    let told = told(wire);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "/2 ");
}

/// The upstream closes under the second request; the first one's answer is missing.
#[test]
fn a_close_belongs_to_the_request_that_it_met() {
    for by_reset in [false, true] {
        let mut wire = Wire::default();
        let mut back = wire.at(0.1).open(BACK.0, BACK.1);
        wire.at(1.0).send(&mut back, CLIENT, &request("GET", "/1"));
        wire.at(20.0).send(&mut back, SERVER, &response(200));
        let answer = wire.packets.len() - 1;
        wire.at(3000.0)
            .send(&mut back, CLIENT, &request("GET", "/2"));
        wire.at(3001.0).ack(&mut back, SERVER);
        match by_reset {
            true => wire.at(5000.0).push(&mut back, SERVER, 0x14, b""),
            false => wire.at(5000.0).fin(&mut back, SERVER),
        }
        wire.packets.remove(answer);
        let told = told(wire);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, " /2", "{told:?}");
    }
}

/// The same of a race, which is the request's that met the FIN.
#[test]
fn a_race_after_a_missing_answer_is_one() {
    for nth in 0..2 {
        let mut wire = Wire::default();
        let mut back = wire.at(0.1).open(BACK.0, BACK.1);
        for at in [100.0, 200.0] {
            wire.at(at).send(&mut back, CLIENT, &request("GET", "/"));
            wire.at(at + 20.0).send(&mut back, SERVER, &response(200));
        }
        wire.at(3000.0)
            .lost(&mut back, CLIENT, 0x18, &request("GET", "/met"));
        wire.at(3000.1).fin(&mut back, SERVER);
        wire.at(3020.0).reset(&mut back, SERVER);
        let is_answer = |p: &Packet| p.from == back.server && p.length > 0;
        let mut answers = (0..wire.packets.len()).filter(|i| is_answer(&wire.packets[*i]));
        let answer = answers.nth(nth).unwrap();
        wire.packets.remove(answer);
        let told = told(wire);
        assert_eq!(told.len(), 1, "{nth}: {told:?}");
        assert_eq!(told[0].0, " /met", "{nth}");
        assert!(
            told[0]
                .1
                .starts_with("verdict - keepalive_race/fin_in_flight likely"),
            "{told:?}"
        );
    }
}

/// The client asks ahead each time it has heard something: no answer is missing.
#[test]
fn requests_sent_ahead_in_the_middle_of_answers_keep_theirs() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    let answer = response(200);
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/1"));
    wire.at(2.0).send(&mut front, SERVER, &answer[..20]);
    wire.at(3.0).send(&mut front, CLIENT, &request("GET", "/2"));
    wire.at(4.0).send(&mut front, SERVER, &answer[20..30]);
    wire.at(5.0).send(&mut front, CLIENT, &request("GET", "/3"));
    wire.at(6.0).send(&mut front, SERVER, &answer[30..]);
    wire.at(7.0).send(&mut front, SERVER, &response(503));
    wire.at(8.0).send(&mut front, SERVER, &response(200));
    let told = told(wire);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "/2 ");
}

/// A server that says more than it announced, which is on its way as the client asks again.
#[test]
fn what_is_no_answer_takes_no_answers_place() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/1"));
    wire.at(2.0).send(&mut front, SERVER, &response(200));
    wire.at(2.1).lost(&mut front, SERVER, 0x18, b"\r\n");
    wire.at(3.0).send(&mut front, CLIENT, &request("GET", "/2"));
    wire.at(4.0).send(&mut front, SERVER, &response(503));
    let told = told(wire);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "/2 ");
}

/// A tap that carries one direction: no request is ever seen to be answered.
#[test]
fn without_any_answers_requests_are_not_kept() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    for i in 0..1000 {
        let at = 100.0 * f64::from(i + 1);
        wire.at(at)
            .send(&mut front, CLIENT, &request("GET", &format!("/{i}")));
        wire.at(at + 10.0).send(&mut front, SERVER, &response(200));
    }
    let (mut source, mut out) = (Packets::new(&[]), Vec::new());
    let asked = wire.packets.iter().filter(|p| p.from == front.client);
    for packet in asked {
        source.segment(&packet.segment(1), &mut out);
    }
    assert!(source.exchanges.live() <= 2 * PIPELINED as usize);
}

/// As many requests as that are sent ahead, and each gets its own answer.
#[test]
fn a_long_pipeline_is_followed() {
    let count = PIPELINED - 1;
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    for i in 0..count {
        wire.at(1.0)
            .send(&mut front, CLIENT, &request("GET", &format!("/{i}")));
    }
    for i in 0..count {
        let status = if i + 1 == count { 503 } else { 200 };
        wire.at(2.0).send(&mut front, SERVER, &response(status));
    }
    assert_eq!(told(wire)[0].0, format!("/{} ", count - 1));
}

/// A length that no packet has, behind a request that has begun.
#[test]
fn lengths_without_bound_do_no_harm() {
    let mut wire = Wire::default();
    let mut back = wire.at(0.0).open(BACK.0, BACK.1);
    let mut begun = b"\0\xff\x0f\0\x0e\0REQUEST_METHOD\x03\0GET".to_vec();
    begun.resize(200, b'x');
    wire.at(1.0).send(&mut back, CLIENT, &begun);
    wire.at(2.0).send(&mut back, CLIENT, b"rest");
    for length in [u32::MAX, u32::MAX - 100, 1 << 31] {
        wire.packets.last_mut().unwrap().length = length;
        assert!(labels(&wire.packets).is_empty());
    }
}
