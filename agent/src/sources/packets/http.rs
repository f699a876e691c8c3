//! HTTP/1 heads and where a message ends: just enough to tell requests, statuses and idle times. Pure.

use memchr::memchr;

use crate::sources::wire;

use super::frames::{self, Frame, Protocol, UNKNOWN};

/// How far one direction's bytes have been understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Where a message begins is not known; the next one that begins with a segment after the
    /// other side's turn is taken.
    #[default]
    Lost,
    /// The next byte begins a message.
    Start,
    /// A head has begun and its end has not come.
    Head,
    Body,
    ChunkSize,
    /// After the size, up to the end of its line.
    ChunkLine,
    /// A chunk's data and the two bytes after it.
    ChunkData,
    /// After the last chunk, at a line's beginning.
    Trailer,
    /// Within a trailer's line.
    TrailerLine,
    UntilClose,
    /// Not HTTP/1; `protocol` says what.
    Opaque,
    /// After an upgrade or CONNECT: whatever both sides agreed on, and nothing to be judged.
    Tunnel,
}

/// The state of one direction between two segments; packed, for it is part of each connection's
/// most used cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed(4))]
pub(super) struct Parse {
    /// Bytes of the body, chunk or record to come; in `ChunkSize` the size so far.
    left: u64,
    pub stage: Stage,
    /// In `Opaque`.
    pub protocol: Protocol,
    /// What is known of an opaque connection, with its client's direction.
    pub notes: u8,
}

impl Parse {
    pub(super) fn body(&mut self, framing: Framing) {
        (self.stage, self.left) = match framing {
            Framing::None | Framing::Length(0) => (Stage::Start, 0),
            Framing::Length(length) => (Stage::Body, length),
            Framing::Chunked => (Stage::ChunkSize, 0),
            Framing::UntilClose => (Stage::UntilClose, 0),
            Framing::Unknown => (Stage::Lost, 0),
        };
    }

    /// A body whose end is known from its head has begun, and not ended.
    pub(super) fn is_cut_short(&self) -> bool {
        use Stage::{Body, ChunkData, ChunkLine, ChunkSize, Trailer, TrailerLine};
        matches!(
            self.stage,
            Body | ChunkSize | ChunkLine | ChunkData | Trailer | TrailerLine
        )
    }

    pub(super) fn opaque(&mut self, protocol: Protocol) {
        (self.stage, self.left, self.protocol) = (Stage::Opaque, 0, protocol);
    }

    /// In `Opaque`: the next record that begins in a segment, at or after `at`.
    pub(super) fn next_frame(&mut self, there: &[u8], length: u32, at: &mut u32) -> Option<Frame> {
        let mut left = self.left;
        let frame = frames::next(self.protocol, &mut left, there, length, at);
        self.left = left;
        frame
    }

    /// In `Opaque`: bytes of a record that has begun are still to come.
    pub(super) fn within_frame(&self) -> bool {
        self.left != 0 && self.left != UNKNOWN
    }

    /// In `Opaque`: where it is not known where records begin, one is taken to begin here.
    pub(super) fn frame_may_begin(&mut self) {
        if self.left == UNKNOWN {
            self.left = 0;
        }
    }

    /// In `Opaque`: whether it is known where records begin.
    pub(super) fn knows_frames(&self) -> bool {
        self.left != UNKNOWN
    }

    /// Follows a body of known length through a segment that does not go beyond it; false where
    /// that is not what the bytes are.
    #[inline]
    pub(super) fn within_body(&mut self, length: u32) -> bool {
        let length = u64::from(length);
        if self.stage != Stage::Body || length > self.left {
            return false;
        }
        self.left -= length;
        if self.left == 0 {
            self.stage = Stage::Start;
        }
        true
    }

