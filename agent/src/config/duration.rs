//! Durations as people write them: `60s`, `1h30m`, `250ms`.

use std::time::Duration;

/// Units, longest name first where one begins another.
const UNITS: &[(&str, u64)] = &[
    ("ms", 1_000_000),
    ("us", 1_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// Parses a duration longer than zero.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("expected a duration such as 60s, 5m or 1h30m".to_owned());
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number
            .parse()
            .map_err(|_| format!("expected a number and a unit such as 60s, got {rest:?}"))?;
        let (unit, scale) = UNITS
            .iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(|| {
                format!("after {number} expected one of d, h, m, s, ms, us; for example {number}s")
            })?;
        nanos = number
            .checked_mul(*scale)
            .and_then(|part| nanos.checked_add(part))
            .ok_or("longer than can be counted")?;
        rest = after[unit.len()..].trim_start();
    }
    if nanos == 0 {
        return Err("must be longer than zero".to_owned());
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("60s", 60_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("250ms", 250),
            ("24h", 86_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, part) in [
            ("", "such as 60s"),
            ("60", "for example 60s"),
            ("s", "a number and a unit"),
            ("-5s", "a number and a unit"),
            ("1.5h", "for example 1s"),
            ("0s", "longer than zero"),
            ("99999999999999999999s", "a number"),
            ("9999999999999d", "longer than can be counted"),
            ("5 parsecs", "one of d, h"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
