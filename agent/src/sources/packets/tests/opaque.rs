//! TLS: healthy connections give nothing, failed ones are told.

use super::build::*;

pub(super) const FRONT: (&str, &str) = ("10.0.0.9:5000", "10.0.0.1:443");

pub(super) const BACK: (&str, &str) = ("10.0.0.1:4000", "10.0.0.2:9443");

/// A TLS record with so many bytes in it.
pub(super) fn record(kind: u8, length: usize) -> Vec<u8> {
    let mut record = vec![kind, 3, 3, (length >> 8) as u8, length as u8];
    record.resize(5 + length, 0xee);
    record
}

fn hello(kind: u8, extensions: &[u8]) -> Vec<u8> {
    let mut hello = record(22, 80);
    hello[5..9].copy_from_slice(&[kind, 0, 0, 76]);
    hello[40..40 + extensions.len()].copy_from_slice(extensions);
    hello
}

const V13: &[u8] = b"\x00\x2b\x00\x02\x03\x04";

const ALPN: &[u8] = b"\x00\x10\x00\x05\x00\x03\x02h2";

const CLOSE_NOTIFY: usize = 19;

const KEY_UPDATE: usize = 22;

/// A TLS 1.3 connection, its handshake done up to the server's Finished.
pub(super) fn tls13(wire: &mut Wire, at: f64, ends: (&str, &str), offers: &[u8]) -> Connection {
    let mut c = wire.at(at).open(ends.0, ends.1);
    wire.at(at + 0.1).send(&mut c, CLIENT, &hello(1, offers));
    let mut flight = hello(2, V13);
    flight.extend(record(20, 1));
    flight.extend(record(23, 900));
    wire.at(at + 0.3).send(&mut c, SERVER, &flight);
    c
}

/// The client's Finished and the first request; what the server has not seen, it does not know of.
pub(super) fn finish(wire: &mut Wire, at: f64, c: &mut Connection) {
    let mut flight = record(20, 1);
    flight.extend(record(23, 69));
    wire.at(at).send(c, CLIENT, &flight);
}

pub(super) fn tls12(wire: &mut Wire, at: f64, ends: (&str, &str)) -> Connection {
    let mut c = wire.at(at).open(ends.0, ends.1);
    wire.at(at + 0.1).send(&mut c, CLIENT, &hello(1, b""));
    let mut flight = hello(2, b"");
    flight.extend(record(22, 900));
    wire.at(at + 0.2).send(&mut c, SERVER, &flight);
    let mut flight = record(22, 70);
    flight.extend(record(20, 1));
    flight.extend(record(22, 40));
    wire.at(at + 0.3).send(&mut c, CLIENT, &flight);
    let mut flight = record(22, 200);
    flight.extend(record(20, 1));
    flight.extend(record(22, 40));
    wire.at(at + 0.4).send(&mut c, SERVER, &flight);
    c
}

pub(super) fn tickets() -> Vec<u8> {
    [record(23, 250), record(23, 250)].concat()
}

pub(super) fn asked(wire: &mut Wire, at: f64, c: &mut Connection) {
    wire.at(at).send(c, CLIENT, &record(23, 300));
}

pub(super) fn answered(wire: &mut Wire, at: f64, c: &mut Connection, length: usize) {
    wire.at(at).send(c, SERVER, &record(23, length));
    wire.ack(c, CLIENT);
}

/// The proxy takes leave: with this record, if any, then its FIN.
pub(super) fn leave(wire: &mut Wire, at: f64, c: &mut Connection, farewell: Option<Vec<u8>>) {
    if let Some(farewell) = farewell {
        wire.at(at).send(c, CLIENT, &farewell);
    }
    wire.at(at + 0.01).fin(c, CLIENT);
    wire.at(at + 0.3).fin(c, SERVER);
}

/// A healthy TLS client in front, so that whatever fails behind would be told.
pub(super) fn in_front(wire: &mut Wire) {
    let mut front = tls13(wire, 0.0, FRONT, b"");
    finish(wire, 0.5, &mut front);
    asked(wire, 0.6, &mut front);
    wire.at(0.7).send(&mut front, SERVER, &tickets());
}

