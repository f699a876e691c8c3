//! What a proxy hands to its TLS library: the status of the response that begins in it. Pure.

/// Bytes of it that are looked at.
pub const PLAINTEXT: usize = 64;

/// Of what is handed over at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// 0: no response begins in it, or none whose status is told.
    pub status: u16,
    /// It is one of several streams' (HTTP/2).
    pub in_stream: bool,
}

/// The status of the first response that begins here: a status line of HTTP/1, or the first header of an
/// HTTP/2 stream's (RFC 9113, 4.1 and 6.2).
#[inline(always)]
pub fn told(bytes: &[u8; PLAINTEXT]) -> Told {
    if bytes[0] == b'H' && bytes[1] == b'T' && bytes[2] == b'T' && bytes[3] == b'P' {
        let plain = bytes[4] == b'/' && bytes[5] == b'1' && bytes[8] == b' ';
        return Told {
            status: if plain { digits(bytes, 9) } else { 0 },
            in_stream: false,
        };
    }
    let mut at = 0;
    for _ in 0..FRAMES {
        if at + FRAME_HEADER + FIELD > PLAINTEXT {
            break;
        }
        if byte(bytes, at + 3) == HEADERS {
            let flags = byte(bytes, at + 4);
            at += FRAME_HEADER;
            at += (flags & PADDED != 0) as usize;
            at += if flags & PRIORITY != 0 { 5 } else { 0 };
            return Told {
                status: field(bytes, at),
                in_stream: true,
            };
        }
        // Settings, windows and acknowledgements go before; what is longer is data of another stream.
        if byte(bytes, at) != 0 || byte(bytes, at + 1) != 0 {
            break;
        }
        at += FRAME_HEADER + byte(bytes, at + 2) as usize;
    }
    Told {
        status: 0,
        in_stream: true,
    }
}

const FRAMES: usize = 4;
const FRAME_HEADER: usize = 9;
/// Type of a HEADERS frame, and its flags.
const HEADERS: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// The longest field: an update of the table's size, a name, a length, three digits.
const FIELD: usize = 6;

/// The `:status` that an HTTP/2 header block begins with (RFC 7541): its place in the static table, or a
/// literal with that name. One that stands in the connection's own table is not known.
#[inline(always)]
fn field(bytes: &[u8; PLAINTEXT], mut at: usize) -> u16 {
    const SIZE_UPDATE: u8 = 0b0010_0000;
    /// With, without and never with an entry in the table.
    const LITERALS: [u8; 3] = [0x48, 0x08, 0x18];
    const HUFFMAN_OF_2: u8 = 0x82;
    let first = byte(bytes, at);
    if first & 0b1110_0000 == SIZE_UPDATE {
        if first & 0b0001_1111 == 0b0001_1111 {
            // A size of several bytes, which is the client's choice.
            return 0;
        }
        at += 1;
    }
    match byte(bytes, at) {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        name if LITERALS[0] == name || LITERALS[1] == name || LITERALS[2] == name => {
            match byte(bytes, at + 1) {
                3 => digits(bytes, at + 2),
                HUFFMAN_OF_2 => huffman(byte(bytes, at + 2), byte(bytes, at + 3)),
                _ => 0,
            }
        }
        _ => 0,
    }
}

/// `5` in six bits and two of `0`, `1` and `2` in five each: no other failure is two bytes.
#[inline(always)]
fn huffman(high: u8, low: u8) -> u16 {
    let bits = (high as u16) << 8 | low as u16;
    let (first, second, third) = (bits >> 10, bits >> 5 & 31, bits & 31);
    if first != 0b01_1011 || second > 2 || third > 2 {
        return 0;
    }
    500 + second * 10 + third
}

#[inline(always)]
fn digits(bytes: &[u8; PLAINTEXT], at: usize) -> u16 {
    let digit = |at: usize| byte(bytes, at).wrapping_sub(b'0') as u16;
    let (a, b, c) = (digit(at), digit(at + 1), digit(at + 2));
    if a > 9 || b > 9 || c > 9 {
        0
    } else {
        a * 100 + b * 10 + c
    }
}

/// Masked: the verifier wants to see that it is within.
#[inline(always)]
fn byte(bytes: &[u8; PLAINTEXT], at: usize) -> u8 {
    bytes[at & (PLAINTEXT - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn any_bytes_are_read_within() {
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = [0; PLAINTEXT];
            for byte in &mut bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 60) as u8 | (seed >> 40) as u8 & 0x0f;
            }
            let status = told(&bytes).status;
            assert!(status < 1000, "{bytes:?}");
        }
    }
}
