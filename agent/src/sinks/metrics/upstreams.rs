//! What is counted per proxy and upstream, within a cap that a busy or hostile host cannot pass.

use std::collections::{BTreeMap, HashMap};

use prometheus::proto::MetricFamily;

use super::OTHER;
use super::families::{counters, histogram};
use super::series::{Buckets, Counter};
use crate::cause::Cause;
use crate::signal::Nanos;

/// Upstreams with a place of their own.
const MAX_UPSTREAMS: usize = 200;

/// Series of all upstreams together.
const MAX_SERIES: usize = 5000;

/// An upstream that is not used for this long gives its place up.
const UNUSED: Nanos = 3600 * 1_000_000_000;

/// Edges between the idle timeouts that software comes with, each a little above one of 1, 2, 5, 6,
/// 15, 20, 30, 60, 65, 75, 90, 120 and 350 s: timers fire late, never early.
const IDLE_EDGES: &[f64] = &[
    0.5, 1.5, 3.0, 5.5, 10.0, 17.5, 25.0, 45.0, 62.5, 70.0, 80.0, 105.0, 200.0, 400.0,
];

/// Waits for a first byte; only those over a second are counted.
const STALL_EDGES: &[f64] = &[
    2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 600.0,
];

/// Counters of one upstream.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    last_used: Nanos,
    pub(super) failed: BTreeMap<Cause, Counter>,
    pub(super) near_misses: BTreeMap<Cause, Counter>,
    pub(super) truncated: Counter,
    /// By `CLOSES`.
    closes: [Counter; 4],
    idle: Buckets,
    pub(super) stalls: Buckets,
}

const CLOSES: [[&str; 2]; 4] = [
    ["fin", "idle"],
    ["rst", "idle"],
    ["fin", "in_flight"],
    ["rst", "in_flight"],
];

impl Upstream {
    fn new() -> Upstream {
        Upstream {
            last_used: 0,
            failed: BTreeMap::new(),
            near_misses: BTreeMap::new(),
            truncated: Counter::default(),
            closes: Default::default(),
            idle: Buckets::new(IDLE_EDGES),
            stalls: Buckets::new(STALL_EDGES),
        }
    }

    pub(super) fn closed_idle(&mut self, reset: bool, idle_seconds: f64) {
        self.closes[usize::from(reset)].add(1);
        self.idle.observe(idle_seconds);
    }

    pub(super) fn closed_in_flight(&mut self, reset: bool) {
        self.closes[2 + usize::from(reset)].add(1);
    }

    /// As exported: empty histograms are left out.
    fn series(&self) -> usize {
        let histogram = |buckets: &Buckets, edges| match buckets.count() {
            0 => 0,
            _ => Buckets::series(edges),
        };
        self.failed.len()
            + self.near_misses.len()
            + 1
            + self.closes.len()
            + histogram(&self.idle, IDLE_EDGES)
            + histogram(&self.stalls, STALL_EDGES)
    }
}

/// All upstreams, by proxy and upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct Upstreams {
    by_name: HashMap<[String; 2], Upstream>,
}

impl Upstreams {
    /// The counters of this upstream, or of `other` where there is no place left.
    pub(super) fn get(&mut self, proxy: &str, upstream: &str, now: Nanos) -> &mut Upstream {
        let mut key = [proxy.to_owned(), upstream.to_owned()];
        if !self.by_name.contains_key(&key) && self.full() {
            key[1] = OTHER.to_owned();
        }
        let found = self.by_name.entry(key).or_insert_with(Upstream::new);
        found.last_used = now;
        found
    }

    pub(super) fn expire(&mut self, now: Nanos) {
        self.by_name
            .retain(|_, upstream| now.saturating_sub(upstream.last_used) < UNUSED);
    }

    /// The most an upstream usually needs must still fit.
    fn full(&self) -> bool {
        self.by_name.len() >= MAX_UPSTREAMS
            || self.by_name.values().map(Upstream::series).sum::<usize>() >= MAX_SERIES - 50
    }

