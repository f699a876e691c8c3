//! The scripted upstream that does what each request's query asks of it.
//!
//! `ms=N` waits before the answer, `idle=N` closes the connection when nothing came for so long after
//! it, `status=N` answers with that, `do=…` misbehaves.

use std::thread;
use std::time::Duration;

use super::{Log, Stream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

pub(super) fn converse(stream: &Stream, log: &Log) {
    let mut idle = None;
    loop {
        if idle.is_some_and(|limit| !stream.readable_within(limit)) {
            log.say("closed_idle", None);
            return;
        }
        let Some(request) = Request::read(stream) else {
            return;
        };
        log.say("read", Some(&request.path));
        if let Some(ms) = request.number("ms") {
            thread::sleep(Duration::from_millis(ms));
        }
        if let Some(head) = request.asked("do").and_then(bad_head) {
            // A proxy that takes it all the same sends its next request.
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        if let Some(what) = request.asked("do") {
            misbehave(stream, what);
            log.say(what, Some(&request.path));
            return;
        }
        let sent = match request.number("status") {
            Some(status) => {
                let head = format!("HTTP/1.1 {status} Chosen\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes())
            }
            None => stream.write_all(OK),
        };
        log.say("answered", Some(&request.path));
        if sent.is_err() {
            return;
        }
        idle = request.number("idle").map(Duration::from_millis);
    }
}

/// A whole response with a head that is too big or malformed.
fn bad_head(what: &str) -> Option<String> {
    let fields = match what {
        "big-head" => format!("X-Filler: {}\r\n", "a".repeat(1000)).repeat(120),
        "bad-head" => "Bad\x01 Name: x\r\n".to_owned(),
        _ => return None,
    };
    Some(format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"
    ))
}

/// Ends the connection, or leaves it to the other side to end.
fn misbehave(stream: &Stream, what: &str) {
    let sent = match what {
        "reset" => {
            stream.linger_zero();
            return;
        }
        "partial" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
            return;
        }
        "reject" => {
            let head = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(head);
            return;
        }
        "hold" => Ok(()),
        "neglect" => loop {
            thread::park();
        },
        "banner" => stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
        // "close", "spurn", and anything unknown.
        _ => return,
    };
    // The proxy gives up, and so closes.
    let mut rest = [0; 4096];
    while sent.is_ok() && stream.read(&mut rest).is_ok_and(|size| size > 0) {}
}

struct Request {
    path: String,
    query: String,
}

impl Request {
    /// The next one, with its body unless that is not to be read; `None` at the end.
    fn read(stream: &Stream) -> Option<Request> {
        let mut bytes = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            let size = stream.read(&mut buffer).ok().filter(|size| *size > 0)?;
            bytes.extend_from_slice(&buffer[..size]);
            let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let target = head.split(' ').nth(1)?;
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let request = Request {
                path: path.to_owned(),
                query: query.to_owned(),
            };
            let unread = matches!(request.asked("do"), Some("reject" | "spurn" | "neglect"));
            if unread || body_is_there(&head, &bytes[end + 4..]) {
                return Some(request);
            }
        }
    }

    fn asked(&self, name: &str) -> Option<&str> {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.asked(name)?.parse().ok()
    }
}

fn body_is_there(head: &str, body: &[u8]) -> bool {
    let head = head.to_ascii_lowercase();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    if field("transfer-encoding").is_some() {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = field("content-length").and_then(|length| length.parse().ok());
    body.len() >= length.unwrap_or(0)
}
