//! A TLS connection to an upstream: where in it requests begin, and what is of an answer. Pure.
//!
//! Records show their kind and length (RFC 8446, 5.1). What is shorter than any request or answer is an alert
//! or a key update. TLS 1.3 hides session tickets among the data: the little that comes first on a new
//! connection may be these.

use crate::{Flow, HEAD, flow_flag, tls};

/// Bytes of a record's header.
pub const HEADER: u32 = 5;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION: u8 = 23;
/// Of a change of cipher.
const CHANGE: u32 = 1;
/// Of a request's first record, which has room for `GET / HTTP/1.1`, two line ends, a kind and a tag.
const SHORTEST: u32 = 35;
/// Of `100 Continue` alone, by the cipher: no answer yet.
const CONTINUE: [u32; 3] = [41, 42, 49];
/// TLS 1.3: of an alert.
const ALERTED: u32 = 19;
/// TLS 1.3: of a key update.
const KEY_UPDATE: u32 = 22;
/// Session tickets take no more than this: up to four, each with a client's certificate in it.
const TICKETS: u32 = 16_384;
const TICKET_RECORDS: u32 = 4;
/// Records looked at in one read: a server's handshake has six.
const MOST: u32 = 10;

/// What was sent begins a request. `header`: what is at this offset of it, zero where it is not all there.
#[inline(always)]
pub fn asks(flow: &mut Flow, header: impl Fn(u32) -> [u8; HEADER as usize]) -> bool {
    let [kind, major, _, high, low] = header(0);
    let length = u32::from(u16::from_be_bytes([high, low]));
    if kind == CHANGE_CIPHER_SPEC && flow.tls & tls::SECRET != 0 {
        // A Finished goes with it, or with Go's and BoringSSL's the alert of who is not content; before the
        // server's part, it goes with a second hello.
        let [next, _, _, high, low] = header(HEADER + CHANGE);
        let alert = (next == APPLICATION) & (u32::from(u16::from_be_bytes([high, low])) == ALERTED);
        if !alert {
            flow.tls |= tls::FINISHED;
        }
    }
    if major != 3 || kind != APPLICATION {
        return false;
    }
    if flow.tls & tls::ASKED == 0 {
        if flow.received == 0 {
            // Early data: what the server says next is its handshake.
            give_up(flow);
            return false;
        }
        if flow.tls & (tls::SECRET | tls::FINISHED) == tls::SECRET {
            // Of a client that has sent no change of cipher: what ends its handshake, well or not.
            if length != ALERTED {
                flow.tls |= tls::FINISHED;
            }
            return false;
        }
    }
    if length < SHORTEST {
        return false;
    }
    if flow.tls & tls::MORE != 0 {
        give_up(flow);
        return false;
    }
    true
}

/// The upstream has said something, and the handshake has not come to its end, so nothing was asked. Who
/// checks a server closes once it has.
#[inline(always)]
pub fn is_within_handshake(flow: &Flow) -> bool {
    // In 1.3 the client has the last word, before the server.
    let over = match flow.tls & tls::SECRET {
        0 => tls::CHANGED,
        _ => tls::FINISHED,
    };
    let unclear = tls::ASKED | tls::SEVERAL | tls::LOST;
    let begun = (flow.flags & flow_flag::SEALED != 0) & (flow.received > 0);
    begun & (flow.tls & (over | unclear) == 0)
}

/// Nothing more can be told of this connection.
#[inline(always)]
pub fn give_up(flow: &mut Flow) {
    flow.tls |= tls::SEVERAL;
    flow.flags |= flow_flag::UPGRADED;
}

/// A request begins: what comes from now on may answer it.
#[inline(always)]
pub fn asked(flow: &mut Flow) {
    if flow.tls & tls::LOST != 0 {
        flow.record_left = 0;
    }
    flow.tls &= !(tls::LOST | tls::WITHIN | tls::FAREWELL);
    flow.tls |= tls::ASKED;
    flow.records = 0;
}

