//! What a machine left: judged against what its kernel may be blind to and what was recorded of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::costs::{self, Cost};
use super::kernels::Kernel;
use super::poorer;
use super::rights::{self, Rights};
use super::scenarios::{Proven, Scenario};
use crate::shell;

/// One line of `why502 check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fact {
    pub(super) fact: String,
    pub(super) gives: String,
    pub(super) visible: bool,
    pub(super) hook: String,
    pub(super) reason: Option<String>,
    pub(super) needs: Needs,
}

/// The capabilities that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Needs {
    pub(super) to_start: Vec<String>,
    pub(super) to_keep: Vec<String>,
}

/// What the tests replay of a kernel, and a run is compared with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recording {
    pub(super) offer: Value,
    pub(super) check: Vec<Fact>,
    /// What is not seen with fewer capabilities.
    pub(super) rights: Vec<Rights>,
    /// The capabilities that it has when it watches, of all those of root.
    pub(super) kept: BTreeSet<String>,
    /// What `check` says otherwise where the kernel offers one thing less.
    #[serde(default)]
    pub(super) without: BTreeMap<String, Vec<Fact>>,
    #[serde(default)]
    pub(super) costs: Vec<Cost>,
    /// Scenarios of the lab by name, and whether each passed.
    #[serde(default)]
    pub(super) scenarios: BTreeMap<String, bool>,
    /// Of those in which signals may be lost, how much was proven.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) proven: BTreeMap<String, Proven>,
}

/// The recorded scenarios alone, of whatever else a recording has.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Before {
    scenarios: BTreeMap<String, bool>,
    #[serde(default)]
    proven: BTreeMap<String, Proven>,
}

impl Recording {
    pub(super) fn of(results: &Path, check: &[Fact], scenarios: &[Scenario]) -> Result<Recording> {
        let offer = fs::read_to_string(results.join("offer.json")).context("read offer.json")?;
        let offer: Value = serde_json::from_str(&offer).context("parse offer.json")?;
        let offered = BTreeSet::deserialize(&offer["btf"]).context("offer.json names no BTF")?;
        Ok(Recording {
            offer,
            check: check.to_owned(),
            rights: rights::read(results)?,
            kept: rights::kept(results)?,
            without: poorer::read(results, check, &offered)?,
            costs: costs::read(results)?,
            scenarios: scenarios
                .iter()
                .filter_map(|one| Some((one.name.clone(), one.passed()?)))
                .collect(),
            proven: scenarios
                .iter()
                .filter_map(|one| Some((one.name.clone(), one.proven?)))
                .collect(),
        })
    }

