//! The same scenario seen by packets alone: tcpdump in the proxy's namespace, `why502 explain` on
//! what it wrote, judged against the same truth, and compared with the kernel's verdicts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::expect::{Kind, label};
use crate::ledger::Ledger;
use crate::netns::NetNs;
use crate::process::Proc;
use crate::{agent, judge, wait};

/// What has to be right of all that packets can show, over a run.
const GOAL_PERCENT: f64 = 99.0;

/// A capture of everything that TCP carries in one namespace.
pub struct Everything {
    proc: Proc,
    pub file: PathBuf,
    /// Monotonic nanoseconds.
    pub began: u64,
}

impl Everything {
    pub fn start(ns: &NetNs, folder: &Path, name: &str) -> Result<Everything> {
        let file = folder.join(format!("{name}.pcap"));
        let log = folder.join(format!("{name}-tcpdump.log"));
        let mut command = ns.command("tcpdump");
        command
            .args(["-i", "any", "-n", "-U", "--immediate-mode", "-Z", "root"])
            .args(["-s", "2048", "-B", "16384", "-w"])
            .arg(&file)
            .arg("tcp or icmp or icmp6");
        let mut proc = Proc::spawn("tcpdump", command, &log)?;
        proc.wait_ready("tcpdump", Duration::from_secs(10), || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        })?;
        Ok(Everything {
            proc,
            file,
            began: wait::monotonic_ns(),
        })
    }

    /// Ends the capture; what `why502 explain` says about it.
    pub fn explain(mut self, why502: &Path) -> Result<Vec<Value>> {
        self.proc.signal(libc::SIGTERM);
        self.proc.wait_exit(Duration::from_secs(10))?;
        agent::explain(why502, Some(&self.file), &[])
    }
}

/// How the packets' verdicts compare, by the truth's label.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Score {
    pub failed: u32,
    /// The cause that packets can show of this truth, or the truth itself.
    pub right: u32,
    pub wrong: u32,
    pub missing: u32,
    pub proven: u32,
    /// The kernel gave the same cause, or the one of which packets can show this.
    pub agree: u32,
    pub given: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Scores {
    pub by_truth: BTreeMap<String, Score>,
    /// Always a mistake, whatever packets can show.
    pub wrongly_proven: Vec<String>,
    /// Races that the wire proves, and that were not seen as such.
    pub races_missed: Vec<String>,
    /// Verdicts about healthy requests, and about requests that nobody made.
    pub flagged: Vec<String>,
    /// Verdicts that are `likely` and do not say what is missing.
    pub groundless: Vec<String>,
    /// Causes named for requests to Unix sockets, of which nothing is on the wire.
    pub invented: u32,
    pub mistakes: Vec<String>,
}

