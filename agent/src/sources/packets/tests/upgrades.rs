//! Connections that leave HTTP: what follows is the two ends' own affair.

use super::build::*;
use super::opaque::{BACK, FRONT};

/// Both sides of an upgraded connection, or of CONNECT, are told of no more.
#[test]
fn what_follows_an_upgrade_is_not_judged() {
    for (method, status) in [("GET", 101), ("CONNECT", 200)] {
        for by_server in [false, true] {
            let mut wire = Wire::default();
            let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
            wire.at(1.0)
                .send(&mut front, CLIENT, &request(method, "/ws"));
            let mut back = wire.at(1.1).open(BACK.0, BACK.1);
            wire.send(&mut back, CLIENT, &request(method, "/ws"));
            let switch = format!("HTTP/1.1 {status} X\r\nUpgrade: websocket\r\n\r\n");
            wire.at(2.0).send(&mut back, SERVER, switch.as_bytes());
            wire.at(2.1).send(&mut front, SERVER, switch.as_bytes());
            for i in 0..3 {
                let at = 100.0 + 1000.0 * f64::from(i);
                wire.at(at).send(&mut front, CLIENT, b"\x81\x85abcdhello");
                wire.at(at + 0.1)
                    .send(&mut back, CLIENT, b"\x81\x85abcdhello");
                wire.at(at + 5.0).send(&mut back, SERVER, b"\x81\x05hello");
                wire.at(at + 5.1).send(&mut front, SERVER, b"\x81\x05hello");
            }
            wire.at(9000.0)
                .send(&mut front, CLIENT, b"\x81\x85abcdhello");
            wire.at(9000.1)
                .send(&mut back, CLIENT, b"\x81\x85abcdhello");
            if by_server {
                wire.at(60_000.0).lost(&mut back, SERVER, 0x14, b"");
                wire.at(60_000.1).lost(&mut front, SERVER, 0x14, b"");
            } else {
                wire.at(60_000.0).fin(&mut front, CLIENT);
                wire.at(60_000.1).fin(&mut back, CLIENT);
            }
            assert!(
                labels(&wire.packets).is_empty(),
                "{:?}",
                labels(&wire.packets)
            );
        }
    }
}

/// The answer that upgraded the connection is captured after what came of it, or is missing.
#[test]
fn an_upgrade_may_be_captured_late() {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open(FRONT.0, FRONT.1);
    wire.at(1.0)
        .send(&mut front, CLIENT, &request("GET", "/ws"));
    // Another server was tried before, so that the request is looked at.
    let mut other = wire.connection("10.0.0.1:4001", "10.0.0.3:9000");
    wire.at(1.02).syn(&mut other);
    wire.at(1.04).push(&mut other, SERVER, 0x14, b"");
    let mut back = wire.at(1.1).open(BACK.0, BACK.1);
    wire.send(&mut back, CLIENT, &request("GET", "/ws"));
    let switch = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n";
    wire.at(2.0).send(&mut back, SERVER, switch);
    let late = wire.packets.pop().unwrap();
    wire.at(2.1).send(&mut front, SERVER, switch);
    wire.at(2.4).send(&mut back, CLIENT, b"\x81\x02hi");
    let place = wire.packets.len();
    wire.at(2.5).send(&mut back, SERVER, b"\x81\x05hello");
    wire.at(9.0).fin(&mut back, CLIENT);
    wire.at(9.1).fin(&mut back, SERVER);
    let missing = wire.packets.clone();
    wire.packets.insert(place, late);
    let refused = ["nearmiss 101 connection_refused proven"];
    assert_eq!(labels(&wire.packets), refused);
    let labels = labels(&missing);
    assert!(
        labels
            .iter()
            .all(|l| !l.contains("timeout") || l.contains("likely")),
        "{labels:?}"
    );
}