    /// Follows a body through `length` bytes, of which the first are there to be read.
    /// Returns how many belong to it; the body is over when the stage is `Start`.
    pub(super) fn skip(&mut self, bytes: &[u8], length: u32) -> u32 {
        let mut at = 0;
        while at < length {
            let rest = u64::from(length - at);
            match self.stage {
                Stage::Body | Stage::ChunkData => {
                    let step = rest.min(self.left);
                    self.left -= step;
                    at += step as u32;
                    if self.left > 0 {
                        continue;
                    }
                    if self.stage == Stage::Body {
                        self.stage = Stage::Start;
                        return at;
                    }
                    self.stage = Stage::ChunkSize;
                }
                Stage::ChunkSize | Stage::ChunkLine | Stage::Trailer | Stage::TrailerLine => {
                    let Some(&byte) = bytes.get(at as usize) else {
                        self.stage = Stage::Lost;
                        return length;
                    };
                    at += 1;
                    self.chunk_byte(byte);
                    if self.stage == Stage::Start {
                        return at;
                    }
                }
                Stage::UntilClose | Stage::Opaque | Stage::Tunnel | Stage::Lost => return length,
                Stage::Start | Stage::Head => return at,
            }
        }
        at
    }

    fn chunk_byte(&mut self, byte: u8) {
        self.stage = match (self.stage, byte) {
            (Stage::ChunkSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.left >> 56 == 0 => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                Stage::ChunkSize
            }
            (Stage::ChunkSize, b';' | b'\r' | b' ' | b'\t') => Stage::ChunkLine,
            (Stage::ChunkSize | Stage::ChunkLine, b'\n') if self.left == 0 => Stage::Trailer,
            (Stage::ChunkSize | Stage::ChunkLine, b'\n') => {
                self.left += 2;
                Stage::ChunkData
            }
            (Stage::ChunkLine, _) => Stage::ChunkLine,
            (Stage::Trailer, b'\n') => Stage::Start,
            (Stage::TrailerLine, b'\n') => Stage::Trailer,
            (Stage::Trailer, b'\r') => Stage::Trailer,
            (Stage::Trailer | Stage::TrailerLine, _) => Stage::TrailerLine,
            _ => Stage::Lost,
        };
    }

    /// Bytes are missing from the capture; `count` of them, if that is known.
    pub(super) fn gap(&mut self, count: u32) {
        let count = u64::from(count);
        match self.stage {
            Stage::Body | Stage::ChunkData if count < self.left => self.left -= count,
            Stage::Body if count == self.left => self.stage = Stage::Start,
            Stage::UntilClose | Stage::Tunnel => {}
            Stage::Opaque if self.left == UNKNOWN => {}
            Stage::Opaque if count <= self.left => self.left -= count,
            Stage::Opaque => self.left = UNKNOWN,
            _ => self.stage = Stage::Lost,
        }
    }
}

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    Unknown,
}

/// A head within some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// Up to and with the empty line.
    pub length: usize,
    /// Without its line end.
    pub first_line: &'a [u8],
    pub host: Option<&'a [u8]>,
    content_length: Option<Result<u64, ()>>,
    chunked: bool,
}

/// No head is longer than this; what is, is not understood.
pub(super) const LONGEST: usize = 32 * 1024;

/// The head that the bytes begin with, if its end is among them.
pub(super) fn head(bytes: &[u8]) -> Option<Head<'_>> {
    let first = memchr(b'\n', bytes)?;
    let mut head = Head {
        length: 0,
        first_line: trim(&bytes[..first]),
        host: None,
        content_length: None,
        chunked: false,
    };
    let mut at = first + 1;
    loop {
        let end = at + memchr(b'\n', &bytes[at..])?;
        let line = trim(&bytes[at..end]);
        at = end + 1;
        match line.first() {
            None => {
                head.length = at;
                return Some(head);
            }
            Some(b'c' | b'C') => {
                if let Some(value) = value(line, b"content-length:") {
                    head.content_length = Some(number(value).ok_or(()));
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value(line, b"transfer-encoding:") {
                    head.chunked = value.len() >= 7
                        && value[value.len() - 7..].eq_ignore_ascii_case(b"chunked");
                }
            }
            Some(b'h' | b'H') => {
                if let Some(value) = value(line, b"host:") {
                    head.host = Some(value).filter(|v| !v.is_empty());
                }
            }
            Some(_) => {}
        }
    }
}