/// Joins the packets' lines with the truth of what began since then, and with the kernel's lines.
pub fn score(ledger: &Ledger, lines: &[Value], kernel: Option<&[Value]>, since: u64) -> Scores {
    let mut scores = Scores::default();
    let of_packets = by_path(lines);
    let of_kernel = by_path(kernel.unwrap_or_default());
    let mut pathless = Vec::new();
    let no_path = |line: &&Value| line["type"] == "verdict" && line["request"]["path"].is_null();
    let mut pathless_of_kernel: Vec<&Value> =
        kernel.unwrap_or_default().iter().filter(no_path).collect();
    for line in lines.iter().filter(|line| line["type"] == "verdict") {
        match line["request"]["path"].as_str() {
            None => pathless.push(line),
            Some(path) if !ledger.owns(path) => scores.flagged.push(format!("nobody's: {line}")),
            Some(_) => {}
        }
    }
    for line in lines {
        if line["confidence"] == "likely" && judge::is_empty(&line["missing"]) {
            scores
                .groundless
                .push(format!("likely, nothing missing: {line}"));
        }
    }
    for (sent, truth) in ledger.entries() {
        if truth.kind == Kind::Apart || sent.began < since {
            continue;
        }
        let given: &[&Value] = of_packets
            .get(sent.path.as_str())
            .map_or(&[], Vec::as_slice);
        let verdict = given.iter().find(|line| line["type"] == "verdict").copied();
        if truth.kind == Kind::Healthy {
            if let Some(line) = verdict {
                scores.flagged.push(format!("{}: {line}", sent.path));
            }
            continue;
        }
        let kernels = of_kernel.get(sent.path.as_str());
        let on_unix = |line: &&Value| {
            let upstream = line["upstream"]["address"].as_str();
            upstream.is_some_and(|address| address.starts_with("unix:"))
        };
        // Nothing of a Unix socket is on the wire: no claim may be made.
        if kernels.is_some_and(|lines| lines.iter().any(on_unix)) {
            let unknown = |line: &Value| line["cause"] == "unknown";
            let said = verdict.or_else(|| claim(&mut pathless, unknown));
            if let Some(line) = said.filter(|line| !unknown(line)) {
                scores.invented += 1;
                scores
                    .mistakes
                    .push(format!("{}: Unix socket, got {line}", sent.path));
            }
            continue;
        }
        let is_right =
            |cause: &str| cause == truth.cause || truth.or.iter().any(|(or, _)| *or == cause);
        let fits = |line: &Value| {
            let cause = line["cause"].as_str().unwrap_or("?");
            is_right(cause) || shown(&truth.label(), cause)
        };
        let line = match truth.kind {
            // Where nothing reached an upstream and TLS hides the client's side, there is no path.
            Kind::Verdict => verdict.or_else(|| claim(&mut pathless, fits)),
            _ => given
                .iter()
                .find(|line| line["type"] == "near_miss")
                .copied(),
        };
        let score = scores.by_truth.entry(truth.label()).or_default();
        score.failed += 1;
        let race = truth.kind == Kind::Verdict
            && truth.cause == "keepalive_race"
            && truth.variant != Some("closed_unread");
        if race && line.is_none_or(|line| line["cause"] != truth.cause) {
            let said = line.map_or("nothing".to_owned(), |line| line.to_string());
            let text = format!("{}: truth is {}, got {said}", sent.path, truth.label());
            scores.races_missed.push(text);
        }
        let Some(line) = line else {
            score.missing += 1;
            *score.given.entry("nothing".to_owned()).or_default() += 1;
            let text = format!("{}: truth is {}, got nothing", sent.path, truth.label());
            scores.mistakes.push(text);
            continue;
        };
        let cause = line["cause"].as_str().unwrap_or("?");
        let said = label(cause, line["variant"].as_str());
        *score.given.entry(said).or_default() += 1;
        let proven = line["confidence"] == "proven";
        score.proven += u32::from(proven);
        let agrees = |other: &&Value| {
            let others = other["cause"].as_str().unwrap_or("?");
            let said = label(others, other["variant"].as_str());
            other["type"] == line["type"] && (others == cause || shown(&said, cause))
        };
        let agree = match line["request"]["path"].as_str() {
            Some(_) => kernels.is_some_and(|lines| lines.iter().any(agrees)),
            None => claim(&mut pathless_of_kernel, |line| agrees(&line)).is_some(),
        };
        score.agree += u32::from(agree);
        if fits(line) {
            score.right += 1;
        } else {
            score.wrong += 1;
            let text = format!("{}: truth is {}, got {line}", sent.path, truth.label());
            scores.mistakes.push(text);
        }
        if proven && !is_right(cause) {
            let text = format!("{}: truth is {}, proven {line}", sent.path, truth.label());
            scores.wrongly_proven.push(text);
        }
    }
    let stray = pathless.into_iter().map(|line| format!("nobody's: {line}"));
    scores.flagged.extend(stray);
    scores
}

/// Takes one of the lines without a path.
fn claim<'a>(pathless: &mut Vec<&'a Value>, fits: impl Fn(&Value) -> bool) -> Option<&'a Value> {
    let at = pathless.iter().position(|line| fits(line))?;
    Some(pathless.swap_remove(at))
}

