//! An interface of a pcapng section: its link type, clock and losses.

use super::super::raw::LinkType;
use crate::signal::Nanos;

#[derive(Debug)]
pub(super) struct Interface {
    pub(super) link_type: LinkType,
    /// 0 where unlimited.
    pub(super) snap_length: u32,
    pub(super) unit: Unit,
    /// Added to every time, in nanoseconds.
    pub(super) offset: i64,
    /// Losses counted in statistics, and beside packets.
    pub(super) dropped: u64,
    pub(super) dropped_beside: u64,
}

/// The unit of an interface's clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    /// So many nanoseconds.
    Nanoseconds(u64),
    /// So many to the nanosecond.
    PerNanosecond(u64),
    /// Two to this power of them to the second.
    Binary(u32),
}

impl Interface {
    /// The larger of both counts: a program may tell the same loss in both ways.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.max(self.dropped_beside)
    }

    #[inline]
    pub(super) fn time(&self, ticks: u64) -> Nanos {
        let time = match self.unit {
            Unit::Nanoseconds(unit) => ticks.saturating_mul(unit),
            Unit::PerNanosecond(unit) => ticks / unit,
            Unit::Binary(power) => {
                let nanos = (u128::from(ticks) * 1_000_000_000) >> power;
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
        };
        time.saturating_add_signed(self.offset)
    }
}

impl Unit {
    /// From an interface's `if_tsresol`; `None` for a clock finer than can be counted.
    pub(super) fn new(resolution: u8) -> Option<Unit> {
        let power = u32::from(resolution & 0x7f);
        if resolution & 0x80 != 0 {
            return Some(Unit::Binary(power));
        }
        match power {
            0..=9 => Some(Unit::Nanoseconds(10_u64.pow(9 - power))),
            _ => 10_u64.checked_pow(power - 9).map(Unit::PerNanosecond),
        }
    }
}