    pub(super) fn before(kernel: &Kernel) -> Before {
        let text = fs::read_to_string(Recording::path(kernel)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Those that were not run this time.
    pub(super) fn keep_scenarios_of(&mut self, mut before: Before) {
        for (name, passed) in before.scenarios {
            if self.scenarios.contains_key(&name) {
                continue;
            }
            if let Some(proven) = before.proven.remove(&name) {
                self.proven.insert(name.clone(), proven);
            }
            self.scenarios.insert(name, passed);
        }
    }

    pub(super) fn exists(kernel: &Kernel) -> bool {
        Recording::path(kernel).is_file()
    }

    pub(super) fn read(kernel: &Kernel) -> Result<Recording> {
        let path = Recording::path(kernel);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("read {}: `--record` makes it", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    fn path(kernel: &Kernel) -> PathBuf {
        let folder = shell::root().join("agent/tests/kernels");
        folder.join(format!("{}-{}.json", kernel.series, kernel.arch.name()))
    }

    pub(super) fn write(&self, kernel: &Kernel) -> Result<()> {
        let path = Recording::path(kernel);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// What `why502 check` said.
pub(super) fn check(path: &Path) -> Result<Vec<Fact>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    // Proxies that run have lines of their own.
    let facts = text.lines().filter(|line| line.contains("\"fact\":"));
    let lines = facts.map(serde_json::from_str);
    let facts = lines.collect::<Result<_, _>>();
    facts.context("parse what `why502 check --json` said")
}

/// What of it is not as it was recorded, or not as it may be.
pub(super) fn problems(check: &[Fact], kernel: &Kernel) -> Vec<String> {
    let mut problems = blindness(check, &kernel.blind);
    let recorded = match Recording::read(kernel) {
        Ok(recorded) => recorded,
        Err(error) => {
            problems.push(format!("{error:#}"));
            return problems;
        }
    };
    for (now, then) in check.iter().zip(&recorded.check) {
        if now != then {
            problems.push(format!("{}: {now:?}, recorded is {then:?}", now.fact));
        }
    }
    if check.len() != recorded.check.len() {
        problems.push("check tells of other facts than when it was recorded".to_owned());
    }
    problems
}

/// What CAP_BPF and CAP_PERFMON are not enough for: other users' files and processes, and packets.
const MORE: [&str; 4] = ["processes", "logs", "packets", "namespaces"];

/// CAP_BPF and CAP_PERFMON are enough for all that sockets and processes do.
pub(super) fn blind_with_least(least: &[Fact], kernel: &Kernel) -> Vec<String> {
    let mut allowed = kernel.blind.clone();
    allowed.extend(MORE.map(str::to_owned));
    let problems = blindness(least, &allowed).into_iter();
    problems
        .map(|problem| format!("with CAP_BPF and CAP_PERFMON alone: {problem}"))
        .collect()
}

/// Facts that this kernel does not show.
pub(super) fn blind(check: &[Fact]) -> Vec<&str> {
    let blind = check.iter().filter(|fact| !fact.visible);
    blind.map(|fact| fact.fact.as_str()).collect()
}

/// A fact may be missing only where the list says so, and the list may not say more than is true.
fn blindness(check: &[Fact], allowed: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for fact in check {
        let reason = fact.reason.as_deref().unwrap_or("no reason given");
        match (fact.visible, allowed.contains(&fact.fact)) {
            (false, false) => problems.push(format!("blind to {}: {reason}", fact.fact)),
            (true, true) => problems.push(format!(
                "{} is seen now: take it off the list in xtask/src/vm/kernels.toml",
                fact.fact
            )),
            _ => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kernels;
    use super::*;

    fn fact(name: &str, visible: bool) -> Fact {
        Fact {
            fact: name.to_owned(),
            gives: String::new(),
            visible,
            hook: String::new(),
            reason: None,
            needs: Needs::default(),
        }
    }

    #[test]
    fn the_list_of_blind_facts_is_neither_too_short_nor_too_long() {
        let check = [fact("reads", true), fact("filter_drops", false)];
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert!(blindness(&check, &list(&["filter_drops"])).is_empty());
        assert_eq!(blindness(&check, &list(&[])).len(), 1);
        assert_eq!(
            blindness(&check, &list(&["filter_drops", "reads"])).len(),
            1
        );
    }

    #[test]
    fn what_was_not_run_this_time_stays_as_it_was_recorded() {
        let before = json!({"scenarios": {"a": true, "b": false, "c": true},
                            "proven": {"a": {"proven": 1, "of": 3}, "c": {"proven": 2, "of": 3}}});
        let mut now: Recording = serde_json::from_value(json!({
            "offer": {}, "check": [], "rights": [], "kept": [],
            "scenarios": {"c": true, "d": true}, "proven": {"d": {"proven": 3, "of": 3}}
        }))
        .unwrap();
        now.keep_scenarios_of(serde_json::from_value(before).unwrap());
        let now = serde_json::to_value(now).unwrap();
        assert_eq!(
            now["scenarios"],
            json!({"a": true, "b": false, "c": true, "d": true})
        );
        assert_eq!(
            now["proven"],
            json!({"a": {"proven": 1, "of": 3}, "d": {"proven": 3, "of": 3}})
        );
    }

    #[test]
    fn a_recording_is_written_as_it_was_read() {
        for kernel in kernels::all()
            .unwrap()
            .iter()
            .filter(|one| Recording::exists(one))
        {
            let text = fs::read_to_string(Recording::path(kernel)).unwrap();
            let file: Value = serde_json::from_str(&text).unwrap();
            let recorded = serde_json::to_value(Recording::read(kernel).unwrap()).unwrap();
            assert!(recorded == file, "{}", kernel.name());
        }
    }
}
