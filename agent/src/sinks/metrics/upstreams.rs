//! What is counted per proxy and upstream, within a cap that a busy or hostile host cannot pass.

use std::collections::{BTreeMap, HashMap};

use prometheus::proto::MetricFamily;

use super::families::{counters, histogram};
use super::series::{Buckets, Counter, Scrape};
use super::{UNUSED, Who};
use crate::cause::Cause;
use crate::signal::Nanos;

/// Upstreams with a place of their own.
const MAX_UPSTREAMS: usize = 200;

/// Series of all upstreams together.
const MAX_SERIES: usize = 5000;

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

const PAIR: [&str; 6] = [
    "proxy",
    "proxy_namespace",
    "proxy_workload",
    "upstream",
    "upstream_namespace",
    "upstream_workload",
];

/// The values of `PAIR`, and of more labels.
fn labels([proxy, upstream]: &[Who; 2], more: &[&str]) -> Vec<String> {
    let pair = [proxy, upstream].into_iter().flat_map(Who::labels);
    pair.chain(more.iter().map(|value| (*value).to_owned()))
        .collect()
}

/// All upstreams, by proxy and upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct Upstreams {
    by_who: HashMap<[Who; 2], Upstream>,
}

impl Upstreams {
    /// The counters of this upstream, or of `other` where there is no place left.
    pub(super) fn get(&mut self, proxy: &Who, upstream: &Who, now: Nanos) -> &mut Upstream {
        let mut key = [proxy.clone(), upstream.clone()];
        if !self.by_who.contains_key(&key) && self.full() {
            key[1] = Who::other();
        }
        let found = self.by_who.entry(key).or_insert_with(Upstream::new);
        found.last_used = now;
        found
    }

    pub(super) fn expire(&mut self, now: Nanos) {
        self.by_who
            .retain(|_, upstream| now.saturating_sub(upstream.last_used) < UNUSED);
    }

    /// The most an upstream usually needs must still fit.
    fn full(&self) -> bool {
        self.by_who.len() >= MAX_UPSTREAMS
            || self.by_who.values().map(Upstream::series).sum::<usize>() >= MAX_SERIES - 50
    }

    pub(super) fn gather(&mut self, scrape: Scrape) -> Vec<MetricFamily> {
        let mut sorted: Vec<(&[Who; 2], &mut Upstream)> = self.by_who.iter_mut().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        let mut failed = Vec::new();
        let mut near_misses = Vec::new();
        let mut truncated = Vec::new();
        let mut closes = Vec::new();
        for (pair, counts) in &mut sorted {
            let by_cause = |causes: &mut BTreeMap<Cause, Counter>, out: &mut Vec<_>| {
                out.extend(causes.iter_mut().map(|(cause, counter)| {
                    (labels(pair, &[cause.name()]), counter.export(scrape))
                }));
            };
            by_cause(&mut counts.failed, &mut failed);
            by_cause(&mut counts.near_misses, &mut near_misses);
            truncated.push((labels(pair, &[]), counts.truncated.export(scrape)));
            for (counter, how_and_phase) in counts.closes.iter_mut().zip(CLOSES) {
                closes.push((labels(pair, &how_and_phase), counter.export(scrape)));
            }
        }
        let with = |more: &[&'static str]| [&PAIR[..], more].concat();
        let buckets = |choose: fn(&Upstream) -> &Buckets| {
            sorted
                .iter()
                .map(move |(pair, counts)| (labels(pair, &[]), choose(counts)))
                .filter(|(_, buckets)| buckets.count() > 0)
        };
        vec![
            counters(
                "why502_upstream_failed_responses_total",
                "Responses that the proxy failed, by upstream; a new series shows 0 for one scrape first",
                &with(&["cause"]),
                failed,
            ),
            counters(
                "why502_near_misses_total",
                "Attempts that failed without a failed response",
                &with(&["cause"]),
                near_misses,
            ),
            counters(
                "why502_truncated_responses_total",
                "Responses that ended early after their head had been passed on",
                &PAIR,
                truncated,
            ),
            counters(
                "why502_upstream_closes_total",
                "Connections that the upstream closed, by how and when",
                &with(&["how", "phase"]),
                closes,
            ),
            histogram(
                "why502_upstream_idle_close_seconds",
                "How long connections had been idle when the upstream closed them",
                &PAIR,
                buckets(|upstream| &upstream.idle),
            ),
            histogram(
                "why502_upstream_stall_seconds",
                "Waits for a first byte of over a second, answered or not",
                &PAIR,
                buckets(|upstream| &upstream.stalls),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(upstreams: &mut Upstreams, upstream: usize, now: Nanos) -> &mut Upstream {
        let upstream = Who::named(format!("10.0.0.1:{upstream}"));
        upstreams.get(&Who::named("nginx"), &upstream, now)
    }

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
            get(&mut upstreams, i, 0).truncated.add(1);
        }
        assert_eq!(upstreams.by_who.len(), MAX_UPSTREAMS + 1);
        get(&mut upstreams, 7, UNUSED / 2);
        upstreams.expire(UNUSED + 1);
        assert_eq!(upstreams.by_who.len(), 1);
        get(&mut upstreams, 9_001, UNUSED + 1);
        assert_eq!(upstreams.by_who.len(), 2);
    }

    #[test]
    fn the_series_stay_under_their_cap() {
        let mut upstreams = Upstreams::default();
        for i in 0..500 {
            let upstream = get(&mut upstreams, i, 0);
            upstream.closed_idle(false, 1.0);
            upstream.stalls.observe(2.0);
            for cause in Cause::ALL {
                upstream.failed.entry(*cause).or_default().add(1);
            }
        }
        let series: usize = upstreams.by_who.values().map(Upstream::series).sum();
        assert!(series <= MAX_SERIES + 100, "{series}");
    }
}