#[test]
fn healthy_tls_upstreams_give_nothing_however_the_proxy_leaves() {
    let new = record(23, CLOSE_NOTIFY);
    for (old, farewell) in [
        (false, Some(new.clone())),
        (false, None),
        (true, Some(record(21, 26))),
        (true, None),
        (false, Some([record(23, KEY_UPDATE), new.clone()].concat())),
    ] {
        for (idle, size) in [(0.5, 8000), (0.5, 200), (60_000.0, 8000), (60_000.0, 200)] {
            for server_first in [false, true] {
                let mut wire = Wire::default();
                in_front(&mut wire);
                let mut back = match old {
                    true => tls12(&mut wire, 1.0, BACK),
                    false => tls13(&mut wire, 1.0, BACK, b""),
                };
                if !old {
                    finish(&mut wire, 1.5, &mut back);
                }
                asked(&mut wire, 1.6, &mut back);
                if !old {
                    wire.at(1.7).send(&mut back, SERVER, &tickets());
                }
                answered(&mut wire, 5.0, &mut back, size);
                asked(&mut wire, 1000.0, &mut back);
                answered(&mut wire, 1003.0, &mut back, size);
                if server_first {
                    let notify = if old {
                        record(21, 26)
                    } else {
                        record(23, CLOSE_NOTIFY)
                    };
                    wire.at(1003.1 + idle).send(&mut back, SERVER, &notify);
                    wire.at(1003.2 + idle).fin(&mut back, SERVER);
                }
                leave(&mut wire, 1003.5 + idle, &mut back, farewell.clone());
                assert!(
                    labels(&wire.packets).is_empty(),
                    "{old} {farewell:?} {idle} {size} {server_first}: {:?}",
                    labels(&wire.packets)
                );
            }
        }
    }
}

/// Without a second request: the first answer may be small, too.
#[test]
fn one_request_per_tls_connection_gives_nothing() {
    for (size, apart) in [(100, 0.1), (100, 30_000.0), (9000, 0.1), (9000, 30_000.0)] {
        for farewell in [Some(record(23, CLOSE_NOTIFY)), None] {
            for by_server in [false, true] {
                let mut wire = Wire::default();
                in_front(&mut wire);
                let mut back = tls13(&mut wire, 1.0, BACK, b"");
                finish(&mut wire, 1.5, &mut back);
                asked(&mut wire, 1.6, &mut back);
                wire.at(1.7).send(&mut back, SERVER, &tickets());
                answered(&mut wire, 5.0, &mut back, size);
                if by_server {
                    wire.at(5.0 + apart).fin(&mut back, SERVER);
                }
                leave(&mut wire, 5.1 + apart, &mut back, farewell.clone());
                assert!(
                    labels(&wire.packets).is_empty(),
                    "{:?}",
                    labels(&wire.packets)
                );
            }
        }
    }
}

#[test]
fn a_key_update_long_before_the_end_is_no_request() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    let mut back = tls13(&mut wire, 1.0, BACK, b"");
    finish(&mut wire, 1.5, &mut back);
    asked(&mut wire, 1.6, &mut back);
    answered(&mut wire, 5.0, &mut back, 9000);
    wire.at(2000.0)
        .send(&mut back, CLIENT, &record(23, KEY_UPDATE));
    leave(&mut wire, 60_000.0, &mut back, None);
    assert!(
        labels(&wire.packets).is_empty(),
        "{:?}",
        labels(&wire.packets)
    );
}

#[test]
fn http2_within_tls_is_not_judged_by_itself() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    let mut back = tls13(&mut wire, 1.0, BACK, ALPN);
    finish(&mut wire, 1.5, &mut back);
    asked(&mut wire, 1.6, &mut back);
    answered(&mut wire, 5.0, &mut back, 9000);
    // Settings and window updates, which answer what the server said.
    wire.at(6.0).send(&mut back, CLIENT, &record(23, 60));
    leave(&mut wire, 60_000.0, &mut back, Some(record(23, 34)));
    assert!(
        labels(&wire.packets).is_empty(),
        "{:?}",
        labels(&wire.packets)
    );
}

#[test]
fn a_request_within_tls_that_nobody_answers_is_told() {
    for old in [false, true] {
        let mut wire = Wire::default();
        in_front(&mut wire);
        let mut back = match old {
            true => tls12(&mut wire, 1.0, BACK),
            false => tls13(&mut wire, 1.0, BACK, b""),
        };
        if !old {
            finish(&mut wire, 1.5, &mut back);
        }
        asked(&mut wire, 1.6, &mut back);
        answered(&mut wire, 5.0, &mut back, 9000);
        asked(&mut wire, 1000.0, &mut back);
        wire.at(1001.0).ack(&mut back, SERVER);
        let farewell = if old {
            record(21, 26)
        } else {
            record(23, CLOSE_NOTIFY)
        };
        leave(&mut wire, 61_000.0, &mut back, Some(farewell));
        assert_eq!(
            labels(&wire.packets),
            ["verdict - read_timeout_no_reply likely (upstream_read)"],
            "{old}"
        );
    }
}