impl Head<'_> {
    fn explicit(&self) -> Option<Framing> {
        match self.content_length {
            _ if self.chunked => Some(Framing::Chunked),
            Some(Ok(length)) => Some(Framing::Length(length)),
            Some(Err(())) => Some(Framing::Unknown),
            None => None,
        }
    }

    pub(super) fn request_body(&self) -> Framing {
        self.explicit().unwrap_or(Framing::None)
    }

    /// `bodyless`: the request was a HEAD.
    pub(super) fn response_body(&self, status: u16, bodyless: bool) -> Framing {
        if bodyless || matches!(status, 100..=199 | 204 | 304) {
            return Framing::None;
        }
        self.explicit().unwrap_or(Framing::UntilClose)
    }
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The value of a header line, if it is of this name, which ends with the colon.
#[inline]
fn value<'a, const N: usize>(line: &'a [u8], name: &[u8; N]) -> Option<&'a [u8]> {
    let (begin, rest) = line.split_first_chunk::<N>()?;
    // Most names are of another length; the rest is compared as a whole, not byte after byte.
    let differs = |d, (a, b): (&u8, &u8)| d | (a.to_ascii_lowercase() ^ b);
    let named = begin[N - 1] == b':' && begin.iter().zip(name).fold(0, differs) == 0;
    named.then(|| rest.trim_ascii())
}

