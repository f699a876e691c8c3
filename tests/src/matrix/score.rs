//! How right verdicts are: counted for each pair, summed for causes and proxies. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alike;
use super::observers::Source;
use crate::expect::{Expect, Kind};
use crate::ledger::Sent;
use crate::packets;

/// Nanoseconds within which two faults are mixed.
const AT_ONCE: u64 = 1_000_000_000;

/// The failed responses of one pair and what was said of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Score {
    pub(super) failed: u32,
    /// The cause is the true one: `proven` and `likely` of these.
    pub(super) right: u32,
    pub(super) proven: u32,
    pub(super) likely: u32,
    /// A verdict that names no cause; no verdict at all.
    pub(super) unknown: u32,
    pub(super) missing: u32,
    /// What this source can show of the true cause (a death looks like a close to who sees packets).
    pub(super) shown: u32,
    /// Another cause, and of these the `proven` ones.
    pub(super) wrong: u32,
    pub(super) wrong_but_proven: u32,
    /// Verdicts for what did not fail, and second verdicts.
    pub(super) flagged: u32,
    /// Of these, the verdicts that are about no request that was made.
    #[serde(default)]
    pub(super) stray: u32,
    /// Requests that met the fault and were not answered with a failure: the proxy tried again or
    /// closed without a word.
    pub(super) saved: u32,
    pub(super) silent: u32,
}

impl Score {
    pub(super) fn add(&mut self, other: &Score) {
        self.failed += other.failed;
        self.right += other.right;
        self.proven += other.proven;
        self.likely += other.likely;
        self.unknown += other.unknown;
        self.missing += other.missing;
        self.shown += other.shown;
        self.wrong += other.wrong;
        self.wrong_but_proven += other.wrong_but_proven;
        self.flagged += other.flagged;
        self.stray += other.stray;
        self.saved += other.saved;
        self.silent += other.silent;
    }

    /// What has to hold of every pair: nothing wrong is called proven, nothing that is well has a
    /// verdict, and from what sees everything each failure has one and few are wrong.
    pub(super) fn holds(&self, source: Source) -> bool {
        let sound = self.wrong_but_proven == 0 && self.flagged == 0;
        let complete = self.missing == 0 && self.wrong * 2 < self.failed.max(1);
        sound && (complete || matches!(source, Source::Packets | Source::Logs))
    }
}

impl Judged {
    pub(super) fn add(&mut self, other: Judged) {
        self.score.add(&other.score);
        for (given, count) in other.given {
            *self.given.entry(given).or_default() += count;
        }
        self.mistakes.extend(other.mistakes);
    }

    /// Counts verdicts about requests that nobody made.
    pub(super) fn flag_strays(&mut self, strays: &[&Value]) {
        self.score.flagged += strays.len() as u32;
        self.score.stray += strays.len() as u32;
        let told = strays.iter().map(|line| format!("stray: {line}"));
        // Those who read on have to see these first.
        self.mistakes.splice(..0, told);
    }
}

/// One pair, judged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Judged {
    pub(super) score: Score,
    /// True cause (`none` where nothing failed) and given cause, by count; the diagonal too.
    pub(super) given: BTreeMap<String, u32>,
    pub(super) mistakes: Vec<String>,
}

/// What failed within a second of something that failed for another cause.
pub(super) fn mixed(entries: &[(Sent, Expect)]) -> Vec<bool> {
    let failures: Vec<(u64, &str)> = (entries.iter())
        .filter(|(sent, truth)| sent.failed() && truth.kind == Kind::Verdict)
        .map(|(sent, truth)| (sent.ended, truth.cause))
        .collect();
    let beside_another = |sent: &Sent, truth: &Expect| {
        let near = |(then, cause): &(u64, &str)| {
            *cause != truth.cause && then.abs_diff(sent.ended) < AT_ONCE
        };
        sent.failed() && truth.kind == Kind::Verdict && failures.iter().any(near)
    };
    (entries.iter())
        .map(|(sent, truth)| beside_another(sent, truth))
        .collect()
}

