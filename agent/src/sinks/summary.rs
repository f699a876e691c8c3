//! What a whole command saw, counted: the last line of its results.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::{Kind, Verdict};

/// The counters behind the summary.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    verdicts: BTreeMap<Cause, u64>,
    near_misses: BTreeMap<Cause, u64>,
    truncated: BTreeMap<Cause, u64>,
    lost: BTreeMap<String, u64>,
    not_followed: BTreeMap<String, u64>,
    blind: Vec<String>,
}

impl Totals {
    pub fn on_verdict(&mut self, verdict: &Verdict) {
        self.add(verdict.kind, verdict.cause, 1);
    }

    /// So many of one kind and cause.
    pub fn add(&mut self, kind: Kind, cause: Cause, count: u64) {
        let counts = match kind {
            Kind::Verdict => &mut self.verdicts,
            Kind::NearMiss => &mut self.near_misses,
            Kind::Truncated => &mut self.truncated,
        };
        *counts.entry(cause).or_default() += count;
    }

    /// `count` signals or results were dropped at `stage`.
    pub fn lost(&mut self, stage: &str, reason: &str, count: u64) {
        self.lost_by_name(format!("{stage}_{reason}"), count);
    }

    /// The same for what was counted before: `name` is `stage_reason`.
    pub fn lost_by_name(&mut self, name: String, count: u64) {
        if count > 0 {
            let counts = match is_not_followed(&name) {
                true => &mut self.not_followed,
                false => &mut self.lost,
            };
            *counts.entry(name).or_default() += count;
        }
    }

    /// This fact cannot be seen here; `reason` in a few words.
    ///
    /// Returns the summary's words for it, the first time.
    pub fn blind(&mut self, fact: &str, reason: &str) -> Option<&str> {
        let text = match reason {
            "" => fact.to_owned(),
            reason => format!("{fact}: {reason}"),
        };
        if self.blind.contains(&text) {
            return None;
        }
        self.blind.push(text);
        self.blind.last().map(String::as_str)
    }

    /// Failed responses so far, whatever their cause.
    pub fn failed(&self) -> u64 {
        self.verdicts.values().sum()
    }

    /// The summary of the time from `began` to `ended`.
    pub fn finish(&self, began: Nanos, ended: Nanos) -> Summary {
        let mut lost = BTreeMap::from([("signals".to_owned(), self.lost.values().sum())]);
        lost.extend(self.lost.clone());
        let millis = ended.saturating_sub(began) / 1_000_000;
        Summary {
            kind: "summary",
            seconds: millis as f64 / 1000.0,
            responses: Responses {
                failed: self.failed(),
            },
            verdicts: self.verdicts.clone(),
            near_misses: self.near_misses.clone(),
            truncated: self.truncated.clone(),
            lost,
            not_followed: self.not_followed.clone(),
            blind: self.blind.clone(),
        }
    }
}

/// What packets lack, or hold that is not understood, bears on the connections that it is about, and
/// they are known to lack it: no signal of others is lost.
fn is_not_followed(name: &str) -> bool {
    name == "capture_gaps" || name.starts_with("not_understood_")
}

/// The `summary` line of the contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub seconds: f64,
    pub responses: Responses,
    pub verdicts: BTreeMap<Cause, u64>,
    pub near_misses: BTreeMap<Cause, u64>,
    pub truncated: BTreeMap<Cause, u64>,
    /// `signals` is the sum; the others are `stage_reason`.
    pub lost: BTreeMap<String, u64>,
    /// Gaps in captured connections, and frames that are not understood, by why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_followed: BTreeMap<String, u64>,
    pub blind: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Responses {
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    #[test]
    fn a_summary_counts_by_kind_and_cause() {
        let mut totals = Totals::default();
        let mut verdict = sample::verdict();
        totals.on_verdict(&verdict);
        totals.on_verdict(&verdict);
        verdict.kind = Kind::NearMiss;
        verdict.cause = Cause::DownstreamGaveUp;
        totals.on_verdict(&verdict);
        totals.lost("ring_buffer", "full", 3);
        totals.lost("tracker", "too_many_flows", 0);
        totals.blind("unix_connect_failures", "no tracefs");
        totals.blind("unix_connect_failures", "no tracefs");
        let line = serde_json::to_string(&totals.finish(500, 60_000_000_500)).unwrap();
        assert_eq!(
            line,
            r#"{"type":"summary","seconds":60.0,"responses":{"failed":2},"verdicts":{"keepalive_race":2},"near_misses":{"downstream_gave_up":1},"truncated":{},"lost":{"ring_buffer_full":3,"signals":3},"blind":["unix_connect_failures: no tracefs"]}"#
        );
    }

    #[test]
    fn what_is_not_followed_is_no_lost_signal() {
        let mut totals = Totals::default();
        totals.lost("capture", "gaps", 3);
        totals.lost("not_understood", "tunnel", 2);
        let summary = totals.finish(0, 1_000_000_000);
        assert_eq!(summary.lost, BTreeMap::from([("signals".to_owned(), 0)]));
        let line = serde_json::to_string(&summary).unwrap();
        let part =
            r#""lost":{"signals":0},"not_followed":{"capture_gaps":3,"not_understood_tunnel":2},"#;
        assert!(line.contains(part), "{line}");
        totals.lost("capture", "dropped", 1);
        assert_eq!(totals.finish(0, 1).lost["signals"], 1);
    }
}
