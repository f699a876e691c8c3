//! What the labs of a machine left: each scenario that was to be run, and what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Of the verdicts that would be proven if no signal were lost, those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proven {
    pub(super) proven: u64,
    pub(super) of: u64,
}

impl fmt::Display for Proven {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{}/{}", self.proven, self.of)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Right,
    Wrong,
    /// The machine lacked something.
    Skipped,
    /// There is no result of it.
    Missing,
}

/// One scenario of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) name: String,
    end: End,
    /// Where signals may be lost, and there was something to prove.
    pub(super) proven: Option<Proven>,
}

impl Scenario {
    /// `None` where it was not run.
    pub(super) fn passed(&self) -> Option<bool> {
        match self.end {
            End::Right => Some(!self.proves_nothing()),
            End::Wrong => Some(false),
            End::Skipped | End::Missing => None,
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.end == End::Missing
    }

    /// Losses may take the proof from some verdicts, but not from all.
    fn proves_nothing(&self) -> bool {
        self.proven.is_some_and(|proven| proven.proven == 0)
    }

    pub(super) fn problem(&self) -> Option<String> {
        let name = &self.name;
        match (self.end, self.proven) {
            (End::Right, Some(Proven { proven: 0, of })) => {
                Some(format!("scenario {name}: of {of} verdicts none is proven"))
            }
            (End::Right, _) => None,
            (End::Wrong, _) => Some(format!("scenario {name} failed")),
            (End::Skipped, _) => Some(format!("scenario {name} was skipped")),
            (End::Missing, _) => Some(format!("scenario {name} has no result")),
        }
    }
}

/// The scenarios that these labs were to run, and what is wrong with what they left.
pub(super) fn read(results: &Path, labs: &[String]) -> (Vec<Scenario>, Vec<String>) {
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for lab in labs {
        let listed = fs::read_to_string(results.join(list(lab))).unwrap_or_default();
        let wanted: Vec<String> = listed.lines().filter_map(name_in_list).collect();
        if wanted.is_empty() {
            problems.push(format!("{lab} named no scenario that it was to run"));
        }
        let mut left = left(&results.join(lab).join("results.json")).unwrap_or_else(|error| {
            problems.push(format!("{lab} left no results: {error:#}"));
            BTreeMap::new()
        });
        for wanted in wanted {
            let (end, proven) = left.remove(&wanted).unwrap_or((End::Missing, None));
            let name = match lab.starts_with(LEAST) {
                true => format!("{wanted}, least privileges"),
                false => wanted,
            };
            all.push(Scenario { name, end, proven });
        }
    }
    (all, problems)
}

/// What the name of a lab begins with in which the agent has the least privileges.
pub(super) const LEAST: &str = "least-";

/// The file into which a lab's `--list` goes.
pub(super) fn list(lab: &str) -> String {
    format!("{lab}.list")
}

/// `row  2 post-fin-in-flight`
fn name_in_list(line: &str) -> Option<String> {
    let (row, scenario) = line.strip_prefix("row ")?.trim().split_once(' ')?;
    Some(name(row.parse().ok()?, scenario))
}

fn name(row: u64, scenario: &str) -> String {
    format!("{row:02} {scenario}")
}

/// By name, what one lab says of its scenarios.
fn left(path: &Path) -> Result<BTreeMap<String, (End, Option<Proven>)>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lab: Value = serde_json::from_str(&text).context("parse the lab's results")?;
    let lossy = lab["options"]["lossy"] == true;
    let scenarios = lab["scenarios"].as_array().into_iter().flatten();
    let left = scenarios.map(|scenario| {
        let row = scenario["row"].as_u64().unwrap_or(0);
        let name = name(row, scenario["scenario"].as_str().unwrap_or("?"));
        let proven = lossy.then(|| proven(&scenario["judgement"])).flatten();
        (name, (end(scenario), proven))
    });
    Ok(left.collect())
}

fn end(scenario: &Value) -> End {
    let problems = scenario["judgement"]["problems"].as_array();
    if !scenario["skipped"].is_null() {
        End::Skipped
    } else if scenario["failed"].is_null() && problems.is_some_and(Vec::is_empty) {
        End::Right
    } else {
        End::Wrong
    }
}

