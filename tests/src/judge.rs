//! Joins what clients saw and what was true with what why502 said, request by request.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::expect::{Check, Expect, Kind, NO_STATUS, label};
use crate::ledger::{Ledger, Sent};
use crate::packets::Scores;
use crate::prometheus::Counters;

/// The counts of the requests of one kind in a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    pub requests: u32,
    /// Responses with a status of 500 or more, and those that the truth calls failed.
    pub failed: u32,
    pub by_status: BTreeMap<u16, u32>,
    pub right: u32,
    pub wrong: u32,
    pub missing: u32,
    pub unproven: u32,
    /// Of the right ones, those that are less sure because a loss was told, where losses are no fault.
    pub unsure_by_loss: u32,
    /// Requests of which the truth is to be proven, and those of them that are, rightly.
    pub provable: u32,
    pub proven: u32,
    /// Healthy requests (or near misses) that got a verdict.
    pub flagged: u32,
    /// The fault did not do to the client what the scenario says.
    pub fault_missed: u32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Judgement {
    pub cells: BTreeMap<&'static str, Cell>,
    /// (true label, given label) → count.
    #[serde(skip)]
    pub confusion: BTreeMap<(String, String), u32>,
    pub problems: Vec<String>,
    /// What packets alone show, where they were captured.
    pub packets: Scores,
    /// What was not compared, and why.
    pub notes: Vec<String>,
    /// Lines about proxies that are not of this scenario.
    pub foreign: u32,
    /// By `status cause`, as the counters have to show it.
    #[serde(skip)]
    pub failed: BTreeMap<String, u64>,
    /// By cause, the fewest and the most near misses that the counters may show: of some requests
    /// the truth does not say how many attempts of theirs failed.
    #[serde(skip)]
    pub near_misses: BTreeMap<String, (u64, u64)>,
}

impl Judgement {
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }

    fn admit_near_misses(&mut self, cause: &str, fewest: u64, most: usize) {
        let admitted = self.near_misses.entry(cause.to_owned()).or_default();
        admitted.0 += fewest;
        admitted.1 += most as u64;
    }

    /// What is wrong with the counters of an agent beside this scenario.
    pub fn miscounted(&self, seen: &Counters) -> Option<String> {
        if seen.failed != self.failed {
            return Some(format!(
                "Prometheus counted {:?}, the clients saw {:?}",
                seen.failed, self.failed
            ));
        }
        let causes: BTreeSet<&String> = seen
            .near_misses
            .keys()
            .chain(self.near_misses.keys())
            .collect();
        let wrong = causes.into_iter().find(|cause| {
            let count = seen.near_misses.get(*cause).copied().unwrap_or(0);
            let (fewest, most) = self.near_misses.get(*cause).copied().unwrap_or((0, 0));
            count < fewest || count > most
        });
        wrong.map(|cause| {
            format!(
                "near misses by {cause}: Prometheus counted {:?}, the truth has {:?} (fewest, most)",
                seen.near_misses.get(cause),
                self.near_misses.get(cause)
            )
        })
    }
}