    pub(super) fn gather(&mut self, fresh_as_zero: bool) -> Vec<MetricFamily> {
        let mut sorted: Vec<(&[String; 2], &mut Upstream)> = self.by_name.iter_mut().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        let mut failed = Vec::new();
        let mut near_misses = Vec::new();
        let mut truncated = Vec::new();
        let mut closes = Vec::new();
        for ([proxy, upstream], counts) in &mut sorted {
            let by_cause = |causes: &mut BTreeMap<Cause, Counter>, out: &mut Vec<_>| {
                out.extend(causes.iter_mut().map(|(cause, counter)| {
                    let labels = [proxy.clone(), upstream.clone(), cause.name().to_owned()];
                    (labels, counter.export(fresh_as_zero))
                }));
            };
            by_cause(&mut counts.failed, &mut failed);
            by_cause(&mut counts.near_misses, &mut near_misses);
            let labels = [proxy.clone(), upstream.clone()];
            truncated.push((labels, counts.truncated.export(fresh_as_zero)));
            for (counter, [how, phase]) in counts.closes.iter_mut().zip(CLOSES) {
                let labels = [proxy.as_str(), upstream.as_str(), how, phase].map(str::to_owned);
                closes.push((labels, counter.export(fresh_as_zero)));
            }
        }
        let buckets = |choose: fn(&Upstream) -> &Buckets| {
            sorted
                .iter()
                .map(move |(labels, counts)| ((*labels).clone(), choose(counts)))
                .filter(|(_, buckets)| buckets.count() > 0)
        };
        vec![
            counters(
                "why502_upstream_failed_responses_total",
                "Responses that the proxy failed, by upstream; a new series shows 0 for one scrape first",
                ["proxy", "upstream", "cause"],
                failed,
            ),
            counters(
                "why502_near_misses_total",
                "Attempts that failed without a failed response",
                ["proxy", "upstream", "cause"],
                near_misses,
            ),
            counters(
                "why502_truncated_responses_total",
                "Responses that ended early after their head had been passed on",
                ["proxy", "upstream"],
                truncated,
            ),
            counters(
                "why502_upstream_closes_total",
                "Connections that the upstream closed, by how and when",
                ["proxy", "upstream", "how", "phase"],
                closes,
            ),
            histogram(
                "why502_upstream_idle_close_seconds",
                "How long connections had been idle when the upstream closed them",
                ["proxy", "upstream"],
                buckets(|upstream| &upstream.idle),
            ),
            histogram(
                "why502_upstream_stall_seconds",
                "Waits for a first byte of over a second, answered or not",
                ["proxy", "upstream"],
                buckets(|upstream| &upstream.stalls),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_tell_the_usual_timeouts_apart() {
        let usual = [
            1.0, 2.0, 5.0, 6.0, 15.0, 20.0, 30.0, 60.0, 65.0, 75.0, 90.0, 120.0, 350.0,
        ];
        let bucket = |seconds: f64| IDLE_EDGES.partition_point(|edge| *edge < seconds);
        for (i, seconds) in usual.iter().enumerate() {
            let late = seconds * 1.01 + 0.2;
            assert_eq!(bucket(*seconds), bucket(late), "{seconds} s fires late");
            if let Some(next) = usual.get(i + 1) {
                assert!(bucket(late) < bucket(*next), "{seconds} s and {next} s");
            }
        }
    }

    #[test]
    fn an_unused_upstream_gives_its_place_up() {
        let mut upstreams = Upstreams::default();
        for i in 0..MAX_UPSTREAMS + 50 {
            upstreams
                .get("nginx", &format!("10.0.0.1:{i}"), 0)
                .truncated
                .add(1);
        }
        assert_eq!(upstreams.by_name.len(), MAX_UPSTREAMS + 1);
        upstreams.get("nginx", "10.0.0.1:7", UNUSED / 2);
        upstreams.expire(UNUSED + 1);
        assert_eq!(upstreams.by_name.len(), 1);
        upstreams.get("nginx", "10.0.0.9:1", UNUSED + 1);
        assert_eq!(upstreams.by_name.len(), 2);
    }

    #[test]
    fn the_series_stay_under_their_cap() {
        let mut upstreams = Upstreams::default();
        for i in 0..500 {
            let upstream = upstreams.get("nginx", &format!("10.0.0.1:{i}"), 0);
            upstream.closed_idle(false, 1.0);
            upstream.stalls.observe(2.0);
            for cause in Cause::ALL {
                upstream.failed.entry(*cause).or_default().add(1);
            }
        }
        let series: usize = upstreams.by_name.values().map(Upstream::series).sum();
        assert!(series <= MAX_SERIES + 100, "{series}");
    }
}
