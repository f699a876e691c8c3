//! A TLS connection to an upstream: where in it requests begin, and what is of an answer. Pure.
//!
//! Records show their kind and length (RFC 8446, 5.1). What is shorter than any request or answer is an alert
//! or a key update. TLS 1.3 hides session tickets among the data: the little that comes first on a new
//! connection may be these.

use crate::{Flow, flow_flag, tls};

/// Bytes of a record's header.
pub const HEADER: u32 = 5;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION: u8 = 23;
/// Of a record with room for `GET / HTTP/1.1`, two empty lines, a kind and a tag.
const SHORTEST: u32 = 35;
/// Of `100 Continue` alone, by the cipher: no answer yet.
const CONTINUE: [u32; 3] = [41, 42, 49];
/// TLS 1.3: of an alert.
const ALERTED: u32 = 19;
/// TLS 1.3: of a client's Finished, by the hash.
const FINISHED: [u32; 2] = [53, 69];
/// Session tickets take no more than this.
const TICKETS: u32 = 4096;
const TICKET_RECORDS: u32 = 2;
/// Records looked at in one read: a server's handshake has six.
const MOST: u32 = 10;

/// What was sent begins a request. `header`: the first bytes of what was sent.
#[inline(always)]
pub fn asks(flow: &mut Flow, header: [u8; HEADER as usize]) -> bool {
    let [kind, major, _, high, low] = header;
    if major != 3 {
        return false;
    }
    if kind == CHANGE_CIPHER_SPEC {
        // A Finished goes with it.
        flow.tls |= tls::FINISHED;
    }
    let length = u32::from(u16::from_be_bytes([high, low]));
    if kind != APPLICATION || length < SHORTEST {
        return false;
    }
    if flow.tls & (tls::SECRET | tls::FINISHED | tls::ASKED) == tls::SECRET
        && (length == FINISHED[0] || length == FINISHED[1])
    {
        flow.tls |= tls::FINISHED;
        return false;
    }
    true
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
        let data = kind == APPLICATION && length >= SHORTEST && !interim;
        flow.tls &= !tls::WITHIN;
        if !asked {
            if kind == APPLICATION {
                flow.tls |= tls::SECRET;
            }
            flow.tls |= tls::WITHIN;
            answers = true;
        } else if data {
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
            flow.tls |= tls::SEVERAL;
            flow.flags |= flow_flag::UPGRADED;
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
        && flow.flags & flow_flag::OLDER == 0
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

/// Extensions and names that are looked at.
const EXTENSIONS: u32 = 24;
const NAMES: u32 = 4;
const ALPN: u16 = 16;

/// What there is at an offset of a hello where it cannot be read.
pub const UNREAD: [u8; 8] = [0xff; 8];

/// Whether the client's hello offers HTTP/2, whose requests need not wait for each other; also where the
/// hello is not what it should be, or not all there. `at`: what is at this offset of it, or `UNREAD`.
#[inline(always)]
pub fn offers_http2(there: u64, at: impl Fn(u32) -> [u8; 8]) -> bool {
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
            ALPN => return names_http2(offset + 6, offset + 4 + size, at),
            u16::MAX => return true,
            _ => offset += 4 + size,
        }
    }
    true
}

#[inline(always)]
fn names_http2(mut offset: u32, end: u32, at: impl Fn(u32) -> [u8; 8]) -> bool {
    for _ in 0..NAMES {
        if offset >= end {
            return false;
        }
        let [length, a, b, ..] = at(offset);
        if length == 0xff || (length == 2 && a == b'h' && b == b'2') {
            return true;
        }
        offset += 1 + u32::from(length);
    }
    false
}
