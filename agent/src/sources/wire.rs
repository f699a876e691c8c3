//! What the first bytes of a connection are: HTTP/1, TLS, uwsgi, FastCGI, HTTP/2 or something else. Pure.

use crate::signal::{HeadFault, Opening};

const METHODS: [&str; 14] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
    "MKCOL", "COPY", "MOVE", "LOCK",
];

/// What the first bytes of a request are. `bytes` may be cut.
pub fn request(bytes: &[u8]) -> Opening {
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return Opening::Http2;
    }
    if let Some(request) = http_request(bytes) {
        return request;
    }
    binary(bytes)
}

/// Whether a client's bytes in the middle of a connection are a frame of HTTP/2: headers, settings, a ping, room
/// for more.
pub fn is_http2_frame(bytes: &[u8]) -> bool {
    match bytes {
        [0, _, _, 1, flags, high, _, _, low, ..] => {
            const END_STREAM_END_HEADERS_PADDED_PRIORITY: u8 = 0x2d;
            flags & !END_STREAM_END_HEADERS_PADDED_PRIORITY == 0 && high & 0x80 == 0 && low & 1 == 1
        }
        [0, 0, length, 4, 0 | 1, 0, 0, 0, 0, ..] => length % 6 == 0,
        [0, 0, 8, 6, 0 | 1, 0, 0, 0, 0, ..] => true,
        [0, 0, 4, 8, 0, high, _, _, _, ..] => high & 0x80 == 0,
        _ => false,
    }
}

/// What the first bytes of a response are.
pub fn response(bytes: &[u8]) -> Opening {
    match status(bytes) {
        Some(status) => Opening::HttpResponse { status },
        None => binary(bytes),
    }
}

/// The status of `HTTP/1.x NNN`.
pub fn status(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"HTTP/1.")?;
    let (b' ', [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) =
        (*rest.get(1)?, rest.get(2..5)?)
    else {
        return None;
    };
    Some(
        [a, b, c]
            .iter()
            .fold(0, |n, d| n * 10 + u16::from(**d - b'0')),
    )
}

/// What makes an HTTP/1 response's head none, as far as these first bytes of it show; `all`: nothing
/// more came.
pub fn head_fault(bytes: &[u8], all: bool) -> Option<HeadFault> {
    status(bytes)?;
    let mut lines = bytes.split(|&b| b == b'\n').skip(1).peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            break;
        }
        match line.strip_suffix(b"\r").unwrap_or(line) {
            b"" => return None,
            line if is_field(line) => {}
            _ => return Some(HeadFault::Malformed),
        }
    }
    all.then_some(HeadFault::Cut)
}

/// `name: value`, or a value that goes on.
fn is_field(line: &[u8]) -> bool {
    let text = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let colon = line.iter().position(|&b| b == b':');
    let goes_on = matches!(line, [b' ' | b'\t', ..]);
    let named = colon.is_some_and(|end| end > 0 && line[..end].iter().all(token));
    line.iter().all(text) && (goes_on || named)
}

/// The method of the request line that the bytes begin with.
pub fn method(bytes: &[u8]) -> Option<&'static str> {
    let space = bytes.iter().take(16).position(|&b| b == b' ')?;
    let word = &bytes[..space];
    METHODS.into_iter().find(|m| m.as_bytes() == word)
}

fn http_request(bytes: &[u8]) -> Option<Opening> {
    let method = method(bytes)?;
    let space = method.len();
    let rest = &bytes[space + 1..];
    let end = rest.iter().position(|b| matches!(b, b' ' | b'\r' | b'\n'));
    let target = &rest[..end.unwrap_or(rest.len())];
    let query = target.iter().position(|b| matches!(b, b'?' | b'#'));
    let path = origin_form(&target[..query.unwrap_or(target.len())]);
    Some(Opening::HttpRequest {
        method: method.to_owned(),
        path: String::from_utf8_lossy(path).into_owned(),
        path_complete: end.is_some() || query.is_some(),
        host: host(bytes),
    })
}

/// The path of `http://host/path`; other targets are paths already.
pub fn origin_form(target: &[u8]) -> &[u8] {
    let after = |scheme: &[u8]| match target.split_at_checked(scheme.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(scheme) => Some(rest),
        _ => None,
    };
    let rest = after(b"http://").or_else(|| after(b"https://"));
    match rest {
        Some(rest) => rest
            .iter()
            .position(|&b| b == b'/')
            .map_or(b"/", |at| &rest[at..]),
        None => target,
    }
}

/// The Host header, where it lies complete within the bytes.
fn host(bytes: &[u8]) -> Option<String> {
    let value = String::from_utf8_lossy(field(bytes, b"host")?)
        .trim()
        .to_owned();
    Some(value).filter(|v| !v.is_empty())
}

/// The body that a request's head announces, where that lies complete within the bytes.
pub fn announced_body(bytes: &[u8]) -> Option<u64> {
    method(bytes)?;
    let value = std::str::from_utf8(field(bytes, b"content-length")?).ok()?;
    value.trim().parse().ok()
}

/// The value of a head's first field of this name, in small letters.
fn field<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = bytes.split(|&b| b == b'\n');
    lines.next()?;
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        // The last piece may be cut.
        lines.peek()?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        if let Some((start, [b':', value @ ..])) = line.split_at_checked(name.len())
            && start.eq_ignore_ascii_case(name)
        {
            return Some(value);
        }
    }
    None
}