fn proven(judgement: &Value) -> Option<Proven> {
    let cells = judgement["cells"].as_object()?;
    let sum = |count: &str| cells.values().filter_map(|cell| cell[count].as_u64()).sum();
    let proven = Proven {
        proven: sum("proven"),
        of: sum("provable"),
    };
    (proven.of > 0).then_some(proven)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTED: &str = "row  2 post-fin\nrow 25 other-tools\n";

    /// A lab that lists two scenarios, and these results of it.
    fn judged(results: &str) -> (Vec<Scenario>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let lab = "least-0".to_owned();
        fs::create_dir(folder.path().join(&lab)).unwrap();
        fs::write(folder.path().join(list(&lab)), LISTED).unwrap();
        fs::write(folder.path().join(&lab).join("results.json"), results).unwrap();
        read(folder.path(), &[lab])
    }

    fn result(row: u64, name: &str, proven: u64, provable: u64) -> Value {
        let cell = json!({"proven": proven, "provable": provable});
        json!({"row": row, "scenario": name,
               "judgement": {"cells": {"a": cell, "b": cell}, "problems": []}})
    }

    fn results(lossy: bool, scenarios: &[Value]) -> String {
        json!({"options": {"lossy": lossy}, "scenarios": scenarios}).to_string()
    }

    fn problems(scenarios: &[Scenario]) -> Vec<String> {
        scenarios.iter().filter_map(Scenario::problem).collect()
    }

    #[test]
    fn a_scenario_without_a_result_is_named() {
        let (all, nothing) = judged(&results(false, &[result(2, "post-fin", 0, 0)]));
        assert_eq!(nothing, [""; 0]);
        let passed: Vec<_> = all.iter().map(Scenario::passed).collect();
        assert_eq!(passed, [Some(true), None]);
        let missing = "scenario 25 other-tools, least privileges has no result";
        assert_eq!(problems(&all), [missing]);
    }

    #[test]
    fn results_that_break_off_or_are_not_there_are_those_of_no_scenario() {
        let whole = results(
            false,
            &[result(2, "post-fin", 0, 0), result(25, "other-tools", 0, 0)],
        );
        assert_eq!(problems(&judged(&whole).0), [""; 0]);
        let (all, wrong) = judged(&whole[..whole.len() - 1]);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].starts_with("least-0 left no results"), "{wrong:?}");
        assert_eq!(problems(&all).len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let (all, wrong) = read(folder.path(), &["lab-1".to_owned()]);
        assert_eq!(all, []);
        assert!(wrong[0].starts_with("lab-1 named no scenario"), "{wrong:?}");
        assert!(wrong[1].starts_with("lab-1 left no results"), "{wrong:?}");
    }

    #[test]
    fn each_end_is_told_apart() {
        let failed = json!({"row": 2, "scenario": "post-fin", "failed": "no nginx"});
        let skipped = json!({"row": 25, "scenario": "other-tools", "skipped": "no tcpstates"});
        let (all, _) = judged(&results(false, &[failed, skipped]));
        let passed: Vec<_> = all.iter().map(Scenario::passed).collect();
        assert_eq!(passed, [Some(false), None]);
        assert!(problems(&all)[0].ends_with("failed"));
        assert!(problems(&all)[1].ends_with("skipped"));
    }

    #[test]
    fn where_signals_are_lost_proofs_are_counted_and_none_is_too_few() {
        let of = |lossy, proven| {
            let tools = result(25, "other-tools", 0, 0);
            let (all, _) = judged(&results(lossy, &[result(2, "post-fin", proven, 15), tools]));
            (all[0].clone(), all[1].clone())
        };
        let (some, nothing_to_prove) = of(true, 14);
        assert_eq!(some.proven.unwrap().to_string(), "28/30");
        assert_eq!((some.passed(), some.problem()), (Some(true), None));
        assert_eq!(nothing_to_prove.proven, None);
        assert_eq!(nothing_to_prove.passed(), Some(true));
        let (none, _) = of(true, 0);
        assert_eq!(none.passed(), Some(false));
        let problem = none.problem().unwrap();
        assert!(
            problem.ends_with("of 30 verdicts none is proven"),
            "{problem}"
        );
        // Where no loss is excused, the lab itself asks for proof.
        assert_eq!(of(false, 15).0.proven, None);
    }
}
