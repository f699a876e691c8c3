//! What the verdicts of a run are made of: an agent with probes beside all faults, and afterwards
//! what a capture in the proxy's namespace and the proxy's logs say of each pair.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::proxies::Proxy;
use super::slices::{Part, slices};
use super::stage::Stage;
use super::whose::Seen;
use crate::agent::{self, Capture, Captured};
use crate::expect::Kind;
use crate::ledger::Ledger;
use crate::packets::Everything;
use crate::wait;

/// The contract's latest time for a verdict is 250 ms after the response (or two round trips), and a
/// death's later.
const SETTLE: Duration = Duration::from_secs(2);
/// Proxies write their lines when a response is sent, or soon after.
const WRITTEN: Duration = Duration::from_secs(1);
const KERNEL: &str = "why502-kernel";
const RECORDING: &str = "recording.jsonl";

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// The probes alone.
    Kernel,
    /// Packets alone, captured where the proxy is.
    Packets,
    /// The proxies' logs alone.
    Logs,
    /// The probes and the proxies' logs.
    All,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Source::Kernel => "kernel",
            Source::Packets => "packets",
            Source::Logs => "logs",
            Source::All => "all",
        }
    }
}

/// What each source said of one pair.
pub(super) type Said = BTreeMap<Source, Vec<Value>>;

/// What became of all of it, at the end.
#[derive(Default)]
pub(super) struct Ended {
    /// What the live agent said of all pairs, and where it saw processes.
    pub(super) probes: Option<(Vec<Value>, Seen)>,
    /// What its facts and the logs say together, of each pair.
    pub(super) all: Vec<Vec<Value>>,
    /// When the live agent's lines were read, by their ids: monotonic nanoseconds.
    pub(super) heard: BTreeMap<String, u64>,
    /// How many signals were lost.
    pub(super) lost: u64,
}

pub(super) struct Observers {
    why502: PathBuf,
    out: PathBuf,
    sources: BTreeSet<Source>,
    probes: Option<Capture>,
}

impl Observers {
    /// Starts them for these proxies, which come later.
    pub(super) fn start(
        why502: &Path,
        out: &Path,
        sources: &[Source],
        proxies: &[&Proxy],
    ) -> Result<Observers> {
        let sources: BTreeSet<Source> = sources.iter().copied().collect();
        let mut probes = None;
        if sources.contains(&Source::Kernel) || sources.contains(&Source::All) {
            let folder = out.join(KERNEL);
            let mut command = Command::new(why502);
            command
                .args(["capture", "--for", "12h", "--json", "--no-logs"])
                .args(["--source", "kernel", "--record"])
                .arg(folder.join(RECORDING));
            for proxy in proxies {
                command.args(["--proxy", proxy.process]);
            }
            let mut agent = Capture::launch(command, &folder)?;
            agent.wait_ready()?;
            probes = Some(agent);
        }
        Ok(Observers {
            why502: why502.to_owned(),
            out: out.to_owned(),
            sources,
            probes,
        })
    }

    /// Has everything captured that a pair's proxy sends and is sent.
    pub(super) fn capture(&self, stage: &mut Stage) -> Result<()> {
        if self.sources.contains(&Source::Packets) {
            let capture = Everything::start(&stage.near, &stage.run.folder, "everything")?;
            stage.packets = Some(capture);
        }
        Ok(())
    }