fn binary(bytes: &[u8]) -> Opening {
    match bytes {
        // TLS record: handshake or alert or data, version 3.x.
        [20..=23, 3, 0..=4, ..] => Opening::Tls,
        // HTTP/2 SETTINGS: the first frame of a server.
        [0, 0, _, 4, _, 0, 0, 0, 0, ..] => Opening::Http2,
        // FastCGI version 1, a record type of 1 to 11, request id at most 255.
        [1, 1..=11, 0, _, ..] => Opening::FastCgi,
        // uwsgi: modifier1 0 (a WSGI request), little-endian size, modifier2 0, first key's length.
        [0, size_low, size_high, 0, key_low, 0, ..]
            if usize::from(*key_low) > 0
                && usize::from(u16::from_le_bytes([*size_low, *size_high]))
                    > usize::from(*key_low) =>
        {
            Opening::Uwsgi
        }
        _ => Opening::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(method: &str, path: &str, complete: bool, host: Option<&str>) -> Opening {
        Opening::HttpRequest {
            method: method.into(),
            path: path.into(),
            path_complete: complete,
            host: host.map(Into::into),
        }
    }

    #[test]
    fn requests() {
        for (bytes, expected) in [
            (
                &b"GET /a?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n"[..],
                http("GET", "/a", true, Some("x")),
            ),
            (b"GET /a?secr", http("GET", "/a", true, None)),
            (b"POST /orders/12", http("POST", "/orders/12", false, None)),
            (
                b"POST /o HTTP/1.1\r\nHost: sho",
                http("POST", "/o", true, None),
            ),
            (
                b"GET http://h:1/p?q HTTP/1.1\r\n",
                http("GET", "/p", true, None),
            ),
            (b"GET http://h HTTP/1.1\r\n", http("GET", "/", true, None)),
            (
                b"GET HTTP://user:secret@h/p HTTP/1.1\r\n",
                http("GET", "/p", true, None),
            ),
            (
                b"GET /a HTTP/1.1\r\nX: 1\r\n\r\nHost: body\r\n\r\n",
                http("GET", "/a", true, None),
            ),
            (b"\x16\x03\x01\x02\x00\x01", Opening::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Opening::Http2),
            (b"\x00\x80\x01\x00\x0c\x00QUERY_STRING", Opening::Uwsgi),
            (b"\x01\x01\x00\x01\x00\x08\x00\x00", Opening::FastCgi),
            (b"hello there", Opening::Other),
            (b"", Opening::Other),
        ] {
            assert_eq!(
                request(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn frames_of_a_client() {
        for frame in [
            &b"\x00\x00\x2b\x01\x05\x00\x00\x00\x03"[..],
            b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03",
            b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
            b"\x00\x00\x08\x06\x01\x00\x00\x00\x00",
            b"\x00\x00\x04\x08\x00\x00\x00\x00\x00",
        ] {
            assert!(is_http2_frame(frame), "{frame:?}");
        }
        for other in [
            &b"\x00\x00\x2b\x01\x05\x00\x00\x00\x02"[..],
            b"\x00\x00\x2b\x01\x82\x00\x00\x00\x03",
            b"\x00\x00\x2b\x01\x05\x00\x00\x00",
            b"\x00\x80\x01\x00\x0c\x00QUERY_STRING",
            b"\x01\x01\x00\x01\x00\x08\x00\x00\x01",
            b"GET / HTTP/1.1\r\n",
        ] {
            assert!(!is_http2_frame(other), "{other:?}");
        }
    }

    #[test]
    fn responses() {
        for (bytes, expected) in [
            (
                &b"HTTP/1.1 502 Bad"[..],
                Opening::HttpResponse { status: 502 },
            ),
            (
                b"HTTP/1.0 200 OK\r\n",
                Opening::HttpResponse { status: 200 },
            ),
            (b"HTTP/1.1 20", Opening::Other),
            (b"\x15\x03\x01\x00\x02\x02\x46", Opening::Tls),
            (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00", Opening::Http2),
            (b"SSH-2.0-OpenSSH", Opening::Other),
        ] {
            assert_eq!(
                response(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn bodies_that_are_announced() {
        for (bytes, body) in [
            (
                &b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 17 \r\n\r\n"[..],
                Some(17),
            ),
            (b"POST / HTTP/1.1\r\nContent-Length: 17\r\n", Some(17)),
            (b"POST / HTTP/1.1\r\nContent-Length: 17", None),
            (b"POST / HTTP/1.1\r\nContent-Lengths: 17\r\n\r\n", None),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", None),
            (b"POST / HTTP/1.1\r\n\r\nContent-Length: 17\r\n\r\n", None),
            (b"\x16\x03\x01\r\nContent-Length: 17\r\n\r\n", None),
        ] {
            assert_eq!(
                announced_body(bytes),
                body,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn heads_that_are_none() {
        let cut = Some(HeadFault::Cut);
        let malformed = Some(HeadFault::Malformed);
        for (bytes, all, expected) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Le"[..], true, cut),
            (b"HTTP/1.1 200 OK\r\nContent-Le", false, None),
            (b"HTTP/1.1 200 OK\r\n", true, cut),
            (b"HTTP/1.1 200 OK\r\n\r\n", true, None),
            (b"HTTP/1.1 200 OK\n\nBad Name: x\n", true, None),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", true, None),
            (b"HTTP/1.1 200 OK\r\nBad\x01 Name: x\r\n", true, malformed),
            (b"HTTP/1.1 200 OK\r\nA: \x01\r\nB: ", false, malformed),
            (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", true, malformed),
            (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", true, malformed),
            (b"HTTP/1.1 200 OK\r\nX: \xc3\xa9\r\n\r\n", true, None),
            // It may still become one.
            (b"HTTP/1.1 200 OK\r\nBad\x01 Name", false, None),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", true, None),
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(head_fault(bytes, all), expected, "{shown:?}");
        }
    }
}