fn by_path(lines: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let mut map: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        if let Some(path) = line["request"]["path"].as_str() {
            map.entry(path).or_default().push(line);
        }
    }
    map
}

/// Whether this is what packets can show of a truth that lies behind them: a death looks like a
/// close or a reset, a wait like any other wait, a full queue like an unknown path. Whether a reset
/// came before or after the request was read is not on the wire.
pub fn shown(truth: &str, cause: &str) -> bool {
    if truth == "keepalive_race/closed_unread" {
        return cause == "upstream_reset";
    }
    match truth.split('/').next().unwrap_or_default() {
        "worker_crashed"
        | "worker_killed"
        | "worker_timeout_killed"
        | "worker_oom_killed"
        | "upstream_shutdown"
        | "listener_died"
        | "upstream_closed_early"
        | "upstream_reset" => {
            matches!(cause, "upstream_closed_early" | "upstream_reset")
        }
        "read_timeout_never_accepted" | "read_timeout_not_read" | "read_timeout_no_reply" => {
            cause == "read_timeout_no_reply"
        }
        "protocol_mismatch" => matches!(cause, "upstream_closed_early" | "upstream_reset"),
        "syn_backlog_full" => cause == "connect_timeout",
        "tcp_accept_queue_full" => {
            matches!(
                cause,
                "connect_timeout" | "request_unacknowledged" | "upstream_reset"
            )
        }
        _ => false,
    }
}

/// Whether packets show anything of this cause at all.
fn visible(label: &str) -> bool {
    let hidden = ["unix_", "proxy_", "unknown"];
    !hidden.iter().any(|start| label.starts_with(start))
}

impl Scores {
    pub fn add(&mut self, other: &Scores) {
        for (truth, score) in &other.by_truth {
            let sum = self.by_truth.entry(truth.clone()).or_default();
            sum.failed += score.failed;
            sum.right += score.right;
            sum.wrong += score.wrong;
            sum.missing += score.missing;
            sum.proven += score.proven;
            sum.agree += score.agree;
            for (given, count) in &score.given {
                *sum.given.entry(given.clone()).or_default() += count;
            }
        }
        self.wrongly_proven.extend_from_slice(&other.wrongly_proven);
        self.races_missed.extend_from_slice(&other.races_missed);
        self.flagged.extend_from_slice(&other.flagged);
        self.groundless.extend_from_slice(&other.groundless);
        self.invented += other.invented;
        self.mistakes.extend_from_slice(&other.mistakes);
    }

    /// What may not be said of any scenario, however little of it packets show.
    pub fn never(&self) -> impl Iterator<Item = &String> {
        let never = [
            &self.wrongly_proven,
            &self.flagged,
            &self.races_missed,
            &self.groundless,
        ];
        never.into_iter().flatten()
    }

    /// Over all causes that packets can show: what is right, what the kernel agrees with, of how many.
    fn visible(&self) -> (u32, u32, u32) {
        let visible = self.by_truth.iter().filter(|(truth, _)| visible(truth));
        let scores = visible.map(|(_, score)| (score.right, score.agree, score.failed));
        scores.fold((0, 0, self.invented), |sum, one| {
            (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2)
        })
    }

    /// Whether packets say what they can, over a whole run; else what is wrong.
    pub fn passed(&self) -> Result<String, String> {
        let (right, agree, failed) = self.visible();
        let percent = |part: u32| f64::from(part) * 100.0 / f64::from(failed.max(1));
        let text = format!(
            "right {right} of {failed} ({:.2} %), as the kernel {agree} ({:.2} %)",
            percent(right),
            percent(agree)
        );
        if failed > 0 && percent(right.min(agree)) < GOAL_PERCENT {
            return Err(format!("{text}, not {GOAL_PERCENT} %"));
        }
        Ok(text)
    }