/// Session tickets that acknowledge nothing of the request answer nothing.
#[test]
fn tickets_are_no_answer() {
    let failed = |end: fn(&mut Wire, &mut Connection)| {
        let mut wire = Wire::default();
        in_front(&mut wire);
        let mut back = tls13(&mut wire, 1.0, BACK, b"");
        finish(&mut wire, 1.5, &mut back);
        wire.at(1.6).lost(&mut back, CLIENT, 0x18, &record(23, 300));
        wire.at(1.7).send(&mut back, SERVER, &tickets());
        wire.arrives(&mut back, CLIENT);
        wire.at(1.8).ack(&mut back, SERVER);
        wire.at(30_000.0);
        end(&mut wire, &mut back);
        labels(&wire.packets)
    };
    assert_eq!(
        failed(|wire, c| wire.fin(c, SERVER)),
        ["verdict - upstream_closed_early/no_bytes likely (upstream_read)"]
    );
    assert_eq!(
        failed(|wire, c| wire.lost(c, SERVER, 0x14, b"")),
        ["verdict - upstream_reset likely (upstream_closed)"]
    );
    assert_eq!(
        failed(|wire, c| wire.fin(c, CLIENT)),
        ["verdict - read_timeout_no_reply likely (upstream_read, upstream_accepted)"]
    );
}

/// An upstream has no version in common with its proxy: it says so and closes.
fn no_version(wire: &mut Wire, at: f64, port: u16, server: &str) {
    let from = format!("10.0.0.1:{port}");
    let mut back = wire.at(at).open(&from, server);
    wire.at(at + 0.1).send(&mut back, CLIENT, &hello(1, V13));
    wire.at(at + 0.2).send(&mut back, SERVER, &record(21, 2));
    wire.at(at + 0.21).fin(&mut back, SERVER);
    wire.at(at + 0.4).fin(&mut back, CLIENT);
}

#[test]
fn a_check_in_tls_that_fails_is_nobodys() {
    let checked = |front: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::default();
        front(&mut wire);
        for nth in 0..3 {
            let at = 1000.0 + 500.0 * f64::from(nth);
            no_version(&mut wire, at, 4000 + nth, "10.0.0.2:9443");
        }
        labels(&wire.packets)
    };
    // Its clients would be seen.
    let in_the_clear = checked(&|wire| {
        let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:8080");
        wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
        wire.at(2.0).send(&mut front, SERVER, &response(200));
    });
    assert!(in_the_clear.is_empty(), "{in_the_clear:?}");
    // Nothing is seen of any client.
    let of_unseen = checked(&|_| {});
    assert_eq!(of_unseen.len(), 3, "{of_unseen:?}");
}

/// Clients in TLS are known to be there when the newest connection in TLS is the proxy's own.
#[test]
fn clients_in_tls_stay_known() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    let mut back = tls13(&mut wire, 1.0, ("10.0.0.1:4000", "10.0.0.1:9443"), b"");
    finish(&mut wire, 1.5, &mut back);
    asked(&mut wire, 1.6, &mut back);
    wire.at(1.7).ack(&mut back, SERVER);
    wire.at(30_000.0).fin(&mut back, CLIENT);
    assert_eq!(
        labels(&wire.packets),
        ["verdict - read_timeout_no_reply likely (upstream_read, upstream_accepted)"]
    );
}

/// A client of the clear leaves; beside it only an upstream is asked by TLS, in vain.
#[test]
fn who_fails_to_ask_by_tls_is_no_client_in_tls() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("127.0.0.1:5000", "127.0.0.1:8080");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", "/a"));
    let mut back = wire.at(1.1).open("127.0.0.1:4100", "127.0.0.1:9001");
    wire.at(1.2).send(&mut back, CLIENT, &request("GET", "/a"));
    for nth in 0..3 {
        let from = format!("127.0.0.1:{}", 4000 + nth);
        let mut check = wire.at(2.0 + f64::from(nth)).open(&from, "127.0.0.1:9443");
        wire.send(&mut check, CLIENT, &hello(1, V13));
        wire.send(&mut check, SERVER, &record(21, 2));
        wire.fin(&mut check, SERVER);
        wire.fin(&mut check, CLIENT);
    }
    wire.at(8.0).reset(&mut front, CLIENT);
    wire.at(8.1).fin(&mut back, CLIENT);
    let told = labels(&wire.packets);
    let verdicts: Vec<_> = told.iter().filter(|l| l.starts_with("verdict")).collect();
    assert!(verdicts.is_empty(), "{told:?}");
}
