//! The times that logs write, as nanoseconds since 1970. Pure: the zone of times without one is given.

use crate::signal::Nanos;

const SECOND: i64 = 1_000_000_000;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The zone of times that are written without one.
#[derive(Clone, Copy, Debug)]
pub enum Zone {
    /// Seconds east of Greenwich.
    Fixed(i64),
    /// Seconds east of Greenwich at a moment, in seconds since 1970: the host's, with its summer time.
    Host(fn(i64) -> i64),
}

/// A moment, and how much later it may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Nanos,
    pub within: Nanos,
}

/// What a clock on the wall shows, not knowing where it hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    /// As if it were UTC.
    seconds: i64,
    nanos: i64,
    within: i64,
}

impl Civil {
    pub(super) fn in_zone(self, zone: Zone) -> Option<Moment> {
        let seconds = match zone {
            Zone::Fixed(east) => self.seconds.checked_sub(east)?,
            Zone::Host(east) => {
                // Right but for the hour that a clock set back shows twice.
                let guess = self.seconds - east(self.seconds);
                self.seconds - east(guess)
            }
        };
        moment(seconds, self.nanos, self.within)
    }
}

fn moment(seconds: i64, nanos: i64, within: i64) -> Option<Moment> {
    let at = seconds.checked_mul(SECOND)?.checked_add(nanos)?;
    Some(Moment {
        at: u64::try_from(at).ok()?,
        within: u64::try_from(within).ok()?,
    })
}