/// `lines` is `None` when why502 was not there: then only the clients' statuses are judged.
/// Counters have to show what ended after `counted_since`.
pub fn judge(
    ledger: &Ledger,
    lines: Option<&[Value]>,
    proxies: &BTreeSet<u32>,
    counted_since: u64,
) -> Judgement {
    let mut result = Judgement::default();
    let mut verdicts: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut near_misses: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut without_path: Vec<&Value> = Vec::new();
    for line in lines.unwrap_or_default() {
        let kind = line["type"].as_str();
        let group = match kind {
            Some("verdict") => &mut verdicts,
            Some("near_miss") => &mut near_misses,
            Some("truncated" | "suppressed" | "risk" | "summary") => continue,
            _ => {
                result.problems.push(format!("not of the contract: {line}"));
                continue;
            }
        };
        match line["request"]["path"].as_str() {
            Some(path) if ledger.owns(path) => group.entry(path).or_default().push(line),
            _ if !is_ours(line, ledger, proxies) => result.foreign += 1,
            None if kind == Some("verdict") => without_path.push(line),
            Some(_) if kind == Some("verdict") => {
                result.problems.push(format!("stray verdict: {line}"));
            }
            _ => result.admit_near_misses(line["cause"].as_str().unwrap_or_default(), 0, 1),
        }
        if line["confidence"] == "likely" && is_empty(&line["missing"]) {
            let problem = format!("likely, and nothing is missing: {line}");
            result.problems.push(problem);
        }
    }

    for (sent, truth) in ledger.entries() {
        let counted = sent.ended > counted_since;
        let cell = result.cells.entry(truth.cell).or_default();
        cell.requests += 1;
        let status = sent.status.unwrap_or(NO_STATUS);
        *cell.by_status.entry(status).or_default() += 1;
        if truth.kind == Kind::Verdict {
            cell.failed += 1;
            let hidden = truth
                .checks
                .iter()
                .any(|check| matches!(check, Check::StatusUnseen));
            let status = match hidden {
                true => "unknown".to_owned(),
                false => status.to_string(),
            };
            let said = verdicts.get(sent.path.as_str()).and_then(|v| v.first());
            let cause = truth.admits(said.and_then(|line| line["cause"].as_str()));
            if counted {
                let key = format!("{status} {cause}");
                *result.failed.entry(key).or_default() += 1;
            }
        }
        let of_near_misses = near_misses.get(sent.path.as_str());
        let of_near_misses = of_near_misses.map_or(&[][..], Vec::as_slice);
        if !counted {
            // No counter saw it.
        } else if truth.kind == Kind::NearMiss {
            let said = of_near_misses
                .first()
                .and_then(|line| line["cause"].as_str());
            result.admit_near_misses(truth.admits(said), 1, truth.at_most.max(1));
        } else {
            for line in of_near_misses {
                result.admit_near_misses(line["cause"].as_str().unwrap_or_default(), 0, 1);
            }
        }
        let cell = result.cells.entry(truth.cell).or_default();
        if !truth.statuses.contains(&status) {
            cell.fault_missed += 1;
            result.problems.push(format!(
                "{} {} [{}]: the client saw {status} ({}), the scenario says {:?}",
                sent.method,
                sent.path,
                truth.cell,
                sent.error.as_deref().unwrap_or("no error"),
                truth.statuses
            ));
            continue;
        }
        if lines.is_none() || truth.kind == Kind::Apart {
            continue;
        }
        let path = sent.path.as_str();
        let claimed;
        let of_verdicts = match verdicts.get(path) {
            Some(lines) => lines.as_slice(),
            None if truth.pathless => {
                claimed = claim(&mut without_path, &truth);
                claimed.as_slice()
            }
            None => &[],
        };
        let problem = compare(&sent, &truth, of_verdicts, of_near_misses, cell);
        if truth.kind == Kind::Verdict {
            let given = of_verdicts.first().map_or("nothing".to_owned(), |line| {
                label(
                    line["cause"].as_str().unwrap_or("?"),
                    line["variant"].as_str(),
                )
            });
            let key = (truth.label(), given);
            *result.confusion.entry(key).or_default() += 1;
        }
        result.problems.extend(problem);
    }
    for line in without_path {
        result.problems.push(format!("stray verdict: {line}"));
    }
    result
}

/// Takes one verdict that has no path and the wanted label.
fn claim<'a>(without_path: &mut Vec<&'a Value>, truth: &Expect) -> Option<&'a Value> {
    let fits =
        |line: &&Value| line["cause"] == truth.cause && line["variant"].as_str() == truth.variant;
    let at = without_path.iter().position(fits)?;
    Some(without_path.swap_remove(at))
}

/// Whether a line is about this scenario's requests or proxies.
pub fn is_ours(line: &Value, ledger: &Ledger, proxies: &BTreeSet<u32>) -> bool {
    let path = line["request"]["path"].as_str();
    let pid = line["proxy"]["pid"].as_u64();
    path.is_some_and(|path| ledger.owns(path))
        || pid.is_some_and(|pid| proxies.contains(&(pid as u32)))
}

/// A `likely` names the fact that it lacks.
pub fn is_empty(missing: &Value) -> bool {
    missing.as_array().is_none_or(Vec::is_empty)
}

/// The label, what is missing, then the whole line.
fn gist(line: &Value) -> String {
    let label = label(
        line["cause"].as_str().unwrap_or("?"),
        line["variant"].as_str(),
    );
    format!(
        "{} {label}, missing {}; {line}",
        line["confidence"].as_str().unwrap_or("?"),
        line["missing"]
    )
}

