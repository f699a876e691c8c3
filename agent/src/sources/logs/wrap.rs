//! What syslog and containers put around a line: taken off before the line is read. Pure.

use std::borrow::Cow;

use super::Moment;
use super::time::iso;

/// A line without its wrapping.
#[derive(Debug, PartialEq)]
pub(super) struct Unwrapped<'a> {
    pub line: Cow<'a, str>,
    pub stream: Stream,
    /// The rest of the line is in the next record of this stream.
    pub partial: bool,
    /// When the wrapping was put around it, where it says that with its zone.
    pub at: Option<Moment>,
    /// Who wrote it, where syslog says.
    pub pid: Option<u32>,
}

/// Standard output and error of a container are separate logs in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Plain,
    Out,
    Err,
}

pub(super) fn unwrap(line: &str) -> Unwrapped<'_> {
    container(line)
        .or_else(|| docker(line))
        .or_else(|| syslog(line))
        .unwrap_or(Unwrapped {
            line: Cow::Borrowed(line),
            stream: Stream::Plain,
            partial: false,
            at: None,
            pid: None,
        })
}

fn stream(name: &str) -> Option<Stream> {
    match name {
        "stdout" => Some(Stream::Out),
        "stderr" => Some(Stream::Err),
        _ => None,
    }
}

/// The runtime interface's format: `2026-11-21T12:12:16.123456789Z stdout F line`.
fn container(line: &str) -> Option<Unwrapped<'_>> {
    let mut words = line.splitn(4, ' ');
    let at = iso(words.next()?)?;
    let stream = stream(words.next()?)?;
    let tags = words.next()?;
    let partial = match tags.split(':').next()? {
        "F" => false,
        "P" => true,
        _ => return None,
    };
    Some(Unwrapped {
        line: Cow::Borrowed(words.next()?),
        stream,
        partial,
        at: Some(at),
        pid: None,
    })
}

/// Docker's json-file: `{"log":"line\n","stream":"stdout","time":"…"}`.
fn docker(line: &str) -> Option<Unwrapped<'_>> {
    if !line.starts_with("{\"log\":") {
        return None;
    }
    let object: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| object.get(name)?.as_str();
    let stream = stream(text("stream")?)?;
    let at = iso(text("time")?);
    let log = text("log")?;
    let (line, partial) = match log.strip_suffix('\n') {
        Some(line) => (line, false),
        None => (log, true),
    };
    // One record is one line: a second newline would be a client's.
    (!line.contains('\n')).then(|| Unwrapped {
        line: Cow::Owned(line.to_owned()),
        stream,
        partial,
        at,
        pid: None,
    })
}

/// `Nov 21 12:15:15 host haproxy[307]: line`, `2026-11-21T12:15:15.7+00:00 host haproxy[307]: line`,
/// `<134>1 2026-11-21T12:15:15.7Z host haproxy 307 - - line`; the priority may have been taken off.
fn syslog(line: &str) -> Option<Unwrapped<'_>> {
    let bare = line
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .filter(|(priority, _)| priority.len() <= 3 && priority.parse::<u16>().is_ok())
        .map_or(line, |(_, rest)| rest);
    let of = |line, at, pid| Unwrapped {
        line: Cow::Borrowed(line),
        stream: Stream::Plain,
        partial: false,
        at,
        pid,
    };
    if let Some(rest) = bare.strip_prefix("1 ") {
        let mut words = rest.splitn(7, ' ');
        let at = iso(words.next()?)?;
        let pid = words.nth(2)?.parse().ok();
        let message = words.nth(2)?;
        return Some(of(message, Some(at), pid));
    }
    let (at, rest) = match bare.split_once(' ') {
        Some((first, rest)) if iso(first).is_some() => (iso(first), rest),
        // Its year is missing: no time is taken from it.
        _ => (None, after_old_time(bare)?),
    };
    // One or two host names, or none, then the tag.
    let (head, message) = rest.split_once(": ")?;
    let tag = head.rsplit(' ').next()?;
    if head.split(' ').count() > 3 || head.contains(['"', '[']) && !tag.ends_with(']') {
        return None;
    }
    let (name, pid) = match tag.strip_suffix(']').and_then(|t| t.split_once('[')) {
        Some((name, pid)) => (name, Some(pid.parse().ok()?)),
        None => (tag, None),
    };
    let named = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    named.then(|| of(message, at, pid))
}

/// What follows `Nov 21 12:15:15 `.
fn after_old_time(line: &str) -> Option<&str> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (time, rest) = line.split_at_checked(16)?;
    let month = MONTHS.find(time.get(..3)?)?;
    let bytes = time.as_bytes();
    let clock = bytes[9] == b':' && bytes[12] == b':' && bytes[15] == b' ';
    (month % 3 == 0 && bytes[3] == b' ' && bytes[6] == b' ' && clock).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_line_goes() {
        let bare = |line| {
            let unwrapped = unwrap(line);
            (
                unwrapped.line.into_owned(),
                unwrapped.stream,
                unwrapped.partial,
                unwrapped.pid,
            )
        };
        let plain = |line: &str, pid| (line.to_owned(), Stream::Plain, false, pid);
        for line in [
            "Nov 21 12:15:15 localhost haproxy[307]: the line: it",
            "<134>Nov 21 12:15:15 haproxy[307]: the line: it",
            "<134>1 2026-11-21T12:15:15.704461+00:00 - haproxy 307 - - the line: it",
            "2026-11-21T12:15:15.704461+00:00 lb-1 haproxy[307]: the line: it",
        ] {
            assert_eq!(bare(line), plain("the line: it", Some(307)), "{line}");
        }
        assert_eq!(
            bare("2026-11-21T12:12:16.123456789Z stderr P half a li"),
            ("half a li".to_owned(), Stream::Err, true, None)
        );
        assert_eq!(
            bare(r#"{"log":"a line\n","stream":"stdout","time":"2026-11-21T12:12:16.1Z"}"#),
            ("a line".to_owned(), Stream::Out, false, None)
        );
        for line in [
            "2026/11/21 12:12:16 [error] 1#1: *6 connect() failed",
            r#"10.0.0.7 - - [21/Nov/2026:12:12:16 +0000] "GET / HTTP/1.1" 200 1"#,
            r#"{"log":"two\nlines\n","stream":"stdout","time":"2026-11-21T12:12:16.1Z"}"#,
            "",
            "Nov",
            "<",
            "é",
        ] {
            assert_eq!(bare(line), plain(line, None), "{line}");
        }
    }
}
