//! Segments larger than the snap length: what is cut off is content of the exchange that it belongs to.

use super::build::*;

/// A usual snap length, less what is before the payload.
const SNAP: usize = 2048 - 66;

/// A chunked response whose second chunk's size is far within one large segment.
fn chunked() -> Vec<u8> {
    let mut response = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..2 {
        response.extend(b"4000\r\n");
        response.extend([b'x'; 0x4000]);
        response.extend(b"\r\n");
    }
    response.extend(b"0\r\n\r\n");
    response
}

fn long_head() -> Vec<u8> {
    let cookie = "c".repeat(5000);
    format!("HTTP/1.1 200 X\r\nSet-Cookie: {cookie}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

fn long_request(path: &str) -> Vec<u8> {
    let cookie = "c".repeat(5000);
    format!("POST {path} HTTP/1.1\r\nHost: shop.example\r\nCookie: {cookie}\r\n\r\n").into_bytes()
}

/// Several exchanges, then a request that the upstream's close races with.
fn race(first: &[u8], answer: &[u8], break_it: impl Fn(&mut Vec<Packet>)) -> Vec<String> {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    let mut back = wire.at(0.1).open("10.0.0.1:4000", "10.0.0.2:9000");
    for i in 0..3 {
        let at = 100.0 * f64::from(i) + 1.0;
        wire.at(at).send(&mut front, CLIENT, first);
        wire.at(at + 0.1).send(&mut back, CLIENT, first);
        wire.at(at + 20.0).send(&mut back, SERVER, answer);
        wire.at(at + 20.1).send(&mut front, SERVER, answer);
    }
    wire.at(1000.0)
        .send(&mut front, CLIENT, &request("POST", "/orders"));
    wire.at(1000.1)
        .lost(&mut back, CLIENT, 0x18, &request("POST", "/orders"));
    wire.at(1000.2).fin(&mut back, SERVER);
    wire.at(1000.3).send(&mut front, SERVER, &response(502));
    wire.at(1020.0).reset(&mut back, SERVER);
    for packet in &mut wire.packets {
        packet.payload.truncate(SNAP);
    }
    break_it(&mut wire.packets);
    labels(&wire.packets)
}

const PROVEN: &str = "verdict 502 keepalive_race/fin_in_flight proven";

#[test]
fn what_lies_beyond_the_snap_length_is_over_with_its_exchange() {
    let short = request("POST", "/first");
    assert_eq!(race(&short, &response(200), |_| ()), [PROVEN]);
    assert_eq!(race(&short, &chunked(), |_| ()), [PROVEN]);
    assert_eq!(race(&short, &long_head(), |_| ()), [PROVEN]);
    assert_eq!(
        race(&long_request("/first"), &response(200), |_| ()),
        [PROVEN]
    );
    assert_eq!(race(&long_request("/first"), &chunked(), |_| ()), [PROVEN]);
}

/// Cut within their targets, requests look alike that are not.
#[test]
fn targets_that_were_cut_tie_nothing_for_sure() {
    let left = |path: &str, snap: usize| {
        let mut wire = Wire::default();
        let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
        wire.at(1.0)
            .send(&mut front, CLIENT, &request("GET", "/a/1"));
        let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
        wire.send(&mut back, CLIENT, &request("GET", path));
        wire.at(1500.0).fin(&mut front, CLIENT);
        wire.at(1500.1).fin(&mut back, CLIENT);
        for packet in &mut wire.packets {
            packet.payload.truncate(snap);
        }
        labels(&wire.packets)
    };
    let proven = ["nearmiss - downstream_gave_up proven"];
    assert_eq!(left("/a/1", SNAP), proven);
    assert_eq!(left("/a/1", "GET /a/1 ".len()), proven);
    let likely = ["nearmiss - downstream_gave_up likely (exchange_link)"];
    assert_eq!(left("/a/2", "GET /a/".len()), likely);
}

/// The last request to the upstream does not acknowledge all that was sent, or some was not captured:
/// the end of the response before may still be to come.
#[test]
fn what_may_not_be_over_is_still_missing() {
    let to_upstream = |packet: &Packet| packet.to.port() == 9000 && packet.length > 0;
    let early = |packets: &mut Vec<Packet>| {
        let last = packets.iter_mut().rfind(|p| to_upstream(p)).unwrap();
        last.ack -= 100;
    };
    let lost = |packets: &mut Vec<Packet>| {
        let from = |p: &Packet| p.from.port() == 9000 && p.length > 0;
        let last = packets.iter_mut().rfind(|p| from(p)).unwrap();
        last.length -= 100;
    };
    for broken in [&early as &dyn Fn(&mut Vec<Packet>), &lost] {
        let labels = race(&request("POST", "/first"), &chunked(), broken);
        assert!(labels[0].contains(" likely (packets"), "{labels:?}");
    }
}
