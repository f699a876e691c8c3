//! How long after failed responses their verdicts were told, counted by the millisecond. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{alike, failures};
use crate::expect::Expect;
use crate::ledger::Sent;

/// How many verdicts were told within each whole millisecond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Delays(BTreeMap<u64, u32>);

impl Delays {
    /// From the moment at which a client had its whole response to the one at which the line about it
    /// was `heard`, by the line's id; of a pair's own failures. `lines` are by path.
    pub(super) fn of(
        entries: &[(Sent, Expect)],
        lines: &BTreeMap<&str, Vec<&Value>>,
        heard: &BTreeMap<String, u64>,
    ) -> Delays {
        let mut delays = Delays::default();
        let all = entries.iter().zip(alike::share(entries, lines));
        for ((sent, _), said) in all.filter(|(entry, _)| failures::is_own(entry)) {
            // The one that is scored.
            let line = said.first();
            let at = line.and_then(|line| heard.get(line["id"].as_str()?));
            if let Some(at) = at {
                let delay = at.saturating_sub(sent.ended) / 1_000_000;
                *delays.0.entry(delay).or_default() += 1;
            }
        }
        delays
    }

    pub(super) fn add(&mut self, other: &Delays) {
        for (delay, count) in &other.0 {
            *self.0.entry(*delay).or_default() += count;
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.0.values().sum()
    }

    /// The least delay that so many percent do not exceed; 100: the longest.
    pub(super) fn percentile(&self, percent: u32) -> Option<u64> {
        let rank = (u64::from(self.count()) * u64::from(percent)).div_ceil(100);
        let mut counted = 0;
        let mut reached = self.0.iter().filter(|(_, count)| {
            counted += u64::from(**count);
            counted >= rank
        });
        reached.next().map(|(delay, _)| *delay)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::expect::HEALTHY;

    fn delays(counts: &[(u64, u32)]) -> Delays {
        Delays(counts.iter().copied().collect())
    }

    #[test]
    fn a_percentile_is_the_delay_of_the_one_with_that_rank() {
        assert_eq!(Delays::default().percentile(50), None);
        let one = delays(&[(7, 1)]);
        assert_eq!([1, 50, 99, 100].map(|p| one.percentile(p)), [Some(7); 4]);
        // 1, 2, … 100 ms, once each.
        let each = delays(&(1..=100).map(|ms| (ms, 1)).collect::<Vec<_>>());
        let told = [50, 90, 99, 100].map(|p| each.percentile(p));
        assert_eq!(told, [50, 90, 99, 100].map(Some));
        let few = delays(&[(0, 5), (3, 4), (900, 1)]);
        assert_eq!(few.count(), 10);
        let told = [50, 51, 90, 91].map(|p| few.percentile(p));
        assert_eq!(told, [0, 3, 3, 900].map(Some));
    }

    #[test]
    fn those_of_several_runs_are_those_of_one() {
        let mut sum = delays(&[(0, 5), (3, 1)]);
        sum.add(&delays(&[(3, 3), (900, 1)]));
        assert_eq!(sum, delays(&[(0, 5), (3, 4), (900, 1)]));
        let written = serde_json::to_string(&sum).unwrap();
        assert_eq!(written, r#"{"0":5,"3":4,"900":1}"#);
        assert_eq!(serde_json::from_str::<Delays>(&written).unwrap(), sum);
    }

    #[test]
    fn the_scored_verdict_counts_from_the_end_of_its_response() {
        let sent = |path: &str, status, ended_ms: u64| Sent {
            path: path.into(),
            status: Some(status),
            ended: ended_ms * 1_000_000,
            ..Sent::default()
        };
        let truth = || Expect::verdict("c", &[502], "c");
        let beside = Expect::verdict(super::super::beside::CELL, &[502], "d");
        let entries = [
            (sent("/a", 502, 100), truth()),
            // Told before the client had all of it.
            (sent("/b", 502, 100), truth()),
            // Nothing was said of it.
            (sent("/c", 502, 100), truth()),
            (sent("/d", 200, 100), HEALTHY),
            (sent("/e", 502, 100), beside),
        ];
        let line = |id: &str| json!({"id": id});
        let lines = [line("a1"), line("a2"), line("b"), line("d"), line("e")];
        let by_path = [
            ("/a", lines[..2].iter().collect()),
            ("/b", vec![&lines[2]]),
            ("/d", vec![&lines[3]]),
            ("/e", vec![&lines[4]]),
        ];
        let at = [("a1", 103_900_000), ("a2", 999_000_000), ("b", 99_000_000)];
        let others = [("d", 105_000_000), ("e", 105_000_000)];
        let heard = at.into_iter().chain(others);
        let heard = heard.map(|(id, at)| (id.to_owned(), at)).collect();
        let told = Delays::of(&entries, &by_path.into(), &heard);
        assert_eq!(told, delays(&[(0, 1), (3, 1)]));
    }
}
