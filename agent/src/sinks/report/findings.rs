//! What the page says of each cause at each upstream: counts, when, and what to do. Bounded.

use std::collections::{BTreeMap, HashMap};

use super::timeline::Timeline;
use crate::cause::Cause;
use crate::verdict::{Advice, Confidence, Kind, Verdict};

/// Rows of (kind, cause, upstream); the upstreams beyond share a row per kind and cause.
const MAX: usize = 200;

/// One cause at one upstream.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) cause: Cause,
    /// `None`: upstreams that had no row of their own any more.
    pub(super) upstream: Option<String>,
    pub(super) process: Option<String>,
    pub(super) count: u64,
    pub(super) confidences: BTreeMap<Confidence, u64>,
    pub(super) statuses: BTreeMap<Option<u16>, u64>,
    pub(super) first: String,
    pub(super) last: String,
    /// Of the surest verdict, the first among equals.
    pub(super) advice: Advice,
    surest: Confidence,
    /// Its place in the timeline.
    pub(super) series: usize,
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    by_key: HashMap<(Kind, Cause, Option<String>), usize>,
    list: Vec<Finding>,
    pub(super) timeline: Timeline,
}

impl Findings {
    /// Returns how many there were of its kind, cause and upstream, this one included.
    pub(super) fn on_verdict(&mut self, verdict: &Verdict, at_ms: i64) -> u64 {
        let upstream = verdict
            .upstream
            .address
            .as_ref()
            .map_or_else(|| "no upstream".to_owned(), |address| address.0.clone());
        let mut key = (verdict.kind, verdict.cause, Some(upstream));
        if !self.by_key.contains_key(&key) && self.by_key.len() >= MAX {
            key.2 = None;
        }
        let index = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.list.push(Finding {
                kind: key.0,
                cause: key.1,
                upstream: key.2,
                process: verdict.upstream.process.clone().flatten(),
                count: 0,
                confidences: BTreeMap::new(),
                statuses: BTreeMap::new(),
                first: verdict.time.clone(),
                last: verdict.time.clone(),
                advice: verdict.advice.clone(),
                surest: verdict.confidence,
                series: self.list.len(),
            });
            self.list.len() - 1
        });
        let finding = &mut self.list[index];
        finding.count += 1;
        *finding.confidences.entry(verdict.confidence).or_default() += 1;
        *finding.statuses.entry(verdict.status).or_default() += 1;
        // All are UTC in one format: the text's order is the time's.
        if verdict.time < finding.first {
            finding.first.clone_from(&verdict.time);
        }
        if verdict.time > finding.last {
            finding.last.clone_from(&verdict.time);
        }
        if verdict.confidence > finding.surest {
            finding.surest = verdict.confidence;
            finding.advice.clone_from(&verdict.advice);
        }
        let count = finding.count;
        self.timeline.count(index, at_ms);
        count
    }

    /// Of one kind, the most frequent first.
    pub(super) fn of(&self, kind: Kind) -> Vec<&Finding> {
        let mut found: Vec<&Finding> = self.list.iter().filter(|f| f.kind == kind).collect();
        found.sort_by(|a, b| b.count.cmp(&a.count).then(a.series.cmp(&b.series)));
        found
    }

    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.of(kind).iter().map(|f| f.count).sum()
    }

    /// How many verdicts of one kind had this confidence.
    pub(super) fn sure(&self, kind: Kind, confidence: Confidence) -> u64 {
        self.of(kind)
            .iter()
            .filter_map(|f| f.confidences.get(&confidence))
            .sum()
    }

    /// Every cause, failed responses first, the most frequent first: its place is its colour.
    pub(super) fn causes(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        for kind in [Kind::Verdict, Kind::Truncated, Kind::NearMiss] {
            let mut counts: BTreeMap<Cause, u64> = BTreeMap::new();
            for finding in self.of(kind) {
                *counts.entry(finding.cause).or_default() += finding.count;
            }
            let mut counts: Vec<(Cause, u64)> = counts.into_iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let new: Vec<Cause> = counts.into_iter().map(|(cause, _)| cause).collect();
            causes.extend(
                new.into_iter()
                    .filter(|c| !causes.contains(c))
                    .collect::<Vec<_>>(),
            );
        }
        causes
    }

    /// Failed responses of one cause over time, one count for each bucket.
    pub(super) fn over_time(&self, cause: Cause) -> Vec<u64> {
        let mut sum = vec![0; self.timeline.starts_ms().len()];
        for finding in self.of(Kind::Verdict).iter().filter(|f| f.cause == cause) {
            for (total, count) in sum.iter_mut().zip(self.timeline.counts(finding.series)) {
                *total += count;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    #[test]
    fn findings_are_counted_by_cause_and_upstream_over_time() {
        let mut findings = Findings::default();
        for second in 0..10 {
            let cause = [Cause::KeepaliveRace, Cause::WorkerCrashed][usize::from(second > 6)];
            let mut verdict = sample::other(cause, "10.0.0.1:80", second * 1_000);
            if second == 8 {
                verdict.confidence = Confidence::Likely;
            }
            findings.on_verdict(&verdict, second as i64 * 1_000);
        }
        let mut near = sample::other(Cause::KeepaliveRace, "10.0.0.1:80", 1);
        near.kind = Kind::NearMiss;
        findings.on_verdict(&near, 1_000);
        let rows = findings.of(Kind::Verdict);
        assert_eq!((rows[0].cause, rows[0].count), (Cause::KeepaliveRace, 7));
        assert_eq!(rows[0].first, "2026-11-20T13:48:24.000000000Z");
        assert_eq!(rows[0].last, "2026-11-20T13:48:30.000000000Z");
        assert_eq!(rows[1].confidences[&Confidence::Likely], 1);
        assert_eq!(findings.sure(Kind::Verdict, Confidence::Proven), 9);
        assert_eq!(findings.count(Kind::NearMiss), 1);
        assert_eq!(
            findings.causes(),
            [Cause::KeepaliveRace, Cause::WorkerCrashed]
        );
        let over_time: u64 = findings.over_time(Cause::KeepaliveRace).iter().sum();
        assert_eq!(over_time, 7);
    }

    #[test]
    fn many_upstreams_share_a_row_and_no_count_is_lost() {
        let mut findings = Findings::default();
        for port in 0..5_000 {
            let verdict = sample::other(Cause::ConnectionRefused, &format!("10.0.0.1:{port}"), 1);
            findings.on_verdict(&verdict, 1);
        }
        let rows = findings.of(Kind::Verdict);
        assert_eq!(rows.len(), MAX + 1);
        assert_eq!((rows[0].count, rows[0].upstream.as_deref()), (4_800, None));
        assert_eq!(findings.count(Kind::Verdict), 5_000);
    }
}
