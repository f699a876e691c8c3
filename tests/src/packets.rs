//! The same scenario seen by packets alone: tcpdump in the proxy's namespace, `why502 explain` on
//! what it wrote, judged against the same truth, and compared with the kernel's verdicts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::expect::{Expect, Kind, label};
use crate::ledger::Ledger;
use crate::netns::NetNs;
use crate::process::Proc;

/// A capture of everything that TCP carries in one namespace.
pub struct Everything {
    proc: Proc,
    pub file: PathBuf,
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
        Ok(Everything { proc, file })
    }

    /// Ends the capture; what `why502 explain` says about it.
    pub fn explain(mut self, why502: &Path) -> Result<Vec<Value>> {
        self.proc.signal(libc::SIGTERM);
        self.proc.wait_exit(Duration::from_secs(10))?;
        explain(why502, &self.file)
    }
}

fn explain(why502: &Path, file: &Path) -> Result<Vec<Value>> {
    let output = std::process::Command::new(why502)
        .args(["explain", "--json"])
        .arg(file)
        .output()
        .context("run why502 explain")?;
    if !output.status.success() {
        bail!("explain: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of explain"))
        .collect()
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
    /// The kernel gave the same cause.
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
    /// Healthy requests with a verdict.
    pub flagged: Vec<String>,
    pub mistakes: Vec<String>,
}

/// Joins the packets' lines with the truth, and with the kernel's lines.
pub fn score(ledger: &Ledger, lines: &[Value], kernel: Option<&[Value]>) -> Scores {
    let mut scores = Scores::default();
    let of_packets = by_path(lines);
    let of_kernel = by_path(kernel.unwrap_or_default());
    for (sent, truth) in ledger.entries() {
        if truth.kind == Kind::Apart {
            continue;
        }
        let given: &[&Value] = of_packets
            .get(sent.path.as_str())
            .map_or(&[], Vec::as_slice);
        let verdict = given.iter().find(|line| line["type"] == "verdict");
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
            if let Some(line) = verdict.filter(|line| line["cause"] != "unknown") {
                scores
                    .mistakes
                    .push(format!("{}: Unix socket, got {line}", sent.path));
            }
            continue;
        }
        let line = match truth.kind {
            Kind::Verdict => verdict,
            _ => given.iter().find(|line| line["type"] == "near_miss"),
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
            continue;
        };
        let cause = line["cause"].as_str().unwrap_or("?");
        let said = label(cause, line["variant"].as_str());
        *score.given.entry(said.clone()).or_default() += 1;
        let right = cause == truth.cause || truth.or.iter().any(|(or, _)| *or == cause);
        let proven = line["confidence"] == "proven";
        score.proven += u32::from(proven);
        if right || shown(&truth, cause) {
            score.right += 1;
        } else {
            score.wrong += 1;
            let text = format!("{}: truth is {}, got {line}", sent.path, truth.label());
            scores.mistakes.push(text);
        }
        let score = scores.by_truth.entry(truth.label()).or_default();
        let same = |other: &&&Value| other["type"] == line["type"] && other["cause"] == cause;
        score.agree += u32::from(kernels.is_some_and(|k| k.iter().find(same).is_some()));
        if proven && !right {
            let text = format!("{}: truth is {}, proven {line}", sent.path, truth.label());
            scores.wrongly_proven.push(text);
        }
    }
    scores
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
/// close or a reset, a wait like any other wait, a full queue like an unknown path.
fn shown(truth: &Expect, cause: &str) -> bool {
    match truth.cause {
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
    !label.starts_with("unix_") && !label.starts_with("proxy_") && !label.starts_with("unknown")
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
        self.mistakes.extend_from_slice(&other.mistakes);
    }

    /// Truth down; how many packets got right, and how often the kernel says the same.
    pub fn print(&self) {
        if self.by_truth.is_empty() {
            return;
        }
        println!("\npackets alone (truth: right of failed, proven, as the kernel; verdicts given)");
        let (mut right, mut failed, mut agree) = (0, 0, 0);
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
            if visible(truth) {
                right += score.right;
                failed += score.failed;
                agree += score.agree;
            }
        }
        let percent = |part: u32| f64::from(part) * 100.0 / f64::from(failed.max(1));
        println!(
            "  right {right} of {failed} ({:.2} %), as the kernel {agree} ({:.2} %)",
            percent(right),
            percent(agree)
        );
    }
}
