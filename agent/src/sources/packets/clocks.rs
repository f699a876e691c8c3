//! One clock for all interfaces of a capture: each that lags is taken on from where it was, and one
//! packet that is dated far ahead does not move the others.

use crate::signal::Nanos;

use super::SECOND;

/// A time, and the interface whose clock says so.
pub(super) type Stamp = (Nanos, u32);

/// A clock that steps back further than this is taken on from where it was.
const STEP_BACK: Nanos = SECOND;
/// A packet ahead by more than this is astray if the next one is not.
const AHEAD: Nanos = 10 * SECOND;
/// Where the next one is not known yet, by more than this.
const FAR_AHEAD: Nanos = 86_400 * SECOND;
/// Interfaces with clocks of their own.
const INTERFACES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Added to each interface's clock; empty while there is nothing to add.
    shifts: Vec<i64>,
    /// Of the clock that stepped back last.
    latest: i64,
    /// The last packet that was taken to be astray; another one confirms its clock.
    astray: Stamp,
}

impl Clocks {
    /// A time by the common clock.
    #[inline]
    pub(super) fn read(&self, (at, interface): Stamp) -> Nanos {
        let shift = match self.shifts.is_empty() {
            true => 0,
            false => self.shifts[interface as usize % INTERFACES],
        };
        bounded(at, shift)
    }

    /// A clock was taken on from where it was: it was set, or the capture is not in order.
    pub(super) fn stepped(&self) -> bool {
        !self.shifts.is_empty()
    }

    /// A time that somebody else tells, by the common clock.
    pub(super) fn told(&self, at: Nanos) -> Nanos {
        bounded(at, self.latest)
    }

    /// The time of a packet that is behind `now`, or perhaps far ahead of it.
    pub(super) fn settle(&mut self, stamp: Stamp, next: Option<Stamp>, now: Nanos) -> Nanos {
        let at = self.read(stamp);
        if at + STEP_BACK < now {
            self.latest = self.shift(stamp.1, (now - at) as i64);
            return now;
        }
        let next = next.map(|next| self.read(next));
        // Of what comes first nothing else says the time.
        let now = match now {
            0 => next.map_or(at, |next| next.min(at)),
            now => now,
        };
        let (before, interface) = self.astray;
        let again = interface == stamp.1 && stamp.0.abs_diff(before) < AHEAD;
        let astray = match next {
            Some(next) => at > now + AHEAD && next + STEP_BACK < at,
            None => at > now + FAR_AHEAD && !again,
        };
        if !astray {
            return at;
        }
        self.astray = stamp;
        if again {
            // Not one packet but a clock.
            self.shift(interface, now as i64 - at as i64);
        }
        now
    }

    fn shift(&mut self, interface: u32, by: i64) -> i64 {
        self.shifts.resize(INTERFACES, 0);
        let shift = &mut self.shifts[interface as usize % INTERFACES];
        *shift = shift.saturating_add(by);
        *shift
    }
}

/// A damaged file may claim any time: sums with this one must not overflow.
fn bounded(at: Nanos, shift: i64) -> Nanos {
    at.saturating_add_signed(shift).min(Nanos::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Nanos = 1_795_000_000 * SECOND;

    fn run(stamps: &[(u64, u32)], look_ahead: bool) -> Vec<u64> {
        let stamps: Vec<Stamp> = stamps
            .iter()
            .map(|(s, i)| (BEGIN + s * SECOND, *i))
            .collect();
        let (mut clocks, mut now) = (Clocks::default(), 0);
        let mut seconds = Vec::new();
        for (i, stamp) in stamps.iter().enumerate() {
            let next = stamps.get(i + 1).copied().filter(|_| look_ahead);
            let at = clocks.settle(*stamp, next, now);
            now = now.max(at);
            seconds.push((now - BEGIN) / SECOND);
        }
        seconds
    }

    #[test]
    fn interfaces_whose_clocks_differ_do_not_drive_each_other() {
        let pairs = (0..3u64).flat_map(|i| [(1000 + i, 0), (100 + i, 1)]);
        let stamps: Vec<(u64, u32)> = pairs.chain([(1005, 0), (1006, 0), (107, 1)]).collect();
        let ahead = [1000, 1000, 1001, 1001, 1002, 1002, 1005, 1006, 1007];
        assert_eq!(run(&stamps, false), ahead);
        let behind = [100, 100, 100, 101, 101, 102, 104, 105, 107];
        assert_eq!(run(&stamps, true), behind);
    }

    #[test]
    fn one_packet_that_is_dated_ahead_dates_nothing_else() {
        let year = 400 * 86_400;
        for (stamps, look_ahead, seconds) in [
            (vec![5, 6, 900, 7, 8], true, [5, 6, 6, 7, 8]),
            (vec![900, 5, 6, 7, 8], true, [5, 5, 6, 7, 8]),
            (vec![5, 6, year, 7, 8], false, [5, 6, 6, 7, 8]),
            (vec![5, 6, 900, 901, 902], true, [5, 6, 900, 901, 902]),
            (vec![5, 6, 900, 901, 902], false, [5, 6, 900, 901, 902]),
            (
                vec![5, 6, year, year + 1, year + 2],
                true,
                [5, 6, year, year + 1, year + 2],
            ),
            // Without what comes next the second one confirms it.
            (
                vec![5, 6, year, year + 1, year + 2],
                false,
                [5, 6, 6, year + 1, year + 2],
            ),
        ] {
            let stamps: Vec<(u64, u32)> = stamps.into_iter().map(|s| (s, 0)).collect();
            assert_eq!(run(&stamps, look_ahead), seconds, "{stamps:?} {look_ahead}");
        }
    }

    #[test]
    fn a_clock_that_stepped_back_goes_on_from_where_it_was() {
        let stamps = [(499, 0), (500, 0), (100, 0), (101, 0), (600, 0)];
        assert_eq!(run(&stamps, true), [499, 500, 500, 501, 1000]);
    }
}