fn compare(
    sent: &Sent,
    truth: &Expect,
    verdicts: &[&Value],
    near_misses: &[&Value],
    cell: &mut Cell,
) -> Option<String> {
    let name = format!("{} {} [{}]", sent.method, sent.path, truth.cell);
    let lines = match truth.kind {
        Kind::Verdict => verdicts,
        _ if !verdicts.is_empty() => {
            cell.flagged += 1;
            return Some(format!("{name}: unwanted verdict {}", verdicts[0]));
        }
        Kind::NearMiss => near_misses,
        Kind::Healthy | Kind::Apart => return None,
    };
    let provable = truth.confidence == "proven";
    cell.provable += u32::from(provable);
    let Some(line) = lines.first() else {
        cell.missing += 1;
        return Some(format!("{name}: nothing said, truth is {}", truth.label()));
    };
    let at_most = truth.at_most.max(1);
    if lines.len() > at_most {
        cell.wrong += 1;
        return Some(format!("{name}: {} lines, not {at_most}", lines.len()));
    }
    let given = (line["cause"].as_str(), line["variant"].as_str());
    let admitted = given == (Some(truth.cause), truth.variant)
        || truth
            .or
            .iter()
            .any(|(cause, variant)| given == (Some(*cause), *variant));
    if !admitted {
        cell.wrong += 1;
        return Some(format!(
            "{name}: truth is {}, got {}",
            truth.label(),
            gist(line)
        ));
    }
    let surer = truth.or_proven && line["confidence"] == "proven";
    let admits = truth.cause != "unknown" && given == (Some("unknown"), None);
    let told = line["lost_signals"].as_u64().is_some_and(|lost| lost > 0);
    let lost = truth.may_lose && line["confidence"] == "likely" && told;
    cell.unsure_by_loss += u32::from(lost);
    // Where `unknown` is right as well, it is no surer than that.
    if line["confidence"] != truth.confidence && !surer && !lost && !admits {
        cell.unproven += 1;
        return Some(format!("{name}: not {}: {}", truth.confidence, gist(line)));
    }
    let failures: Vec<String> = truth
        .checks
        .iter()
        .filter_map(|check| check.failure(line))
        .collect();
    if failures.is_empty() {
        cell.right += 1;
        cell.proven += u32::from(provable && line["confidence"] == "proven");
        None
    } else {
        cell.wrong += 1;
        Some(format!("{name}: {}", failures.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::judge;
    use crate::expect::Expect;
    use crate::ledger::{Ledger, Sent};
    use crate::prometheus::Counters;

    fn ledger() -> (Ledger, String) {
        let ledger = Ledger::new("t");
        let path = ledger.path("/x");
        ledger.record(Sent {
            method: "GET",
            path: path.clone(),
            status: Some(502),
            began: 0,
            ended: 1,
            ..Sent::default()
        });
        (ledger, path)
    }

    fn line(path: &str, cause: &str, confidence: &str) -> Value {
        json!({"type": "verdict", "request": {"path": path}, "cause": cause,
               "variant": null, "confidence": confidence, "proxy": {"pid": 7}})
    }

    #[test]
    fn a_told_loss_excuses_doubt_only_where_losses_are_no_fault() {
        let judged = |lossy: bool, lost: u32| {
            let (ledger, path) = ledger();
            let ledger = ledger.lossy(lossy);
            ledger.expect(&path, Expect::verdict("c", &[502], "worker_killed"));
            let mut line = line(&path, "worker_killed", "likely");
            line["lost_signals"] = lost.into();
            line["missing"] = json!(["signals"]);
            judge(&ledger, Some(&[line]), &BTreeSet::from([7]), 0).passed()
        };
        assert!(judged(true, 1));
        assert!(!judged(true, 0));
        assert!(!judged(false, 1));
    }

    #[test]
    fn of_what_is_to_be_proven_it_is_counted_what_is() {
        let counted = |unproven: bool, said: &[&str]| {
            let ledger = Ledger::new("t").lossy(true).unproven(unproven);
            let mut lines = Vec::new();
            for confidence in said {
                let path = ledger.path("/x");
                ledger.record(Sent {
                    path: path.clone(),
                    status: Some(502),
                    ..Sent::default()
                });
                ledger.expect(&path, Expect::verdict("c", &[502], "worker_killed"));
                let mut line = line(&path, "worker_killed", confidence);
                line["lost_signals"] = 1.into();
                line["missing"] = json!(["signals"]);
                lines.push(line);
            }
            let judged = judge(&ledger, Some(&lines), &BTreeSet::from([7]), 0);
            let cell = &judged.cells["c"];
            (cell.proven, cell.provable, cell.right)
        };
        assert_eq!(counted(false, &["proven", "likely", "proven"]), (2, 3, 3));
        assert_eq!(counted(true, &["likely"]), (0, 0, 1));
    }

    #[test]
    fn each_way_to_be_wrong_is_counted_apart() {
        let (ledger, path) = ledger();
        ledger.expect(&path, Expect::verdict("c", &[502], "worker_killed"));
        let count = |lines: &[Value]| {
            let judged = judge(&ledger, Some(lines), &BTreeSet::from([7]), 0);
            let cell = judged.cells["c"].clone();
            (
                cell.right,
                cell.wrong,
                cell.missing,
                cell.unproven,
                judged.passed(),
            )
        };
        let right = line(&path, "worker_killed", "proven");
        assert_eq!(count(std::slice::from_ref(&right)), (1, 0, 0, 0, true));
        assert_eq!(count(&[]), (0, 0, 1, 0, false));
        assert_eq!(
            count(&[line(&path, "keepalive_race", "proven")]),
            (0, 1, 0, 0, false)
        );
        assert_eq!(
            count(&[line(&path, "worker_killed", "likely")]),
            (0, 0, 0, 1, false)
        );
        assert_eq!(count(&[right.clone(), right.clone()]), (0, 1, 0, 0, false));
        let stray = line("/else", "worker_killed", "proven");
        assert_eq!(count(&[right, stray]), (1, 0, 0, 0, false));
    }

    #[test]
    fn unknown_passes_only_where_it_is_listed() {
        let passes = |expect: Expect| {
            let (ledger, path) = ledger();
            ledger.expect(&path, expect);
            let mut line = line(&path, "unknown", "unknown");
            line["missing"] = json!(["proxy_log"]);
            judge(&ledger, Some(&[line]), &BTreeSet::from([7]), 0).passed()
        };
        let truth = Expect::verdict("c", &[502], "worker_killed").at_least_likely();
        assert!(passes(truth.clone().or("unknown", None)));
        assert!(!passes(truth.or("keepalive_race", None)));
    }

    #[test]
    fn a_likely_has_to_say_what_is_missing() {
        let (ledger, path) = ledger();
        ledger.expect(
            &path,
            Expect::verdict("c", &[502], "worker_killed").likely(),
        );
        let mut said = line(&path, "worker_killed", "likely");
        let passes = |line: &Value| {
            let lines = std::slice::from_ref(line);
            judge(&ledger, Some(lines), &BTreeSet::new(), 0).passed()
        };
        assert!(!passes(&said));
        said["missing"] = json!(["process_exit: not seen"]);
        assert!(passes(&said));
    }

    #[test]
    fn counters_have_to_agree_exactly() {
        let (ledger, path) = ledger();
        ledger.expect(&path, Expect::verdict("c", &[502], "worker_killed"));
        let retried = ledger.path("/x");
        let sent = Sent {
            path: retried.clone(),
            status: Some(200),
            ..ledger.sent().remove(0)
        };
        ledger.record(sent);
        let near_miss = Expect::near_miss("n", &[200], "keepalive_race").up_to(2);
        ledger.expect(&retried, near_miss);
        let judged = judge(&ledger, None, &BTreeSet::new(), 0);
        let agrees = |failed: u64, near: u64| {
            let seen = Counters {
                failed: [("502 worker_killed".to_owned(), failed)].into(),
                near_misses: [("keepalive_race".to_owned(), near)].into(),
            };
            judged.miscounted(&seen).is_none()
        };
        assert!(agrees(1, 1) && agrees(1, 2));
        assert!(!agrees(2, 1) && !agrees(1, 0) && !agrees(1, 3));
        let mut more = Counters::default();
        more.failed.insert("502 worker_killed".to_owned(), 1);
        more.near_misses.insert("keepalive_race".to_owned(), 1);
        more.near_misses.insert("worker_killed".to_owned(), 1);
        assert!(judged.miscounted(&more).is_some());
    }

    #[test]
    fn without_a_word_of_truth_a_failure_is_a_problem() {
        let (ledger, _) = ledger();
        assert!(!judge(&ledger, None, &BTreeSet::new(), 0).passed());
    }
}