/// As `str::parse` has it.
fn number(value: &[u8]) -> Option<u64> {
    let digit = |n: u64, b: &u8| n * 10 + u64::from(b - b'0');
    if (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit) {
        return Some(value.iter().fold(0, digit));
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Method and target of a request line, for comparing: the target without scheme and authority.
pub(super) fn method_and_target(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr(b' ', line)?;
    let rest = &line[space + 1..];
    let target = &rest[..memchr(b' ', rest).unwrap_or(rest.len())];
    Some((&line[..space], wire::origin_form(target)))
}

/// Whether bytes may begin a request, be its method known here or not: a word, a path or another
/// target, and where the line is whole, the protocol at its end.
pub(super) fn begins_request(bytes: &[u8]) -> bool {
    let (line, whole) = match memchr(b'\n', bytes) {
        Some(end) => (&bytes[..end], true),
        None => (bytes, false),
    };
    let mut words = line.split(|b| *b == b' ');
    let method = words.next().unwrap_or_default();
    let target = words.next();
    let is_word = !method.is_empty() && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
    let is_target = target.is_some_and(|t| !t.is_empty() || !whole);
    let protocol = words.next().unwrap_or_default();
    is_word && is_target && (!whole || protocol.starts_with(b"HTTP/1."))
}

/// The PROXY protocol's header before the first request: its length, 0 if there is none, `None` if
/// it is not whole.
pub(super) fn proxy_protocol(bytes: &[u8]) -> Option<usize> {
    const SECOND: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    if bytes.starts_with(b"PROXY ") {
        let line = &bytes[..bytes.len().min(107)];
        return memchr(b'\n', line).map(|end| end + 1);
    }
    if bytes.starts_with(SECOND) {
        let length = bytes.get(14..16)?;
        let whole = 16 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return (bytes.len() >= whole).then_some(whole);
    }
    Some(0)
}

/// What a uwsgi packet says of its request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uwsgi<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub host: Option<&'a [u8]>,
    /// Header, variables and body.
    pub length: u64,
}

/// The variables of a uwsgi packet, as far as they are among the bytes.
pub(super) fn uwsgi(bytes: &[u8]) -> Option<Uwsgi<'_>> {
    let [0, low, high, 0, ..] = *bytes else {
        return None;
    };
    let size = usize::from(u16::from_le_bytes([low, high]));
    let mut request = Uwsgi {
        length: 4 + size as u64,
        ..Uwsgi::default()
    };
    let mut rest = bytes.get(4..4 + size)?;
    while !rest.is_empty() {
        let (key, after) = sized(rest)?;
        let (value, after) = sized(after)?;
        rest = after;
        match key {
            b"REQUEST_METHOD" => request.method = value,
            b"REQUEST_URI" => request.target = value,
            b"HTTP_HOST" => request.host = Some(value),
            b"CONTENT_LENGTH" => {
                let body: Option<u64> =
                    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                request.length += body.unwrap_or(0);
            }
            _ => {}
        }
    }
    Some(request)
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(usize::from(u16::from_le_bytes([size[0], size[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(text: &str) -> Framing {
        let head = head(text.as_bytes()).unwrap();
        assert_eq!(head.length, text.len());
        match wire::status(text.as_bytes()) {
            Some(status) => head.response_body(status, false),
            None => head.request_body(),
        }
    }

    #[test]
    fn the_end_of_a_body_is_known_from_its_head() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
            (
                "POST / HTTP/1.1\r\ncontent-LENGTH:  12 \r\n\r\n",
                Framing::Length(12),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                Framing::Unknown,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n",
                Framing::Chunked,
            ),
            ("HTTP/1.0 200 OK\n\n", Framing::UntilClose),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                Framing::None,
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", Framing::None),
            (
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
                Framing::Length(0),
            ),
        ] {
            assert_eq!(framing(text), expected, "{text}");
        }
        assert_eq!(head(b"GET / HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(head(b"GET / HT"), None);
    }

    #[test]
    fn bodies_are_followed_however_they_are_cut() {
        let chunked: &[u8] = b"5;x=1\r\nhello\r\n0B\r\nhello world\r\n0\r\nT: 1\r\n\r\n";
        for size in 1..=chunked.len() {
            let mut parse = Parse::default();
            parse.body(Framing::Chunked);
            let mut followed = 0;
            for piece in chunked.chunks(size) {
                followed += parse.skip(piece, piece.len() as u32);
            }
            assert_eq!(
                (parse.stage, followed as usize),
                (Stage::Start, chunked.len()),
                "{size}"
            );
        }
        let mut parse = Parse::default();
        parse.body(Framing::Length(10));
        assert_eq!(parse.skip(b"", 4), 4);
        parse.gap(3);
        assert_eq!(parse.skip(b"", 100), 3);
        assert_eq!(parse.stage, Stage::Start);
    }

    #[test]
    fn what_is_missing_or_malformed_is_not_guessed() {
        let mut parse = Parse::default();
        parse.body(Framing::Length(10));
        parse.gap(11);
        assert_eq!(parse.stage, Stage::Lost);
        parse.body(Framing::Chunked);
        parse.skip(b"zz", 2);
        assert_eq!(parse.stage, Stage::Lost);
        // The size of a chunk was cut off by the snap length.
        parse.body(Framing::Chunked);
        assert_eq!(parse.skip(b"5\r\nhe", 1000), 1000);
        assert_eq!(parse.stage, Stage::Lost);
        parse.body(Framing::Chunked);
        parse.skip(b"ffffffffffffffffffffffff\r\n", 26);
        assert_eq!(parse.stage, Stage::Lost);
    }

    #[test]
    fn headers_before_the_request() {
        assert_eq!(proxy_protocol(b"GET / HTTP/1.1"), Some(0));
        assert_eq!(
            proxy_protocol(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET"),
            Some(32)
        );
        assert_eq!(proxy_protocol(b"PROXY TCP4 1.2"), None);
        let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x02abGET /";
        assert_eq!(proxy_protocol(second), Some(18));
        assert_eq!(proxy_protocol(&second[..17]), None);
    }

    #[test]
    fn uwsgi_variables_name_the_request() {
        let mut vars = Vec::new();
        for (key, value) in [
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/a?b"),
            ("CONTENT_LENGTH", "7"),
        ] {
            for text in [key, value] {
                vars.extend((text.len() as u16).to_le_bytes());
                vars.extend(text.as_bytes());
            }
        }
        let mut packet = vec![0, vars.len() as u8, 0, 0];
        packet.extend(&vars);
        let request = uwsgi(&packet).unwrap();
        assert_eq!(
            (request.method, request.target),
            (&b"POST"[..], &b"/a?b"[..])
        );
        assert_eq!(request.length, packet.len() as u64 + 7);
        assert_eq!(uwsgi(&packet[..packet.len() - 1]), None);
    }

    #[test]
    fn methods_that_are_not_known_may_begin_requests() {
        for (bytes, may) in [
            (&b"PURGE /x HTTP/1.1\r\n"[..], true),
            (b"M-SEARCH http://a/ HTTP/1.1\r\n", true),
            (b"REPORT /cut", true),
            (b"GET", false),
            (b"GET ", true),
            (b"OPTIONS * HTTP/1.1\r\n", true),
            (b"GET key\r\n", false),
            (b"PURGE /x\r\n", false),
            (b"SELECT 1\n", false),
            (b"get /x\r\n", false),
            (b"", false),
            (b"\n", false),
            (b" / HTTP/1.1\r\n", false),
        ] {
            assert_eq!(begins_request(bytes), may, "{bytes:?}");
        }
    }
}
