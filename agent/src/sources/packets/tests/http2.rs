//! HTTP/2 in the clear: what begins a request, and what is none.

use super::build::*;
use super::opaque::{BACK, in_front, leave};

/// An HTTP/2 frame.
fn frame(kind: u8, stream: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![
        0,
        (length >> 8) as u8,
        length as u8,
        kind,
        4,
        0,
        0,
        0,
        stream,
    ];
    frame.resize(9 + length, 0);
    frame
}

fn http2(wire: &mut Wire) -> Connection {
    in_front(wire);
    let mut back = wire.at(1.0).open(BACK.0, BACK.1);
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    begin.extend(frame(4, 0, 18));
    begin.extend(frame(8, 0, 4));
    begin.extend(frame(1, 1, 60));
    wire.at(1.1).send(&mut back, CLIENT, &begin);
    wire.at(1.2).send(&mut back, SERVER, &frame(4, 0, 6));
    wire.at(1.3).send(&mut back, CLIENT, &frame(4, 0, 0));
    back
}

#[test]
fn of_http2_only_headers_begin_a_request() {
    let mut wire = Wire::default();
    let mut back = http2(&mut wire);
    let answer = [frame(1, 1, 30), frame(0, 1, 500), frame(6, 0, 8)].concat();
    wire.at(5.0).send(&mut back, SERVER, &answer);
    for (at, kind, length) in [(5.1, 8, 4), (5.2, 6, 8), (5.3, 4, 0)] {
        wire.at(at).send(&mut back, CLIENT, &frame(kind, 0, length));
        wire.at(at + 0.05).send(&mut back, SERVER, &frame(6, 0, 8));
    }
    wire.at(5.4).send(&mut back, CLIENT, &frame(8, 0, 4));
    // A stream that its client gave up, while the connection stays.
    wire.at(100.0).send(&mut back, CLIENT, &frame(1, 3, 60));
    wire.at(200.0).send(&mut back, CLIENT, &frame(3, 3, 4));
    leave(&mut wire, 60_000.0, &mut back, Some(frame(7, 0, 8)));
    assert!(
        labels(&wire.packets).is_empty(),
        "{:?}",
        labels(&wire.packets)
    );
}

#[test]
fn an_http2_stream_that_nobody_answers_is_told() {
    let mut wire = Wire::default();
    let mut back = http2(&mut wire);
    wire.at(5.0).send(&mut back, SERVER, &frame(6, 0, 8));
    wire.at(5.1).send(&mut back, CLIENT, &frame(6, 0, 8));
    leave(&mut wire, 60_000.0, &mut back, Some(frame(7, 0, 8)));
    assert_eq!(
        labels(&wire.packets),
        ["verdict - read_timeout_no_reply likely (upstream_read, upstream_accepted)"]
    );
}
