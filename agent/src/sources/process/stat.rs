//! `/proc/PID/stat`, `schedstat` and namespace links.

use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub name: String,
    pub state: char,
    pub parent: u32,
    /// Clock ticks since boot.
    pub start_ticks: u64,
    /// Where its program's stack begins; 0 where that may not be known.
    pub stack: u64,
}

/// The name is in brackets and may hold anything, brackets and newlines included.
pub(super) fn parse(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = String::from_utf8_lossy(stat.get(close + 1..)?).into_owned();
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22; two are behind us after the name's, which is the second.
    let start_ticks = fields.nth(17)?.parse().ok()?;
    // Field 28.
    let stack = fields.nth(5).and_then(|stack| stack.parse().ok());
    Some(Stat {
        name,
        state,
        parent,
        start_ticks,
        stack: stack.unwrap_or(0),
    })
}

/// Nanoseconds on a CPU, and waiting for one.
pub(super) fn schedstat(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// `net:[4026531840]`
pub(super) fn namespace(link: &Path) -> Option<u32> {
    inode(link, "net")
}

/// The number of `socket:[4711]`.
pub(super) fn socket(link: &Path) -> Option<u64> {
    inode(link, "socket")
}

fn inode<T: std::str::FromStr>(link: &Path, kind: &str) -> Option<T> {
    let text = link.to_str()?.strip_prefix(kind)?;
    text.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_brackets_and_newlines() {
        let line =
            b"42 (a) b\n(c) S 7 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 123456 1 2 3 4 5 28 6";
        let stat = parse(line).expect("a stat line");
        assert_eq!(stat.name, "a) b\n(c");
        assert_eq!(
            (stat.state, stat.parent, stat.start_ticks, stat.stack),
            ('S', 7, 123_456, 28)
        );
        for bad in [&b""[..], b"1 (x", b"1 (x) ", b"1 )x( S", b"1 (x) S y"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn links_and_times() {
        assert_eq!(
            namespace(Path::new("net:[4026531840]")),
            Some(4_026_531_840)
        );
        assert_eq!(socket(Path::new("socket:[12]")), Some(12));
        assert_eq!(socket(Path::new("pipe:[12]")), None);
        assert_eq!(schedstat(b"12 34 5\n"), Some((12, 34)));
        assert_eq!(schedstat(b"12"), None);
    }
}
