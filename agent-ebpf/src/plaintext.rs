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
        if at + FRAME_HEADER > PLAINTEXT {
            break;
        }
        if byte(bytes, at + 3) == HEADERS {
            let flags = byte(bytes, at + 4);
            at += FRAME_HEADER;
            at += (flags & PADDED != 0) as usize;
            at += if flags & PRIORITY != 0 { 5 } else { 0 };
            let whole = at + FIELD <= PLAINTEXT;
            return Told {
                status: if whole { field(bytes, at) } else { 0 },
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
