//! The only module that reads clocks: monotonic nanoseconds, their wall-clock time, and ids made from both.
//!
//! Everything between the sources and the sinks runs on the monotonic clock of signals. Wall time
//! is added at the edge, by an offset that a recording stores, so a replay writes the same times.

use crate::signal::Nanos;

const NANOS: i128 = 1_000_000_000;

/// Turns the host's monotonic time into wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Wall clock minus monotonic clock, in nanoseconds.
    offset_ns: i64,
}

impl Clock {
    /// Measures this host's offset. The wall clock may be stepped later: measure again from time to time.
    pub fn of_host() -> Clock {
        // Each wall reading lies between two monotonic ones; the narrowest pair is the best guess.
        let best = (0..5)
            .map(|_| {
                let before = read(libc::CLOCK_MONOTONIC);
                let wall = read(libc::CLOCK_REALTIME);
                let after = read(libc::CLOCK_MONOTONIC);
                (after - before, wall - (before + (after - before) / 2))
            })
            .min();
        Clock {
            offset_ns: best.map_or(0, |(_, offset)| offset),
        }
    }

    /// The clock of a recording, or of a test.
    pub fn from_offset(offset_ns: i64) -> Clock {
        Clock { offset_ns }
    }

    /// A wall-clock time as a time of signals; `None` before their beginning.
    pub fn of_unix(self, unix: Nanos) -> Option<Nanos> {
        u64::try_from(i128::from(unix) - i128::from(self.offset_ns)).ok()
    }

    pub fn offset_ns(self) -> i64 {
        self.offset_ns
    }

    /// RFC 3339 in UTC with nanoseconds.
    pub fn rfc3339(self, at: Nanos) -> String {
        let unix = self.unix_ns(at);
        let seconds = unix.div_euclid(NANOS) as i64;
        let nanos = unix.rem_euclid(NANOS);
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second = seconds.rem_euclid(86_400);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
        )
    }

    /// A ULID: the wall clock's milliseconds, then 80 bits mixed from `key`.
    ///
    /// The same time and key give the same id, so a replay names the same verdicts. A key that
    /// says who (node, flow) and which (ordinal) keeps ids apart.
    pub fn ulid(self, at: Nanos, key: &[u64]) -> String {
        let millis = self.unix_ns(at).div_euclid(1_000_000).max(0) as u128 & ((1 << 48) - 1);
        let mut low = at;
        let mut high = !at;
        for word in key {
            low = mix(low ^ word);
            high = mix(high.wrapping_add(low).wrapping_add(*word));
        }
        let bits = millis << 80 | (u128::from(mix(high)) & 0xffff) << 64 | u128::from(mix(low));
        (0..26)
            .map(|i| char::from(CROCKFORD[(bits >> (125 - 5 * i)) as usize & 31]))
            .collect()
    }

    /// Nanoseconds since 1970, as captured packets have them.
    pub fn unix(self, at: Nanos) -> Nanos {
        at.saturating_add_signed(self.offset_ns)
    }

    /// The time of a captured packet on the clock of signals.
    pub fn monotonic(self, at: Nanos) -> Nanos {
        at.saturating_sub_signed(self.offset_ns)
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self, at: Nanos) -> i64 {
        self.unix_ns(at).div_euclid(1_000_000) as i64
    }

    fn unix_ns(self, at: Nanos) -> i128 {
        i128::from(at) + i128::from(self.offset_ns)
    }
}

/// Now, on the clock of signals.
pub fn now() -> Nanos {
    read(libc::CLOCK_MONOTONIC) as Nanos
}

/// The length of the kernel's ticks (its jiffies): its coarse clocks step by one.
pub fn tick_ns() -> Nanos {
    nanos(libc::CLOCK_MONOTONIC_COARSE, libc::clock_getres) as Nanos
}

/// Nanoseconds since 1970: now on the clock of captured packets.
pub fn unix_now() -> Nanos {
    read(libc::CLOCK_REALTIME) as Nanos
}

/// How many seconds this host's local time is east of Greenwich at a moment, in seconds since 1970.
pub fn seconds_east(at: i64) -> i64 {
    // SAFETY: a tm of zeros is valid; localtime_r writes to it and reads `at`.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        let found = libc::localtime_r(&at, &mut local);
        if found.is_null() { 0 } else { local.tm_gmtoff }
    }
}

/// Seconds since 1970, for what is compared with other programs' clocks.
pub fn unix_now_seconds() -> f64 {
    read(libc::CLOCK_REALTIME) as f64 / 1e9
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn read(clock: libc::clockid_t) -> i64 {
    nanos(clock, libc::clock_gettime)
}

type Ask = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

fn nanos(clock: libc::clockid_t, ask: Ask) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to; all these clocks exist on every Linux.
    unsafe { ask(clock, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Year, month and day of a count of days since 1970-01-01 (proleptic Gregorian).
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// SplitMix64's finaliser: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_rfc3339_utc_with_nanoseconds() {
        let at = |unix_ns: i64| Clock::from_offset(unix_ns).rfc3339(0);
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            at(951_782_400_000_000_001),
            "2000-02-29T00:00:00.000000001Z"
        );
        assert_eq!(
            at(1_795_182_504_123_456_789),
            "2026-11-20T13:48:24.123456789Z"
        );
        assert_eq!(at(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(
            at(4_107_542_399_000_000_000),
            "2100-02-28T23:59:59.000000000Z"
        );
        assert_eq!(
            at(4_107_542_400_000_000_000),
            "2100-03-01T00:00:00.000000000Z"
        );
    }

    #[test]
    fn the_offset_carries_a_recording_to_another_host() {
        let clock = Clock::from_offset(1_795_182_504_000_000_000);
        assert_eq!(
            clock.rfc3339(5_000_000_007),
            "2026-11-20T13:48:29.000000007Z"
        );
    }

    #[test]
    fn ulids_are_repeatable_distinct_and_ordered_by_time() {
        let clock = Clock::from_offset(1_795_182_504_000_000_000);
        let id = clock.ulid(1_000_000, &[1, 2]);
        assert_eq!(id, clock.ulid(1_000_000, &[1, 2]));
        assert_eq!(id.len(), 26);
        assert!(id.starts_with("01"), "{id}");
        assert_ne!(id, clock.ulid(1_000_000, &[1, 3]));
        assert_ne!(id, clock.ulid(1_000_001, &[1, 2]));
        assert!(id < clock.ulid(2_000_000, &[0, 0]));
        let many: std::collections::HashSet<_> = (0..10_000)
            .map(|n| clock.ulid(7, &[n / 100, n % 100]))
            .collect();
        assert_eq!(many.len(), 10_000);
    }

    #[test]
    fn ticks_are_of_a_length_that_kernels_have() {
        let hz = (1e9 / tick_ns() as f64).round() as u64;
        assert!((24..=1200).contains(&hz), "{hz}");
    }

    #[test]
    fn this_hosts_clock_agrees_with_itself() {
        let clock = Clock::of_host();
        let wall = clock.unix_ns(now()) as f64 / 1e9;
        assert!((wall - unix_now_seconds()).abs() < 1.0);
    }
}