/// Reads a time from its left end.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (head, rest) = self.0.split_at_checked(digits)?;
        let all = head.iter().all(u8::is_ascii_digit);
        self.0 = rest;
        all.then(|| head.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    }

    fn skip(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn month(&mut self) -> Option<i64> {
        let (head, rest) = self.0.split_at_checked(3)?;
        let place = MONTHS.iter().position(|m| m.as_bytes() == head)?;
        self.0 = rest;
        Some(place as i64 + 1)
    }

    /// A day that may be padded by a space.
    fn day(&mut self) -> Option<i64> {
        match self.skip(b' ') {
            Some(()) => self.number(1),
            None => self.number(2),
        }
    }

    /// Nanoseconds of `.123`, and to what they are cut; a whole second without.
    fn fraction(&mut self) -> Option<(i64, i64)> {
        if self.skip(b'.').or_else(|| self.skip(b',')).is_none() {
            return Some((0, SECOND));
        }
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        let unit = 10_i64.pow(9 - digits as u32);
        Some((self.number(digits)? * unit, unit))
    }

    /// `12:13:14`
    fn clock(&mut self) -> Option<i64> {
        let hours = self.number(2).filter(|h| *h < 24)?;
        self.skip(b':')?;
        let minutes = self.number(2).filter(|m| *m < 60)?;
        self.skip(b':')?;
        let seconds = self.number(2).filter(|s| *s < 61)?;
        Some(hours * 3600 + minutes * 60 + seconds)
    }

    /// `+0530`, `-07:00`, `Z`: seconds east of Greenwich.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.0.first()? {
            b'Z' => {
                self.skip(b'Z')?;
                return Some(0);
            }
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        self.0 = &self.0[1..];
        let hours = self.number(2).filter(|h| *h < 24)?;
        let _ = self.skip(b':');
        let minutes = self.number(2).filter(|m| *m < 60)?;
        Some(sign * (hours * 3600 + minutes * 60))
    }

    fn ended(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn civil(year: i64, month: i64, day: i64, clock: i64, fraction: (i64, i64)) -> Option<Civil> {
    let valid =
        (1970..2200).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    // Counted from March, so that a leap day is the last of its year.
    let of_march = year - i64::from(month <= 2);
    let era = of_march.div_euclid(400);
    let of_era = of_march.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    valid.then_some(Civil {
        seconds: days * 86_400 + clock,
        nanos: fraction.0,
        within: fraction.1,
    })
}

/// nginx's error log: `2026/11/21 12:12:16`.
pub(super) fn slashes(text: &str) -> Option<Civil> {
    dated(text, b'/', b' ')
}

/// `2026-11-21 12:12:16` or with `T`, and a fraction.
fn dated(text: &str, between: u8, before_clock: u8) -> Option<Civil> {
    let mut reader = Reader(text.as_bytes());
    let civil = dated_part(&mut reader, between, before_clock)?;
    reader.ended()?;
    Some(civil)
}

fn dated_part(reader: &mut Reader<'_>, between: u8, before_clock: u8) -> Option<Civil> {
    let year = reader.number(4)?;
    reader.skip(between)?;
    let month = reader.number(2)?;
    reader.skip(between)?;
    let day = reader.number(2)?;
    reader.skip(before_clock)?;
    let clock = reader.clock()?;
    let fraction = reader.fraction()?;
    civil(year, month, day, clock, fraction)
}

/// ISO 8601 with its zone: `2026-11-21T12:12:16.444Z`, `2026-11-21T12:12:16+01:00`.
pub(super) fn iso(text: &str) -> Option<Moment> {
    let mut reader = Reader(text.as_bytes());
    let civil = dated_part(&mut reader, b'-', b'T')?;
    let east = reader.zone()?;
    reader.ended()?;
    civil.in_zone(Zone::Fixed(east))
}

/// gunicorn: `2026-11-21 12:12:15 +0000`.
pub(super) fn spaced(text: &str) -> Option<Moment> {
    let (text, zone) = text.rsplit_once(' ')?;
    let mut zone = Reader(zone.as_bytes());
    let east = zone.zone()?;
    zone.ended()?;
    dated(text, b'-', b' ')?.in_zone(Zone::Fixed(east))
}

/// The common log format: `21/Nov/2026:12:12:16 +0000`, and its zone.
pub(super) fn common(text: &str) -> Option<(Moment, i64)> {
    let mut reader = Reader(text.as_bytes());
    let civil = common_part(&mut reader)?;
    reader.skip(b' ')?;
    let east = reader.zone()?;
    reader.ended()?;
    Some((civil.in_zone(Zone::Fixed(east))?, east))
}

/// The same without a zone, as HAProxy writes it: `21/Nov/2026:12:12:16.444`.
pub(super) fn common_civil(text: &str) -> Option<Civil> {
    let mut reader = Reader(text.as_bytes());
    let civil = common_part(&mut reader)?;
    reader.ended()?;
    Some(civil)
}

fn common_part(reader: &mut Reader<'_>) -> Option<Civil> {
    let day = reader.number(2)?;
    reader.skip(b'/')?;
    let month = reader.month()?;
    reader.skip(b'/')?;
    let year = reader.number(4)?;
    reader.skip(b':')?;
    let clock = reader.clock()?;
    let fraction = reader.fraction()?;
    civil(year, month, day, clock, fraction)
}

/// C's `ctime`, with or without a fraction: `Sat Nov 21 12:13:48.123456 2026`.
pub(super) fn ctime(text: &str) -> Option<Civil> {
    let mut reader = Reader(text.as_bytes().get(3..)?);
    reader.skip(b' ')?;
    let month = reader.month()?;
    reader.skip(b' ')?;
    let day = reader.day()?;
    reader.skip(b' ')?;
    let clock = reader.clock()?;
    let fraction = reader.fraction()?;
    reader.skip(b' ')?;
    let year = reader.number(4)?;
    reader.ended()?;
    civil(year, month, day, clock, fraction)
}

/// Seconds since 1970 with a fraction: `1795263136.444`.
pub(super) fn epoch(text: &str) -> Option<Moment> {
    let whole = text.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 || whole > 10 {
        return None;
    }
    let mut reader = Reader(text.as_bytes());
    let seconds = reader.number(whole)?;
    let digits = text.len().saturating_sub(whole + 1).min(9);
    let mut fraction = Reader(reader.0.get(..=digits).unwrap_or(reader.0));
    let (nanos, within) = fraction.fraction()?;
    let rest = &reader.0[reader.0.len().min(digits + 1)..];
    (fraction.0.is_empty() && rest.iter().all(u8::is_ascii_digit)).then_some(())?;
    moment(seconds, nanos, within)
}

/// Seconds with a fraction, as a span: `0.004`.
pub(super) fn span(text: &str) -> Option<Nanos> {
    let within_a_month = |m: &Moment| m.at < 2_592_000 * SECOND as u64;
    epoch(text).filter(within_a_month).map(|m| m.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_263_136;

    #[test]
    fn the_same_moment_in_every_way_of_writing_it() {
        let exact = |within| Moment {
            at: NOON * 1_000_000_000,
            within,
        };
        let second = 1_000_000_000;
        let utc = Zone::Fixed(0);
        assert_eq!(
            slashes("2026/11/21 12:12:16").unwrap().in_zone(utc),
            Some(exact(second))
        );
        assert_eq!(
            slashes("2026/11/21 17:42:16")
                .unwrap()
                .in_zone(Zone::Fixed(19_800)),
            Some(exact(second))
        );
        assert_eq!(
            common("21/Nov/2026:07:12:16 -0500"),
            Some((exact(second), -18_000))
        );
        assert_eq!(
            common_civil("21/Nov/2026:12:12:16.000")
                .unwrap()
                .in_zone(utc),
            Some(exact(1_000_000))
        );
        assert_eq!(
            ctime("Sat Nov 21 12:12:16.000000 2026")
                .unwrap()
                .in_zone(utc),
            Some(exact(1000))
        );
        assert_eq!(
            ctime("Sat Nov 21 12:12:16 2026").unwrap().in_zone(utc),
            Some(exact(second))
        );
        assert!(ctime("Tue Dec  1 12:12:16 2026").is_some());
        assert_eq!(iso("2026-11-21T12:12:16Z"), Some(exact(second)));
        assert_eq!(iso("2026-11-21T13:12:16.000+01:00"), Some(exact(1_000_000)));
        assert_eq!(spaced("2026-11-21 12:12:16 +0000"), Some(exact(second)));
        assert_eq!(epoch("1795263136"), Some(exact(second)));
        assert_eq!(epoch("1795263136.000"), Some(exact(1_000_000)));
        assert_eq!(epoch("1795263136.00000000001"), Some(exact(1)));
        assert_eq!(span("0.004"), Some(4_000_000));
    }

    #[test]
    fn the_hosts_own_zone_is_asked_for_the_day() {
        fn summer(at: i64) -> i64 {
            if at < 1_793_000_000 { 7200 } else { 3600 }
        }
        let moment = slashes("2026/11/21 13:12:16")
            .unwrap()
            .in_zone(Zone::Host(summer));
        assert_eq!(moment.unwrap().at, NOON * 1_000_000_000);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026/11/21",
            "2026/13/21 12:12:16",
            "2026/11/21 24:12:16",
            "9999/11/21 12:12:16",
            "2026/11/21 12:12:16 ",
            "2026/11/21 12:12:1é",
        ] {
            assert_eq!(slashes(text), None, "{text}");
        }
        for text in [
            "",
            "-",
            ".5",
            "1795263136.",
            "17952631361",
            "1e9",
            "1795263136.1x",
        ] {
            assert_eq!(epoch(text), None, "{text}");
        }
        assert_eq!(common("21/Nov/2026:12:12:16 +00"), None);
        assert_eq!(iso("2026-11-21T12:12:16"), None);
    }
}