/// Holds what an agent said against what was true of those that are `wanted`. `lines` are by path.
pub(super) fn judge(
    entries: &[(Sent, Expect)],
    lines: &BTreeMap<&str, Vec<&Value>>,
    source: Source,
    wanted: &[bool],
) -> Judged {
    let mut judged = Judged::default();
    let said = alike::share(entries, lines);
    let all = entries.iter().zip(said).zip(wanted);
    for ((sent, truth), said) in all.filter(|(_, wanted)| **wanted).map(|(all, _)| all) {
        let name = || format!("{} {} ({:?})", sent.method, sent.path, sent.status);
        let score = &mut judged.score;
        if truth.kind == Kind::Apart {
            continue;
        }
        if !sent.failed() {
            if truth.kind == Kind::Verdict {
                match sent.status {
                    Some(_) => score.saved += 1,
                    None => score.silent += 1,
                }
            }
            // A proxy that closes without a word has failed as well, and its log or the wire may know
            // of a status: what is said of it may be right, or admit that it does not know. Who sees
            // less may take it for something else, but not prove that.
            let silent = sent.status.is_none() && truth.kind == Kind::Verdict;
            let sees_less = matches!(source, Source::Packets | Source::Logs);
            let fair = |line: &Value| {
                let owned = [truth.cause, "unknown"].contains(&cause(line));
                owned || (sees_less && line["confidence"] != "proven")
            };
            for line in said.iter().filter(|line| !silent || !fair(line)) {
                score.flagged += 1;
                judged
                    .mistakes
                    .push(format!("{}: did not fail: {}", name(), told(line)));
            }
            continue;
        }
        score.failed += 1;
        let Some(line) = said.first() else {
            score.missing += 1;
            judged.mistakes.push(format!("{}: nothing said", name()));
            continue;
        };
        score.flagged += said.len() as u32 - 1;
        for line in &said[1..] {
            judged
                .mistakes
                .push(format!("{}: said twice: {}", name(), told(line)));
        }
        let (given, proven) = (cause(line), line["confidence"] == "proven");
        *judged.given.entry(given.to_owned()).or_default() += 1;
        if given == truth.cause && truth.kind == Kind::Verdict {
            score.right += 1;
            score.proven += u32::from(proven);
            score.likely += u32::from(!proven);
            continue;
        }
        let shows = source == Source::Packets && packets::shown(&truth.label(), given);
        match given {
            "unknown" => score.unknown += 1,
            _ if shows && !proven => score.shown += 1,
            _ => {
                score.wrong += 1;
                score.wrong_but_proven += u32::from(proven);
            }
        }
        judged.mistakes.push(format!("{}: {}", name(), told(line)));
    }
    judged
}

/// What decided comes first: the end may be cut where it is shown.
fn told(line: &Value) -> String {
    let texts = |list: &Value, key: &str| -> Vec<String> {
        let all = list.as_array().into_iter().flatten();
        all.filter_map(|one| Some(one.get(key)?.as_str()?.to_owned()))
            .collect()
    };
    format!(
        "{} {}, {}; facts {:?}; missing {}; of attempts {:?}; {line}",
        cause(line),
        line["variant"],
        line["confidence"],
        texts(&line["evidence"], "text"),
        line["missing"],
        texts(&line["attempts"], "cause"),
    )
}

fn cause(line: &Value) -> &str {
    line["cause"].as_str().unwrap_or_default()
}

/// How well one cause is told from the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Told {
    pub(super) failed: u32,
    pub(super) recall: f64,
    pub(super) precision: f64,
    pub(super) f1: f64,
}

/// Each cause of these pairs, `(true cause, judged)`, by its name.
pub(super) fn by_cause<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a Judged)>,
) -> BTreeMap<String, Told> {
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    let mut right: BTreeMap<String, u32> = BTreeMap::new();
    let mut claimed: BTreeMap<String, u32> = BTreeMap::new();
    for (cause, judged) in pairs {
        *failed.entry(cause.to_owned()).or_default() += judged.score.failed;
        *right.entry(cause.to_owned()).or_default() += judged.score.right;
        for (given, count) in &judged.given {
            *claimed.entry(given.clone()).or_default() += count;
        }
    }
    let causes: BTreeSet<String> = failed
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(c, _)| c.clone())
        .collect();
    let share = |part: u32, whole: u32| {
        if whole == 0 {
            0.0
        } else {
            f64::from(part) / f64::from(whole)
        }
    };
    let told = |cause: &String| {
        let count = |of: &BTreeMap<String, u32>| of.get(cause).copied().unwrap_or(0);
        let (recall, precision) = (
            share(count(&right), count(&failed)),
            share(count(&right), count(&claimed)),
        );
        let f1 = match recall + precision {
            0.0 => 0.0,
            sum => 2.0 * recall * precision / sum,
        };
        Told {
            failed: count(&failed),
            recall,
            precision,
            f1,
        }
    };
    causes
        .iter()
        .map(|cause| (cause.clone(), told(cause)))
        .collect()
}

/// The mean over the causes, each weighing the same.
pub(super) fn macro_f1(causes: &BTreeMap<String, Told>) -> f64 {
    let sum: f64 = causes.values().map(|told| told.f1).sum();
    sum / causes.len().max(1) as f64
}

