//! What proxies hand to their TLS library, and the status that the kernel half reads of it.

use agent_ebpf::{PLAINTEXT, Told, told};

fn of(start: &[u8]) -> Told {
    let mut bytes = [0; PLAINTEXT];
    bytes[..start.len()].copy_from_slice(start);
    told(&bytes)
}

fn in_stream(status: u16) -> Told {
    Told {
        status,
        in_stream: true,
    }
}

#[test]
fn a_status_line_tells_its_status() {
    let line = |status| Told {
        status,
        in_stream: false,
    };
    assert_eq!(of(b"HTTP/1.1 502 Bad Gateway\r\nServer: nginx"), line(502));
    assert_eq!(of(b"HTTP/1.0 200 OK\r\n"), line(200));
    for other in [&b"HTTP/1.1 5x2 "[..], b"HTTP/2 502", b"HTTPS are"] {
        assert_eq!(of(other), line(0));
    }
}

/// As they were seen at `SSL_write`.
#[test]
fn http2_of_real_proxies_tells_its_status() {
    let nginx = b"\x00\x00\x36\x01\x04\x00\x00\x00\x01H\x03502v\x89\xaacU\xe5\x80\xae!.\x1fa";
    assert_eq!(of(nginx), in_stream(502));
    let haproxy = b"\x00\x00\x1f\x01\x04\x00\x00\x00\x01H\x03503\\\x03107X\x08no-cache";
    assert_eq!(of(haproxy), in_stream(503));
    let apache = b"\x00\x00Y\x01\x04\x00\x00\x00\x01H\x03503\x0f\x0d\x03339_\x95I|";
    assert_eq!(of(apache), in_stream(503));
    // Its second one stands in the connection's table.
    let again = b"\x00\x00\x0a\x01\x04\x00\x00\x00\x03\xc1\x0f\x0d\x03339\xc0\xbf\xbe";
    assert_eq!(of(again), in_stream(0));
}

#[test]
fn frames_before_the_headers_are_stepped_over() {
    let settings = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00";
    let window = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\x00\x00";
    let headers = b"\x00\x00\x06\x01\x04\x00\x00\x00\x01H\x03504";
    let all = [&settings[..], window, headers].concat();
    assert_eq!(of(&all), in_stream(504));
    let data = b"\x00\x40\x00\x00\x00\x00\x00\x00\x01HTTP/1.1 502";
    assert_eq!(of(data), in_stream(0));
    let goaway = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00";
    assert_eq!(of(goaway), in_stream(0));
}

#[test]
fn the_ways_to_write_a_status_in_http2_are_known() {
    let headers = |flags: u8, block: &[u8]| {
        let head = [0, 0, 30, 1, flags, 0, 0, 0, 1];
        of(&[&head[..], block].concat())
    };
    assert_eq!(headers(4, &[0x8e]), in_stream(500));
    assert_eq!(headers(4, &[0x88]), in_stream(200));
    assert_eq!(headers(4, b"\x08\x03502"), in_stream(502));
    assert_eq!(headers(4, b"\x18\x03502"), in_stream(502));
    assert_eq!(headers(4, b"\x20\x48\x03502"), in_stream(502));
    // A size of 173, and 503 after it.
    assert_eq!(headers(4, b"\x3f\x8e\x01\x48\x03503"), in_stream(0));
    assert_eq!(headers(4 | 8, b"\x05\x48\x03502"), in_stream(502));
    let priority = b"\x00\x00\x00\x00\x10\x48\x03502";
    assert_eq!(headers(4 | 32, priority), in_stream(502));
    // `502` is shorter in Huffman's code, `503` is not.
    assert_eq!(headers(4, &[0x48, 0x82, 0x6c, 0x02]), in_stream(502));
    assert_eq!(headers(4, &[0x48, 0x82, 0x10, 0x02]), in_stream(0));
    assert_eq!(headers(4, b"\x48\x0350"), in_stream(0));
}

/// What lies behind the bytes that are looked at is not known.
#[test]
fn a_field_that_is_not_whole_tells_nothing() {
    let after = |settings: u8, flags: u8, block: &[u8]| {
        let mut bytes = vec![0, 0, settings, 4, 0, 0, 0, 0, 0];
        bytes.resize(bytes.len() + usize::from(settings), 0);
        bytes.extend([0, 0, 30, 1, flags, 0, 0, 0, 1]);
        bytes.extend_from_slice(block);
        bytes.truncate(PLAINTEXT);
        of(&bytes)
    };
    let priority = b"\x00\x00\x00\x00\x10\x48\x03502";
    assert_eq!(after(40, 4, b"\x48\x03502"), in_stream(502));
    for settings in [41, 44, 46] {
        assert_eq!(
            after(settings, 4, b"\x48\x03502"),
            in_stream(0),
            "{settings}"
        );
        assert_eq!(
            after(settings, 4 | 32, priority),
            in_stream(0),
            "{settings}"
        );
    }
}
