//! Numbers, durations, signals and untrusted names, as people read them.

use std::fmt::Write;

/// A duration in the unit a person would choose.
pub(crate) fn duration(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{} µs", nanos / 1000),
        1_000_000..10_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{} ms", nanos / 1_000_000),
        1_000_000_000..10_000_000_000 => format!("{:.2} s", nanos as f64 / 1e9),
        _ => format!("{:.1} s", nanos as f64 / 1e9),
    }
}

pub(super) fn bytes(count: u64) -> String {
    if count == 1 {
        "1 byte".to_owned()
    } else {
        format!("{count} bytes")
    }
}

/// `SIGKILL`, or the number where it has no well-known name.
pub(super) fn signal(number: u8) -> String {
    let name = match number {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        10 => "USR1",
        11 => "SEGV",
        12 => "USR2",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        31 => "SYS",
        _ => return format!("signal {number}"),
    };
    format!("SIG{name}")
}

pub(super) fn errno(number: i32) -> String {
    let name = match number {
        1 => "EPERM",
        2 => "ENOENT",
        11 => "EAGAIN",
        13 => "EACCES",
        20 => "ENOTDIR",
        23 => "ENFILE",
        24 => "EMFILE",
        32 => "EPIPE",
        40 => "ELOOP",
        91 => "EPROTOTYPE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        104 => "ECONNRESET",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        _ => return format!("errno {number}"),
    };
    name.to_owned()
}

/// A name that some process chose: without control characters, and short.
pub(crate) fn clean(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().take(64) {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (nanos, text) in [
            (0, "0 µs"),
            (999_999, "999 µs"),
            (2_400_000, "2.4 ms"),
            (968_123_000, "968 ms"),
            (1_000_000_000, "1.00 s"),
            (60_000_000_000, "60.0 s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        assert_eq!(clean("a\n\x1b[31mb"), "a\\u{a}\\u{1b}[31mb");
        assert_eq!(clean(&"x".repeat(500)).len(), 64);
    }
}