/// The same of recall.
pub(super) fn macro_recall(causes: &BTreeMap<String, Told>) -> f64 {
    let sum: f64 = causes.values().map(|told| told.recall).sum();
    sum / causes.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Score, by_cause, judge, macro_f1, macro_recall, mixed};
    use crate::expect::{Expect, HEALTHY};
    use crate::ledger::Sent;
    use crate::matrix::observers::Source;

    fn sent(path: &str, status: Option<u16>) -> Sent {
        Sent {
            method: "GET",
            path: path.into(),
            status,
            ended: 1,
            ..Sent::default()
        }
    }

    fn line(cause: &str, confidence: &str) -> Value {
        json!({"cause": cause, "confidence": confidence})
    }

    fn score(entries: &[(Sent, Expect)], said: &[(&str, Value)]) -> Score {
        let mut lines: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for (path, line) in said {
            lines.entry(path).or_default().push(line);
        }
        let wanted = vec![true; entries.len()];
        judge(entries, &lines, Source::Kernel, &wanted).score
    }

    #[test]
    fn each_verdict_counts_once_and_as_what_it_is() {
        let truth = || Expect::verdict("c", &[502], "worker_killed");
        let failed = [(sent("/a", Some(502)), truth())];
        let of = |said: &[(&str, Value)]| score(&failed, said);
        let right = of(&[("/a", line("worker_killed", "proven"))]);
        assert!(right.holds(Source::Kernel) && right.proven == 1);
        assert_eq!(of(&[("/a", line("worker_killed", "likely"))]).likely, 1);
        assert_eq!(of(&[]).missing, 1);
        assert_eq!(of(&[("/a", line("unknown", "unknown"))]).unknown, 1);
        let wrong = of(&[("/a", line("keepalive_race", "proven"))]);
        assert_eq!((wrong.wrong, wrong.wrong_but_proven), (1, 1));
        assert_eq!(
            of(&[
                ("/a", line("worker_killed", "proven")),
                ("/a", line("worker_killed", "proven"))
            ])
            .flagged,
            1
        );
        // Nor one that claims nothing, whoever tells it.
        let twice = [line("worker_killed", "likely"), line("unknown", "unknown")];
        let lines = [("/a", twice.iter().collect())].into();
        let every = [Source::Kernel, Source::Packets, Source::Logs, Source::All];
        let flagged = |source| judge(&failed, &lines, source, &[true]).score.flagged;
        assert_eq!(every.map(flagged), [1; 4]);
        // What is well gets no verdict; what the proxy saved, or closed silently, has not failed.
        let well = [(sent("/b", Some(200)), HEALTHY)];
        let flagged = score(&well, &[("/b", line("worker_killed", "likely"))]);
        assert_eq!(flagged.flagged, 1);
        assert!(!every.into_iter().any(|source| flagged.holds(source)));
        let saved = [
            (sent("/c", Some(200)), truth()),
            (sent("/d", None), truth()),
        ];
        let saved = score(&saved, &[("/d", line("worker_killed", "proven"))]);
        assert_eq!(
            (saved.saved, saved.silent, saved.failed, saved.flagged),
            (1, 1, 0, 0)
        );
        // One about no request fails the pair, from every source.
        let known = line("worker_killed", "proven");
        let own = [("/a", vec![&known])].into();
        let mut judged = judge(&failed, &own, Source::Kernel, &[true]);
        assert!(every.iter().all(|source| judged.score.holds(*source)));
        judged.flag_strays(&[&line("worker_killed", "likely")]);
        assert_eq!((judged.score.flagged, judged.score.stray), (1, 1));
        assert!(!every.iter().any(|source| judged.score.holds(*source)));
        assert!(judged.mistakes[0].starts_with("stray: "));
        // A failure that no injector knows of is nobody's right verdict.
        let stray = [(sent("/e", Some(502)), HEALTHY)];
        assert!(!score(&stray, &[("/e", line("worker_killed", "proven"))]).holds(Source::Kernel));
    }

    #[test]
    fn faults_within_a_second_are_mixed() {
        let at = |ended: u64, status: u16, cause: &'static str| {
            let sent = Sent {
                ended: ended * 1_000_000,
                ..sent("/a", Some(status))
            };
            (sent, Expect::verdict("c", &[502], cause))
        };
        let entries = [
            at(100, 502, "worker_killed"),
            at(900, 502, "worker_killed"),
            at(1800, 502, "connection_refused"),
            at(1801, 200, "worker_killed"),
        ];
        assert_eq!(mixed(&entries), [false, true, true, false]);
    }

    #[test]
    fn a_cause_claimed_elsewhere_loses_precision_and_one_missed_recall() {
        let judged = |truth: &'static str, given: &str| {
            let entries = [(sent("/a", Some(502)), Expect::verdict("c", &[502], truth))];
            let line = line(given, "likely");
            let lines = [("/a", vec![&line])].into();
            judge(&entries, &lines, Source::Kernel, &[true])
        };
        let pairs = [
            ("worker_killed", judged("worker_killed", "worker_killed")),
            ("keepalive_race", judged("keepalive_race", "worker_killed")),
        ];
        let causes = by_cause(pairs.iter().map(|(cause, judged)| (*cause, judged)));
        assert_eq!(causes["worker_killed"].precision, 0.5);
        assert_eq!(causes["worker_killed"].recall, 1.0);
        assert_eq!(causes["keepalive_race"].f1, 0.0);
        assert!((macro_f1(&causes) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(macro_recall(&causes), 0.5);
    }
}
