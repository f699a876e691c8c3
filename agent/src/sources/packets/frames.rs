//! Where TLS records and HTTP/2 frames begin within what one side of a connection sends. Pure.

use memchr::memmem;

/// What a connection carries that is not HTTP/1 in the clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Other,
    Tls,
    Http2,
    FastCgi,
}

/// A record's or frame's kind, and how many bytes follow its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: u8,
    pub length: u32,
}

/// Where the next one begins is not known.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// What an HTTP/2 client begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Frame {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION: u8 = 23;

    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;

    /// The header that the bytes begin with, and its size; `None` where it is not whole, or none.
    fn read(protocol: Protocol, bytes: &[u8]) -> Option<(Frame, u32)> {
        // Larger ones may be sent, and are not.
        const RECORD: u32 = 1 << 15;
        const FRAME: u32 = 1 << 20;
        const KINDS: u8 = 16;
        match (protocol, bytes) {
            (Protocol::Tls, [kind @ 20..=24, 3, 0..=4, high, low, ..]) => {
                let length = u32::from(u16::from_be_bytes([*high, *low]));
                let frame = Frame {
                    kind: *kind,
                    length,
                };
                (length < RECORD).then_some((frame, 5))
            }
            (Protocol::Http2, [a, b, c, kind, _, stream, _, _, _, ..]) => {
                let length = u32::from_be_bytes([0, *a, *b, *c]);
                let frame = Frame {
                    kind: *kind,
                    length,
                };
                let sound = length <= FRAME && *kind < KINDS && stream >> 7 == 0;
                sound.then_some((frame, 9))
            }
            _ => None,
        }
    }
}

/// The next header at or after `at` within a segment's bytes, of which the first are `there`.
/// `left`: bytes of the current record to come; moved on with `at`.
pub(super) fn next(
    protocol: Protocol,
    left: &mut u64,
    there: &[u8],
    length: u32,
    at: &mut u32,
) -> Option<Frame> {
    if *left == UNKNOWN {
        return None;
    }
    let step = (*left).min(u64::from(length - *at));
    *left -= step;
    *at += step as u32;
    if *at >= length {
        return None;
    }
    let Some((frame, size)) = Frame::read(protocol, there.get(*at as usize..).unwrap_or_default())
    else {
        *left = UNKNOWN;
        return None;
    };
    *at += size;
    *left = u64::from(frame.length);
    Some(frame)
}

/// Whether a TLS client offers HTTP/2, as far as its hello is among the bytes.
pub(super) fn offers_http2(hello: &[u8]) -> bool {
    // The extension's number, two lengths, and names of which one is this.
    let Some(at) = memmem::find(hello, b"\x02h2") else {
        return false;
    };
    let before = &hello[at.saturating_sub(64)..at];
    memmem::find(before, b"\x00\x10").is_some()
}

/// Whether a server's first record says that TLS 1.2 or older is spoken; false where that is not sure.
pub(super) fn is_old_tls(hello: &[u8]) -> bool {
    const SUPPORTED_1_3: &[u8] = b"\x00\x2b\x00\x02\x03\x04";
    let [Frame::HANDSHAKE, 3, _, high, low, rest @ ..] = hello else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    rest.first() == Some(&2)
        && rest
            .get(..length)
            .is_some_and(|hello| memmem::find(hello, SUPPORTED_1_3).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(protocol: Protocol, segments: &[(&[u8], u32)]) -> (Vec<u8>, u64) {
        let (mut left, mut kinds) = (0, Vec::new());
        for (there, length) in segments {
            let mut at = 0;
            while let Some(frame) = next(protocol, &mut left, there, *length, &mut at) {
                kinds.push(frame.kind);
            }
        }
        (kinds, left)
    }

    #[test]
    fn records_are_followed_across_segments() {
        let stream = b"\x16\x03\x01\x00\x03abc\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x02xy";
        let whole = kinds(Protocol::Tls, &[(stream, stream.len() as u32)]);
        assert_eq!(whole, (vec![22, 20, 23], 0));
        for cut in [5, 7, 8, 13, 14, 19, 20] {
            let (a, b) = stream.split_at(cut);
            let segments = [(a, a.len() as u32), (b, b.len() as u32)];
            assert_eq!(
                kinds(Protocol::Tls, &segments),
                (vec![22, 20, 23], 0),
                "{cut}"
            );
        }
        // A header in two pieces, or beyond the snap length, or none at all.
        for (a, b) in [(&stream[..3], 3), (&stream[..8], 21)] {
            assert_eq!(kinds(Protocol::Tls, &[(a, b)]).1, UNKNOWN);
        }
        assert_eq!(
            kinds(Protocol::Tls, &[(b"hello there", 11)]),
            (vec![], UNKNOWN)
        );
        let frames =
            b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff\0\0\x01\x01\x05\0\0\0\x01x";
        let (kinds, left) = kinds(Protocol::Http2, &[(frames, frames.len() as u32)]);
        assert_eq!((kinds, left), (vec![4, 8, 1], 0));
    }

    #[test]
    fn what_hellos_say() {
        let alpn =
            b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x00\x10\x00\x0e\x00\x0c\x02h2\x08http/1.1";
        assert!(offers_http2(alpn));
        assert!(!offers_http2(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"));
        let old = b"\x16\x03\x03\x00\x08\x02\x00\x00\x04\x03\x03ab";
        assert!(is_old_tls(old));
        assert!(!is_old_tls(&old[..12]), "cut");
        let new = b"\x16\x03\x03\x00\x0c\x02\x00\x00\x08\x03\x03\x00\x2b\x00\x02\x03\x04";
        assert!(!is_old_tls(new));
    }
}