/// Whether any of what was read is of an answer; in the handshake, all is. `header`: what is at this offset
/// of it, zero where it is not all there.
#[inline(always)]
pub fn answers(flow: &mut Flow, read: u32, header: impl Fn(u32) -> [u8; HEADER as usize]) -> bool {
    if flow.tls & tls::LOST != 0 {
        return true;
    }
    let asked = flow.tls & tls::ASKED != 0;
    let mut at = flow.record_left;
    let mut answers = at != 0 && flow.tls & tls::WITHIN != 0;
    for _ in 0..MOST {
        if at >= read {
            break;
        }
        let [kind, major, _, high, low] = header(at);
        if major != 3 || !(CHANGE_CIPHER_SPEC..=APPLICATION).contains(&kind) {
            break;
        }
        let length = u32::from(u16::from_be_bytes([high, low]));
        let interim = length == CONTINUE[0] || length == CONTINUE[1] || length == CONTINUE[2];
        let aside = interim || length == ALERTED || length == KEY_UPDATE;
        flow.tls &= !(tls::WITHIN | tls::FAREWELL);
        if !asked {
            if kind == APPLICATION {
                flow.tls |= tls::SECRET;
            } else if kind == CHANGE_CIPHER_SPEC {
                flow.tls |= tls::CHANGED;
            }
            flow.tls |= tls::WITHIN;
            answers = true;
        } else if kind == APPLICATION && !aside {
            flow.records = flow.records.wrapping_add(1);
            flow.tls |= tls::WITHIN;
            answers = true;
        } else if kind == ALERT || length == ALERTED {
            flow.tls |= tls::FAREWELL;
        }
        at += HEADER + length;
    }
    if at < read {
        // The rest of a header comes with the next read, or this is something else.
        if !asked || is_doubtful(flow) || flow.records == 0 {
            give_up(flow);
        }
        flow.tls |= tls::LOST;
        return true;
    }
    flow.record_left = at - read;
    answers
}

/// What was received may be session tickets.
#[inline(always)]
pub fn is_doubtful(flow: &Flow) -> bool {
    flow.tls & (tls::SECRET | tls::ASKED | tls::SEVERAL) == tls::SECRET | tls::ASKED
        && flow.ordinal == 1
        && flow.received > 0
        && flow.received <= TICKETS
        && flow.records <= TICKET_RECORDS
}

/// Of the hello that opens a connection.
#[inline(always)]
pub fn is_hello(first: u8) -> bool {
    first == HANDSHAKE
}

/// Whether two connections begin with the same hello, which is passed through then.
#[inline(always)]
pub fn is_same_hello(one: &[u8; HEAD], other: &[u8; HEAD]) -> bool {
    // Of the random.
    let some = |head: &[u8; HEAD]| {
        let [a, b, c, d, e, f, g, h] = [
            head[16], head[17], head[18], head[19], head[20], head[21], head[22], head[23],
        ];
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    is_hello(other[0]) && some(one) == some(other)
}

/// Extensions and names that are looked at.
const EXTENSIONS: u32 = 24;
const NAMES: u32 = 4;
const ALPN: u16 = 16;

/// What there is at an offset of a hello where it cannot be read.
pub const UNREAD: [u8; 8] = [0xff; 8];

/// Whether the client's hello offers anything but HTTP/1: of HTTP/2 requests need not wait for each other. Also
/// where the hello is not what it should be, or not all there. `at`: what is at this offset of it, or `UNREAD`.
#[inline(always)]
pub fn offers_more(there: u64, at: impl Fn(u32) -> [u8; 8]) -> bool {
    let number = |offset| {
        let [high, low, ..] = at(offset);
        u32::from(u16::from_be_bytes([high, low]))
    };
    let length = |offset| u32::from(at(offset)[0]);
    if u64::from(HEADER + number(3)) > there {
        return true;
    }
    // Behind the version and the random: the session, suites, compressions.
    let mut offset = HEADER + 4 + 2 + 32;
    offset += 1 + length(offset);
    offset += 2 + number(offset);
    offset += 1 + length(offset);
    let end = offset + 2 + number(offset);
    offset += 2;
    for _ in 0..EXTENSIONS {
        if offset + 4 > end {
            return false;
        }
        let [kind, kind_low, size, size_low, ..] = at(offset);
        let size = u32::from(u16::from_be_bytes([size, size_low]));
        match u16::from_be_bytes([kind, kind_low]) {
            ALPN => return names_more(offset + 6, offset + 4 + size, at),
            u16::MAX => return true,
            _ => offset += 4 + size,
        }
    }
    true
}

#[inline(always)]
fn names_more(mut offset: u32, end: u32, at: impl Fn(u32) -> [u8; 8]) -> bool {
    for _ in 0..NAMES {
        if offset >= end {
            return false;
        }
        let [length, h, t, _, p, slash, one, dot] = at(offset);
        if length != 8 || h != b'h' || t != b't' || p != b'p' {
            return true;
        }
        if slash != b'/' || one != b'1' || dot != b'.' {
            return true;
        }
        offset += 1 + u32::from(length);
    }
    true
}