    /// Waits until all has been said of each failed response, or its time is over; what the pair's own
    /// packets and logs say.
    pub(super) fn settle(&self, stage: &mut Stage) -> Result<Said> {
        let failed = failed(&stage.run.ledger);
        let paths: BTreeSet<&str> = failed.iter().map(String::as_str).collect();
        if let Some(probes) = &self.probes {
            let silent = silent(&stage.run.ledger);
            let silent: BTreeSet<&str> = silent.iter().map(String::as_str).collect();
            let (mut seen, mut told, mut told_of_silent) = (0, 0, 0);
            // Too few lines are the judge's business. None is looked at twice: who does that for long
            // keeps the next one from being read.
            let _ = wait::until("the verdicts", SETTLE, || {
                seen = probes.look(seen, |line| {
                    let path = line["request"]["path"].as_str();
                    let of = |paths: &BTreeSet<&str>| path.is_some_and(|path| paths.contains(path));
                    told += usize::from(line["type"] == "verdict" && of(&paths));
                    told_of_silent += usize::from(of(&silent));
                });
                told >= failed.len() && told_of_silent >= silent.len()
            });
        }
        let mut said = Said::new();
        if let Some(capture) = stage.packets.take() {
            said.insert(Source::Packets, capture.explain(&self.why502)?);
        }
        if !self.sources.contains(&Source::Logs) && !self.sources.contains(&Source::All) {
            return Ok(said);
        }
        let logs = logs(&stage.run.folder, stage.proxy);
        let _ = wait::until("the lines", WRITTEN, || {
            let text: Vec<String> = logs.iter().map(|log| read(log)).collect();
            let told = |path: &&str| text.iter().any(|text| text.contains(path));
            logs.is_empty() || paths.iter().all(told)
        });
        if self.sources.contains(&Source::Logs) && !stage.proxy.logs.is_empty() {
            let written = written(logs);
            let lines = match written.is_empty() {
                true => Vec::new(),
                false => agent::explain(&self.why502, None, &written)?,
            };
            said.insert(Source::Logs, lines);
        }
        Ok(said)
    }

    /// Ends the agent: what it said and when, how many signals were lost, and what its facts and the
    /// logs of each pair say together. `pairs` come with the folders that are kept of them.
    pub(super) fn finish(self, pairs: &[(PathBuf, &Proxy, Part)]) -> Result<Ended> {
        let Some(probes) = self.probes else {
            return Ok(Ended::default());
        };
        let captured: Captured = probes.finish(0, 0)?;
        let lost = captured.summary()?["lost"]["signals"].as_u64().unwrap_or(0);
        let recording = read(&self.out.join(KERNEL).join(RECORDING));
        let mut ended = Ended {
            heard: captured.heard,
            lost,
            ..Ended::default()
        };
        if self.sources.contains(&Source::Kernel) {
            ended.probes = Some((captured.lines, Seen::read(&recording)));
        }
        if self.sources.contains(&Source::All) {
            let parts: Vec<Part> = pairs.iter().map(|(.., part)| *part).collect();
            for ((folder, proxy, _), own) in pairs.iter().zip(slices(&recording, &parts)) {
                let file = folder.join(RECORDING);
                std::fs::write(&file, own)?;
                let nameless = proxy.nameless.iter().map(|name| folder.join(name));
                let logs = written(logs(folder, proxy).into_iter().chain(nameless).collect());
                ended
                    .all
                    .push(agent::explain(&self.why502, Some(&file), &logs)?);
            }
        }
        Ok(ended)
    }
}

/// The paths of failed requests, each as often as it was asked for.
fn failed(ledger: &Ledger) -> Vec<String> {
    let sent = ledger.sent().into_iter();
    sent.filter(|sent| sent.failed()).map(|s| s.path).collect()
}

/// The paths of requests that met a fault and were not answered: their upstream has to be there until its
/// end cannot be taken for the reason.
fn silent(ledger: &Ledger) -> BTreeSet<String> {
    let entries = ledger.entries().into_iter();
    let silent =
        entries.filter(|(sent, truth)| sent.status.is_none() && truth.kind == Kind::Verdict);
    silent.map(|(sent, _)| sent.path).collect()
}

fn logs(folder: &Path, proxy: &Proxy) -> Vec<PathBuf> {
    proxy.logs.iter().map(|name| folder.join(name)).collect()
}

/// Those that hold anything.
fn written(logs: Vec<PathBuf>) -> Vec<PathBuf> {
    let holds = |log: &PathBuf| log.metadata().is_ok_and(|meta| meta.len() > 0);
    logs.into_iter().filter(holds).collect()
}

fn read(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
