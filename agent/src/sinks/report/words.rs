//! Numbers and times on the page, as people read them.

use crate::clock::Clock;

/// `12,345`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

fn rfc3339(ms: i64) -> String {
    let nanos = u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000);
    Clock::from_offset(0).rfc3339(nanos)
}

pub(super) fn date(ms: i64) -> String {
    rfc3339(ms)[..10].to_owned()
}

/// `13:48:24`.
pub(super) fn clock_time(ms: i64) -> String {
    rfc3339(ms)[11..19].to_owned()
}

/// `2026-11-20 13:48:24`.
pub(super) fn date_time(ms: i64) -> String {
    format!("{} {}", date(ms), clock_time(ms))
}

pub(super) fn width_text(ms: i64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{} s", ms / 1_000),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(count), text);
        }
    }
}
