//! Counters and histograms by label, with the two rules the export needs: a cap, and a first 0.
//!
//! Prometheus sees no increase when a series appears with its first value: it must have been
//! scraped at 0 before. So a counter that was made after a reader's first scrape shows 0 to that
//! reader once, then its value. At the first scrape itself everything shows: nothing before it can be
//! an increase. Each reader has its own zeros: of two Prometheus servers neither takes the other's.

use std::collections::BTreeMap;

use super::OTHER;

/// One export, of all that were made, for one of those who read them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scrape {
    /// They are numbered from 1.
    pub(super) number: u64,
    /// The reader's last one before; `None`: there was none.
    pub(super) before: Option<u64>,
}

impl Scrape {
    /// Shows everything as it is.
    pub(super) const WHOLE: Scrape = Scrape {
        number: 0,
        before: None,
    };
}

/// A counter that remembers since when it has been shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    value: u64,
    /// The first scrape that had it.
    first: Option<u64>,
}

impl Counter {
    pub(super) fn add(&mut self, count: u64) {
        self.value = self.value.saturating_add(count);
    }

    /// The value to export; 0 if it is new to one who has read others before.
    pub(super) fn export(&mut self, scrape: Scrape) -> f64 {
        let first = *self.first.get_or_insert(scrape.number);
        match scrape.before.is_some_and(|before| first > before) {
            true => 0.0,
            false => self.value as f64,
        }
    }
}

/// Counters by their label values.
#[derive(Clone, Debug)]
pub(super) struct Counters<const N: usize> {
    counters: BTreeMap<[String; N], Counter>,
    cap: usize,
}

impl<const N: usize> Counters<N> {
    /// At most `cap` series, then one where every label is `other`.
    pub(super) fn new(cap: usize) -> Counters<N> {
        Counters {
            counters: BTreeMap::new(),
            cap,
        }
    }

    /// Makes the series exist.
    pub(super) fn touch(&mut self, labels: [&str; N]) {
        self.add(labels, 0);
    }

    pub(super) fn add(&mut self, labels: [&str; N], count: u64) {
        let mut labels = labels.map(str::to_owned);
        if self.counters.len() >= self.cap && !self.counters.contains_key(&labels) {
            labels = std::array::from_fn(|_| OTHER.to_owned());
        }
        self.counters.entry(labels).or_default().add(count);
    }

    pub(super) fn export(&mut self, scrape: Scrape) -> impl Iterator<Item = ([String; N], f64)> {
        self.counters
            .iter_mut()
            .map(move |(labels, counter)| (labels.clone(), counter.export(scrape)))
    }
}

/// A histogram.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    edges: &'static [f64],
    /// One more than edges: the last is above them all.
    counts: Vec<u64>,
    sum: f64,
}

impl Buckets {
    pub(super) fn new(edges: &'static [f64]) -> Buckets {
        Buckets {
            edges,
            counts: vec![0; edges.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, value: f64) {
        let bucket = self.edges.partition_point(|edge| *edge < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper edge and cumulative count of each bucket but the last.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        self.edges
            .iter()
            .zip(&self.counts)
            .map(move |(edge, count)| {
                total += count;
                (*edge, total)
            })
    }

    /// Series that this histogram is in the export.
    pub(super) fn series(edges: &[f64]) -> usize {
        edges.len() + 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_counter_shows_zero_once_after_the_first_scrape() {
        let scrape = |number, before| Scrape { number, before };
        let mut counter = Counter::default();
        counter.add(3);
        assert_eq!(counter.export(scrape(2, Some(1))), 0.0);
        assert_eq!(counter.export(scrape(3, Some(2))), 3.0);
        let mut at_first_scrape = Counter::default();
        at_first_scrape.add(3);
        assert_eq!(at_first_scrape.export(scrape(1, None)), 3.0);
    }

    #[test]
    fn each_reader_has_a_zero_of_its_own() {
        let scrape = |number, before| Scrape { number, before };
        let mut counter = Counter::default();
        counter.add(3);
        // Two have read twice before, a third one comes now.
        assert_eq!(counter.export(scrape(5, Some(3))), 0.0);
        assert_eq!(counter.export(scrape(6, None)), 3.0);
        assert_eq!(counter.export(scrape(7, Some(4))), 0.0);
        assert_eq!(counter.export(scrape(8, Some(5))), 3.0);
        assert_eq!(counter.export(scrape(9, Some(7))), 3.0);
    }

    #[test]
    fn over_the_cap_all_is_other() {
        let mut counters = Counters::new(2);
        for label in ["a", "b", "c", "d", "a"] {
            counters.add([label], 1);
        }
        let exported: Vec<_> = counters.export(Scrape::WHOLE).collect();
        let expected = [("a", 2.0), ("b", 1.0), ("other", 2.0)];
        assert_eq!(exported, expected.map(|(label, n)| ([label.to_owned()], n)));
    }

    #[test]
    fn an_observation_on_an_edge_is_inside_it() {
        let mut buckets = Buckets::new(&[1.0, 2.0]);
        for value in [1.0, 1.5, 2.0, 9.0] {
            buckets.observe(value);
        }
        assert_eq!(
            buckets.cumulative().collect::<Vec<_>>(),
            [(1.0, 1), (2.0, 3)]
        );
        assert_eq!((buckets.count(), buckets.sum()), (4, 13.5));
    }
}
