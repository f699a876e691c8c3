//! When things happened, counted in buckets that grow with the time they span: bounded, however
//! long a capture runs. Pure.

use std::collections::BTreeMap;

/// Widths of a bucket in milliseconds; each divides the next, so counts can be merged exactly.
const WIDTHS: &[i64] = &[
    100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000,
    10_800_000, 21_600_000, 43_200_000, 86_400_000,
];

/// At most so many buckets between the first and the last.
const BUCKETS: i64 = 60;

/// Counts of several series over one time axis.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    width_ms: i64,
    range: Option<(i64, i64)>,
    series: Vec<BTreeMap<i64, u64>>,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline {
            width_ms: WIDTHS[0],
            range: None,
            series: Vec::new(),
        }
    }
}

impl Timeline {
    /// Makes the axis hold this moment (milliseconds since 1970).
    pub(super) fn reach(&mut self, at_ms: i64) {
        let bucket = at_ms.div_euclid(self.width_ms);
        let (first, last) = self.range.unwrap_or((bucket, bucket));
        self.range = Some((first.min(bucket), last.max(bucket)));
        while let Some((first, last)) = self.range
            && last - first >= BUCKETS
        {
            self.widen();
        }
    }

    /// One more in this series.
    pub(super) fn count(&mut self, series: usize, at_ms: i64) {
        self.reach(at_ms);
        if self.series.len() <= series {
            self.series.resize_with(series + 1, BTreeMap::new);
        }
        let bucket = at_ms.div_euclid(self.width_ms);
        *self.series[series].entry(bucket).or_default() += 1;
    }

    fn widen(&mut self) {
        let next = WIDTHS.iter().find(|width| **width > self.width_ms);
        let wider = next.copied().unwrap_or(self.width_ms * 2);
        let factor = wider / self.width_ms;
        self.width_ms = wider;
        self.range = self
            .range
            .map(|(first, last)| (first.div_euclid(factor), last.div_euclid(factor)));
        for counts in &mut self.series {
            let mut merged = BTreeMap::new();
            for (bucket, count) in std::mem::take(counts) {
                *merged.entry(bucket.div_euclid(factor)).or_default() += count;
            }
            *counts = merged;
        }
    }

    pub(super) fn width_ms(&self) -> i64 {
        self.width_ms
    }

    /// When each bucket begins.
    pub(super) fn starts_ms(&self) -> Vec<i64> {
        let Some((first, last)) = self.range else {
            return Vec::new();
        };
        (first..=last).map(|b| b * self.width_ms).collect()
    }

    /// A series' counts, one for each bucket of the axis.
    pub(super) fn counts(&self, series: usize) -> Vec<u64> {
        let Some((first, last)) = self.range else {
            return Vec::new();
        };
        let counts = self.series.get(series);
        (first..=last)
            .map(|b| counts.and_then(|c| c.get(&b)).copied().unwrap_or(0))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_width_divides_the_next() {
        assert!(WIDTHS.windows(2).all(|pair| pair[1] % pair[0] == 0));
    }

    #[test]
    fn a_long_time_costs_no_more_and_loses_no_count() {
        let mut timeline = Timeline::default();
        for second in 0..100_000 {
            timeline.count((second % 3) as usize, 1_795_182_504_000 + second * 1_000);
        }
        let starts = timeline.starts_ms();
        assert!((12..=60).contains(&starts.len()), "{}", starts.len());
        assert_eq!(timeline.width_ms(), 1_800_000);
        assert!(starts.iter().all(|start| start % 1_800_000 == 0));
        let total: u64 = (0..3).flat_map(|s| timeline.counts(s)).sum();
        assert_eq!(total, 100_000);
    }

    #[test]
    fn earlier_and_far_moments_widen_the_axis() {
        let mut timeline = Timeline::default();
        timeline.count(0, 50_000);
        timeline.count(0, -10_000);
        assert_eq!(timeline.counts(0).iter().sum::<u64>(), 2);
        assert_eq!(timeline.counts(1).iter().sum::<u64>(), 0);
        timeline.count(0, 86_400_000 * 400);
        assert!(timeline.starts_ms().len() <= 60);
        assert_eq!(timeline.counts(0).iter().sum::<u64>(), 3);
    }

    #[test]
    fn nothing_seen_is_an_empty_axis() {
        assert!(Timeline::default().starts_ms().is_empty());
        assert!(Timeline::default().counts(0).is_empty());
    }
}
