//! Protocols that no proxy speaks to its upstreams: nothing of them is a failure.

use super::build::*;
use super::opaque::in_front;

/// Databases speak first; what their clients say last gets no answer.
#[test]
fn a_server_that_speaks_first_is_no_upstream() {
    let mut wire = Wire::default();
    in_front(&mut wire);
    let mut back = wire.at(1.0).open("10.0.0.1:4000", "10.0.0.2:3306");
    wire.at(1.1)
        .send(&mut back, SERVER, b"\x4a\0\0\0\x0a8.0.36\0abcdefgh");
    wire.at(1.2)
        .send(&mut back, CLIENT, b"\x20\0\0\x01\x85\xa2\x1e\0login");
    wire.at(1.3)
        .send(&mut back, SERVER, b"\x07\0\0\x02\0\0\0\x02\0\0\0");
    wire.at(2.0).send(&mut back, CLIENT, b"\x01\0\0\0\x01");
    wire.at(2.1).fin(&mut back, SERVER);
    wire.at(2.2).fin(&mut back, CLIENT);
    assert!(
        labels(&wire.packets).is_empty(),
        "{:?}",
        labels(&wire.packets)
    );
}

/// What a worker asks of a database or a cache at the proxy's own address is no attempt, however it
/// ends; a request whose method is not known here is one.
#[test]
fn what_no_proxy_speaks_is_no_failure() {
    let closed = |bytes: &[u8], how: u8| {
        let mut wire = Wire::default();
        in_front(&mut wire);
        let mut back = wire.at(1.0).open("10.0.0.1:4000", "10.0.0.2:5432");
        wire.at(1.1).send(&mut back, CLIENT, bytes);
        wire.at(2000.0).push(&mut back, SERVER, how, b"");
        wire.at(2000.1).fin(&mut back, CLIENT);
        labels(&wire.packets)
    };
    for bytes in [
        &b"SELECT 1\n"[..],
        b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n",
        b"get x\r\n",
        b"GET key\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    ] {
        for how in [0x11, 0x14] {
            let told = closed(bytes, how);
            assert!(told.is_empty(), "{bytes:?}: {told:?}");
        }
    }
    for request in [&b"PURGE /x HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PURGE /x"] {
        let told = closed(request, 0x11);
        assert_eq!(told.len(), 1, "{request:?}: {told:?}");
    }
}
