//! What could be known of a cause by status and duration alone, as they stand in any access log. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::score::Judged;
use crate::ledger::Sent;

/// Of each proxy's failed responses, by class of status and duration: how often each cause was the
/// true one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Classes(BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>);

impl Classes {
    pub(super) fn count(&mut self, proxy: &str, sent: &Sent, cause: &str) {
        self.put(proxy, &class(sent), cause, 1);
    }

    pub(super) fn add(&mut self, other: &Classes) {
        for (proxy, classes) in &other.0 {
            for (class, causes) in classes {
                for (cause, count) in causes {
                    self.put(proxy, class, cause, *count);
                }
            }
        }
    }

    fn put(&mut self, proxy: &str, class: &str, cause: &str, count: u32) {
        let classes = self.0.entry(proxy.to_owned()).or_default();
        let causes = classes.entry(class.to_owned()).or_default();
        *causes.entry(cause.to_owned()).or_default() += count;
    }

    pub(super) fn proxies(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// By true cause, how one does who has counted all this and guesses the most frequent cause of each
    /// class, the first by name of several; of the proxies that are `wanted`.
    pub(super) fn guess(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<&str, Judged> {
        let mut judged: BTreeMap<&str, Judged> = BTreeMap::new();
        let own = self.0.iter().filter(|(proxy, _)| wanted(proxy));
        for causes in own.flat_map(|(_, classes)| classes.values()) {
            let most = causes.iter().rev().max_by_key(|(_, count)| **count);
            let Some((guess, _)) = most else { continue };
            for (cause, count) in causes {
                let judged = judged.entry(cause).or_default();
                judged.score.failed += count;
                *judged.given.entry(guess.clone()).or_default() += count;
                if cause == guess {
                    judged.score.right += count;
                }
            }
        }
        judged
    }
}

/// Durations of one class differ by less than a factor of two.
fn class(sent: &Sent) -> String {
    let ms = sent.ended.saturating_sub(sent.began) / 1_000_000;
    let least = ms.checked_ilog2().map_or(0, |power| 1_u64 << power);
    let status = sent.status.unwrap_or_default();
    format!("{status} from {least} ms")
}

#[cfg(test)]
mod tests {
    use super::super::score;
    use super::*;

    fn sent(status: u16, micros: u64) -> Sent {
        Sent {
            status: Some(status),
            began: 5_000_000,
            ended: 5_000_000 + micros * 1000,
            ..Sent::default()
        }
    }

    #[test]
    fn classes_are_powers_of_two() {
        let of = |micros| class(&sent(504, micros));
        assert_eq!(of(0), "504 from 0 ms");
        assert_eq!(of(999), "504 from 0 ms");
        assert_eq!(of(1_000), "504 from 1 ms");
        assert_eq!([of(2_000), of(3_999)], ["504 from 2 ms"; 2]);
        assert_eq!(of(1_500_000), "504 from 1024 ms");
    }

    #[test]
    fn who_guesses_the_most_frequent_cause_is_right_as_often_as_it_is_true() {
        let mut classes = Classes::default();
        let mut count = |proxy, status, micros, cause, times| {
            for _ in 0..times {
                classes.count(proxy, &sent(status, micros), cause);
            }
        };
        // Fast 502s: 3 refused and 2 reset. Slow ones of the same status: reset, once.
        count("nginx", 502, 100, "refused", 3);
        count("nginx", 502, 200, "reset", 2);
        count("nginx", 502, 9_000, "reset", 1);
        // Another proxy's fast 502 is a class of its own, where as many are early as late.
        count("go", 502, 100, "reset", 2);
        count("go", 502, 100, "early", 2);
        let all = classes.guess(|_| true);
        let right: Vec<_> = (all.iter())
            .map(|(cause, judged)| (*cause, judged.score.right, judged.score.failed))
            .collect();
        assert_eq!(right, [("early", 2, 2), ("refused", 3, 3), ("reset", 1, 5)]);
        let told = score::by_cause(all.iter().map(|(cause, judged)| (*cause, judged)));
        assert_eq!(told["reset"].recall, 0.2);
        assert_eq!(told["reset"].precision, 1.0);
        assert_eq!(told["refused"].precision, 0.6);
        assert_eq!(told["early"].precision, 0.5);
        let go = classes.guess(|proxy| proxy == "go");
        assert_eq!((go.len(), go["reset"].score.right), (2, 0));
    }

    #[test]
    fn those_of_several_runs_are_those_of_one() {
        let (mut one, mut other, mut both) = Default::default();
        let count = |classes: &mut Classes, cause| classes.count("go", &sent(502, 1), cause);
        count(&mut one, "refused");
        count(&mut one, "reset");
        count(&mut other, "reset");
        for cause in ["refused", "reset", "reset"] {
            count(&mut both, cause);
        }
        one.add(&other);
        assert_eq!(one, both);
        let written = serde_json::to_string(&one).unwrap();
        let plain = r#"{"go":{"502 from 0 ms":{"refused":1,"reset":2}}}"#;
        assert_eq!(written, plain);
        assert_eq!(serde_json::from_str::<Classes>(plain).unwrap(), both);
    }
}
