//! Parts of log lines: requests, addresses, escapes. Pure, for any bytes.

use std::net::{IpAddr, SocketAddr};

use crate::signal::{Address, Opening};

/// Paths longer than this are cut.
const PATH: usize = 2048;

/// `METHOD target HTTP/1.1`, and no more spaces than these two.
pub(super) fn request_line(line: &str, host: Option<&str>) -> Option<Opening> {
    let (method, rest) = line.split_once(' ')?;
    let (target, protocol) = rest.split_once(' ')?;
    let http = protocol.strip_prefix("HTTP/")?;
    let known = !http.is_empty() && http.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !known {
        return None;
    }
    request(method, target, host)
}

/// A request; of its target the path without query.
pub(super) fn request(method: &str, target: &str, host: Option<&str>) -> Option<Opening> {
    let token = |b: u8| b.is_ascii_uppercase() || b == b'-' || b == b'_';
    let named = (1..=24).contains(&method.len()) && method.bytes().all(token);
    if !named || target.is_empty() || target == "-" {
        return None;
    }
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let path = crate::sources::wire::origin_form(&target.as_bytes()[..end]);
    let mut path = String::from_utf8_lossy(path).into_owned();
    let whole = path.len() <= PATH;
    if !whole {
        let cut = (0..=PATH).rev().find(|at| path.is_char_boundary(*at));
        path.truncate(cut.unwrap_or(0));
    }
    Some(Opening::HttpRequest {
        method: method.to_owned(),
        path,
        path_complete: whole,
        host: host.and_then(host_name),
    })
}

/// A Host that can be one; anything else a client may have written there is left out.
pub(super) fn host_name(host: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b) || b >= 0x80;
    let named = !host.is_empty() && host != "-" && host.len() <= 255 && host.bytes().all(fits);
    named.then(|| host.to_owned())
}

/// `IP:port`, `IP` or `unix:`; a name is none.
pub(super) fn client(text: &str) -> Option<Address> {
    if text == "unix:" {
        return Some(Address("unix:".to_owned()));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Address(address.to_string()));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = bare.parse().ok()?;
    Some(Address(ip.to_string()))
}

/// With the port that another field of the line holds.
pub(super) fn client_with_port(ip: &str, port: Option<u16>) -> Option<Address> {
    match (ip.parse::<IpAddr>(), port) {
        (Ok(ip), Some(port)) if port > 0 => Some(Address(SocketAddr::new(ip, port).to_string())),
        _ => client(ip),
    }
}

/// An upstream as a log names it: an address, a socket's path, or a short name of the configuration.
pub(super) fn upstream(text: &str) -> Option<Address> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Address(address.to_string()));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let named = path.starts_with(['/', '@']) && path.len() <= 108;
        return (named && visible(path)).then(|| Address(text.to_owned()));
    }
    let named = !text.is_empty() && text.len() <= 255 && text != "-";
    (named && visible(text) && !text.contains([' ', '"', ','])).then(|| Address(text.to_owned()))
}

fn visible(text: &str) -> bool {
    text.chars().all(|c| !c.is_control())
}

/// `scheme://address/path`: the address.
pub(super) fn upstream_of_url(url: &str) -> Option<Address> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    {
        return None;
    }
    if let Some(path) = rest.strip_prefix("unix:") {
        // The URI follows after a colon.
        let path = path.split(':').next()?;
        return upstream(&format!("unix:{path}"));
    }
    upstream(rest.split('/').next()?)
}

/// `\x22` as nginx and Apache write it, `\"` and `\\` as Apache and JSON-like formats do.
pub(super) fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            out.push(first);
            continue;
        }
        match rest {
            [b'x', high, low, after @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            [c @ (b'"' | b'\\' | b'/'), after @ ..] => {
                out.push(*c);
                rest = after;
            }
            [c @ (b'n' | b'r' | b't' | b'b' | b'v'), after @ ..] => {
                out.push(match c {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    _ => 11,
                });
                rest = after;
            }
            _ => out.push(b'\\'),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `#22` as HAProxy writes it.
pub(super) fn unescape_hash(text: &str) -> String {
    if !text.contains('#') {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'#', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            _ => out.push(first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|d| d as u8)
}

/// A status of three digits; 0 and -1 stand for none.
pub(super) fn status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|s| digits && *s >= 100)
}

/// The number before the colon of `(111: Connection refused)`, after `before`.
pub(super) fn errno_after(text: &str, before: &str) -> Option<i32> {
    let (_, rest) = text.split_once(before)?;
    leading_number(rest)
}

pub(super) fn leading_number(text: &str) -> Option<i32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.get(..digits.min(9))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_their_query() {
        let path = |line: &str| match request_line(line, Some("shop.example"))? {
            Opening::HttpRequest { path, .. } => Some(path),
            _ => None,
        };
        assert_eq!(path("GET /a?token=1 HTTP/1.1").as_deref(), Some("/a"));
        assert_eq!(path("GET http://h/p?q HTTP/2.0").as_deref(), Some("/p"));
        for line in [
            "",
            "-",
            "GET /a",
            "GET /a b HTTP/1.1",
            "get /a HTTP/1.1",
            "GET  HTTP/1.1",
            "\u{16}\u{3}\u{1}",
            "GET /a HTTP/1.1 x",
            "GET /a HTTP/x",
        ] {
            assert_eq!(path(line), None, "{line}");
        }
        let long = format!("GET /{} HTTP/1.1", "é".repeat(4000));
        assert!(path(&long).unwrap().len() <= PATH);
    }

    #[test]
    fn a_host_is_a_name_or_nothing() {
        let host = |host| match request("GET", "/", Some(host)) {
            Some(Opening::HttpRequest { host, .. }) => host,
            _ => None,
        };
        assert_eq!(
            host("shop.example:8080").as_deref(),
            Some("shop.example:8080")
        );
        assert_eq!(host("a\", upstream: \"x"), None);
        assert_eq!(host(""), None);
    }

    #[test]
    fn addresses() {
        let of = |url| upstream_of_url(url).map(|a| a.0);
        assert_eq!(of("http://10.0.0.1:80/a?q").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(of("https://[::1]:8443/").as_deref(), Some("[::1]:8443"));
        assert_eq!(
            of("http://unix:/run/a.sock:/x:y").as_deref(),
            Some("unix:/run/a.sock")
        );
        assert_eq!(
            of("uwsgi://127.0.0.1:9190").as_deref(),
            Some("127.0.0.1:9190")
        );
        assert_eq!(of("http://app/x").as_deref(), Some("app"));
        assert_eq!(of("no url"), None);
        assert_eq!(client("10.0.0.7:51544").unwrap().0, "10.0.0.7:51544");
        assert_eq!(client("::1").unwrap().0, "::1");
        assert_eq!(client("evil"), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"/a\x22b\x0A\xC3\xA9\\n\"), "/a\"b\né\\n\\");
        assert_eq!(unescape_hash("/a#22b#"), "/a\"b#");
    }
}
