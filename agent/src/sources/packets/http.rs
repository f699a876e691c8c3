//! What is read of HTTP/1 heads, and of what comes before or instead of them. Pure.

use memchr::memchr;

use crate::sources::wire;

use super::parse::Framing;

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
                request.length = request.length.saturating_add(body.unwrap_or(0));
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
        // Whatever a client says of its body.
        let length = b"\x0e\0CONTENT_LENGTH\x14\x0018446744073709551615";
        let mut packet = vec![0, length.len() as u8, 0, 0];
        packet.extend(length);
        assert_eq!(uwsgi(&packet).unwrap().length, u64::MAX);
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