    /// Truth down; how many packets got right, and how often the kernel says the same.
    pub fn print(&self) {
        if self.by_truth.is_empty() {
            return;
        }
        println!("\npackets alone (truth: right of failed, proven, as the kernel; verdicts given)");
        for (truth, score) in &self.by_truth {
            let given: Vec<String> = score
                .given
                .iter()
                .map(|(g, n)| format!("{g} {n}"))
                .collect();
            println!(
                "  {truth:<42} {:>4} of {:>4}, {:>4}, {:>4}; {}",
                score.right,
                score.failed,
                score.proven,
                score.agree,
                given.join(", ")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Score, Scores, score};
    use crate::expect::Expect;
    use crate::ledger::{Ledger, Sent};

    /// One request that failed as stated, and a healthy one.
    fn ledger(expect: Expect) -> (Ledger, [String; 2]) {
        let ledger = Ledger::new("t");
        let paths = [ledger.path("/x"), ledger.path("/x")];
        for (path, status) in paths.iter().zip([502, 200]) {
            ledger.record(Sent {
                method: "GET",
                path: path.clone(),
                status: Some(status),
                began: 10,
                ended: 11,
                ..Sent::default()
            });
        }
        ledger.expect(&paths[0], expect);
        (ledger, paths)
    }

    fn line(path: Option<&str>, cause: &str, confidence: &str) -> Value {
        json!({"type": "verdict", "request": {"path": path}, "cause": cause, "variant": null,
               "confidence": confidence, "missing": ["something"]})
    }

    #[test]
    fn what_may_never_be_said() {
        let (ledger, [failed, healthy]) =
            ledger(Expect::verdict("c", &[502], "connection_refused"));
        let never = |line: Value| score(&ledger, &[line], None, 0).never().count();
        assert_eq!(
            never(line(Some(&failed), "connection_refused", "proven")),
            0
        );
        assert_eq!(never(line(Some(&failed), "upstream_reset", "proven")), 1);
        assert_eq!(never(line(Some(&healthy), "upstream_reset", "likely")), 1);
        assert_eq!(never(line(Some("/else"), "upstream_reset", "likely")), 1);
        let mut groundless = line(Some(&failed), "connection_refused", "likely");
        groundless["missing"] = json!([]);
        assert_eq!(never(groundless), 1);
    }

    #[test]
    fn a_verdict_without_a_path_needs_a_failure_that_it_fits() {
        let (ledger, _) = ledger(Expect::verdict("c", &[502], "connection_refused"));
        let pathless = line(None, "connection_refused", "likely");
        let fits = score(&ledger, std::slice::from_ref(&pathless), None, 0);
        assert_eq!((fits.never().count(), fits.mistakes.len()), (0, 0));
        let both = std::slice::from_ref(&pathless);
        let agreed = score(&ledger, both, Some(both), 0);
        assert_eq!(agreed.by_truth["connection_refused"].agree, 1);
        let twice = score(&ledger, &[pathless.clone(), pathless], None, 0);
        assert_eq!(twice.flagged.len(), 1);
        let other = line(None, "upstream_reset", "likely");
        let other = score(&ledger, &[other], None, 0);
        assert_eq!((other.flagged.len(), other.mistakes.len()), (1, 1));
    }

    #[test]
    fn what_failed_before_the_capture_is_not_looked_for() {
        let (ledger, _) = ledger(Expect::verdict("c", &[502], "connection_refused"));
        assert_eq!(score(&ledger, &[], None, 0).mistakes.len(), 1);
        assert_eq!(score(&ledger, &[], None, 11).mistakes.len(), 0);
    }

    #[test]
    fn of_a_whole_run_nearly_all_is_right() {
        let run = |right: u32, agree: u32, invented: u32| {
            let of_cause = Score {
                failed: 200,
                right,
                agree,
                ..Score::default()
            };
            let scores = Scores {
                by_truth: [("connection_refused".to_owned(), of_cause)].into(),
                invented,
                ..Scores::default()
            };
            scores.passed().is_ok()
        };
        assert!(run(200, 200, 0) && run(199, 198, 0));
        assert!(!run(197, 200, 0) && !run(200, 197, 0) && !run(199, 199, 2));
    }
}
