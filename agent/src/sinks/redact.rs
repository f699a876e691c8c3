//! What of a packet's payload may be written: the request line without its query, the status
//! line, and nothing else.

use std::net::IpAddr;
use std::ops::Range;

use super::privacy::{Privacy, template};

/// Which bytes of a payload are written, and which of those become `x`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) keep: usize,
    pub(super) blank: Vec<Range<usize>>,
}

/// Longer methods and reasons than these are not HTTP's.
const LONGEST_METHOD: usize = 20;
const LONGEST_REASON: usize = 60;

/// For a payload in which a request's or a response's head begins. A line that is not whole is not
/// shown: where its path ends is not known.
pub(super) fn head_line(payload: &[u8], privacy: Privacy) -> Shown {
    let Some(end) = payload.windows(2).position(|two| two == b"\r\n") else {
        return Shown::default();
    };
    let line = &payload[..end];
    let blank = if is_status_line(line) {
        Some(Vec::new())
    } else {
        request_line(line, privacy)
    };
    blank.map_or_else(Shown::default, |blank| Shown {
        keep: end + 2,
        blank,
    })
}

fn is_status_line(line: &[u8]) -> bool {
    let Some([b'0'..=b'9', b' ', a, b, c, reason @ ..]) = line.strip_prefix(b"HTTP/1.") else {
        return false;
    };
    [a, b, c].iter().all(|digit| digit.is_ascii_digit())
        && matches!(reason, [] | [b' ', ..])
        && reason.len() <= LONGEST_REASON
        && reason.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// The ranges to overwrite, if it is a request line with a path.
fn request_line(line: &[u8], privacy: Privacy) -> Option<Vec<Range<usize>>> {
    let method = line.iter().position(|&byte| byte == b' ')?;
    let is_method = (1..=LONGEST_METHOD).contains(&method)
        && line[..method]
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    let rest = &line[method + 1..];
    let target = rest.iter().position(|&byte| byte == b' ')?;
    let (target, version) = (&rest[..target], &rest[target + 1..]);
    if !is_method || !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") || target.first() != Some(&b'/')
    {
        return None;
    }
    let start = method + 1;
    let query = target
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#' | b';'));
    let path = &target[..query.unwrap_or(target.len())];
    let mut blank = Vec::new();
    match privacy {
        Privacy::Full => {}
        Privacy::Template => {
            let mut at = start;
            for segment in path.split(|&byte| byte == b'/') {
                let text = String::from_utf8_lossy(segment);
                if template(&text) != text {
                    blank.push(at..at + segment.len());
                }
                at += segment.len() + 1;
            }
        }
        Privacy::Minimal => blank.push(start + 1..start + path.len()),
    }
    if let Some(query) = query {
        // The sign itself says that there was one.
        blank.push(start + query + 1..start + target.len());
    }
    blank.retain(|range| !range.is_empty());
    Some(blank)
}

/// Cuts the client's address in a frame's headers to what a level shows, and hardware addresses,
/// which name a machine as well, to nothing.
pub(super) fn hide_addresses(
    headers: &mut [u8],
    link_type: u16,
    client: Option<IpAddr>,
    privacy: Privacy,
) {
    if privacy == Privacy::Full {
        return;
    }
    // Ethernet's two; the one of the cooked captures, version 1 and 2.
    let hardware = match link_type {
        1 => 0..12,
        113 => 6..14,
        276 => 12..20,
        _ => 0..0,
    };
    if let Some(hardware) = headers.get_mut(hardware) {
        hardware.fill(0);
    }
    let (address, network): (Vec<u8>, usize) = match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(ip)) => (ip.octets().to_vec(), 3),
        Some(IpAddr::V6(ip)) => (ip.octets().to_vec(), 6),
        None => return,
    };
    let kept = match privacy {
        Privacy::Template => network,
        Privacy::Full | Privacy::Minimal => 0,
    };
    let mut at = 0;
    // Wherever it stands: tunnels and ICMP errors repeat it.
    while at + address.len() <= headers.len() {
        if headers[at..].starts_with(&address) {
            headers[at + kept..at + address.len()].fill(0);
            at += address.len();
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(payload: &str, privacy: Privacy) -> String {
        let shown = head_line(payload.as_bytes(), privacy);
        let mut kept = payload.as_bytes()[..shown.keep].to_vec();
        for range in shown.blank {
            kept[range].fill(b'x');
        }
        String::from_utf8(kept).unwrap()
    }

    #[test]
    fn the_lines_alone_are_kept_and_queries_overwritten() {
        let full = |payload| shown(payload, Privacy::Full);
        assert_eq!(
            full("POST /a/b?token=secret HTTP/1.1\r\nCookie: secret\r\n\r\nsecret"),
            "POST /a/b?xxxxxxxxxxxx HTTP/1.1\r\n"
        );
        assert_eq!(full("GET / HTTP/1.0\r\nCookie: c"), "GET / HTTP/1.0\r\n");
        assert_eq!(
            full("GET /a;jsessionid=1#f HTTP/1.1\r\n"),
            "GET /a;xxxxxxxxxxxxxx HTTP/1.1\r\n"
        );
        assert_eq!(
            full("HTTP/1.1 502 Bad Gateway\r\nSet-Cookie: secret"),
            "HTTP/1.1 502 Bad Gateway\r\n"
        );
        assert_eq!(full("HTTP/1.0 204\r\n\r\n"), "HTTP/1.0 204\r\n");
    }

    #[test]
    fn what_is_no_whole_line_is_not_shown() {
        for payload in [
            "",
            "secret",
            "secret\r\n",
            "POST /a?token=sec",
            "secret /a HTTP/1.1\r\n",
            "GET secret HTTP/1.1\r\n",
            "GET http://user:secret@host/ HTTP/1.1\r\n",
            "GET /a secret HTTP/1.1\r\n",
            "GET /a HTTP/2\r\n",
            "HTTP/1.1 20x secret\r\n",
            "HTTP/1.1 200secret\r\n",
            "HTTP/1.1 200 \u{7}secret\r\n",
            "\r\n\r\nsecret",
        ] {
            assert_eq!(shown(payload, Privacy::Full), "", "{payload:?}");
        }
        let long = format!("HTTP/1.1 200 {}\r\n", "secret".repeat(20));
        assert_eq!(shown(&long, Privacy::Full), "");
    }

    #[test]
    fn privacy_reaches_into_the_path() {
        let line = "GET /users/4711/notes/a@b.c?x=1 HTTP/1.1\r\n";
        assert_eq!(
            shown(line, Privacy::Template),
            "GET /users/xxxx/notes/xxxxx?xxx HTTP/1.1\r\n"
        );
        assert_eq!(
            shown(line, Privacy::Minimal),
            "GET /xxxxxxxxxxxxxxxxxxxxxx?xxx HTTP/1.1\r\n"
        );
    }
}
