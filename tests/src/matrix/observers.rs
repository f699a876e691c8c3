//! The agents that watch a run of the matrix: one for each source, all beside the same faults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::proxies::Proxy;
use crate::agent::{Capture, Captured};
use crate::ledger::Ledger;
use crate::wait;

/// The contract's latest time for a verdict is 250 ms after the response (or two round trips), and a
/// death's later.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// The probes alone.
    Kernel,
    /// Captured packets alone.
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

    fn options(self) -> &'static [&'static str] {
        match self {
            Source::Kernel => &["--source", "kernel", "--no-logs"],
            Source::Packets => &["--source", "packets", "--no-logs"],
            Source::Logs => &["--source", "logs"],
            Source::All => &["--source", "kernel"],
        }
    }
}

pub(super) struct Observers(Vec<(Source, Capture)>);

impl Observers {
    /// Starts them for these proxies, which come later.
    pub(super) fn start(
        why502: &Path,
        out: &Path,
        sources: &[Source],
        proxies: &[&Proxy],
    ) -> Result<Observers> {
        let mut agents = Vec::new();
        for source in sources {
            let mut command = Command::new(why502);
            command
                .args(["capture", "--for", "2h", "--json"])
                .args(source.options());
            for proxy in proxies {
                command.args(["--proxy", proxy.process]);
            }
            let folder = out.join(format!("why502-{}", source.name()));
            if *source == Source::Kernel {
                command.arg("--record").arg(folder.join("recording.jsonl"));
            }
            agents.push((*source, Capture::launch(command, &folder)?));
        }
        for (_, agent) in &mut agents {
            agent.wait_ready()?;
        }
        Ok(Observers(agents))
    }

    /// Waits until all have said something of each failed response, or their time is over.
    pub(super) fn settle(&self, ledger: &Ledger) {
        let sent = ledger.sent();
        let failed: BTreeSet<&str> = (sent.iter().filter(|sent| sent.failed()))
            .map(|sent| sent.path.as_str())
            .collect();
        // Too few lines are the judge's business.
        let _ = wait::until("the verdicts", SETTLE, || {
            self.0.iter().all(|(_, agent)| {
                let of_failed = |line: &Value| {
                    let path = line["request"]["path"].as_str();
                    line["type"] == "verdict" && path.is_some_and(|path| failed.contains(path))
                };
                agent.count_where(of_failed) >= failed.len()
            })
        });
    }

    pub(super) fn finish(self) -> Result<Vec<(Source, Captured)>> {
        let mut all = Vec::new();
        for (source, agent) in self.0 {
            all.push((source, agent.finish(0, 0)?));
        }
        Ok(all)
    }
}

/// The verdicts by path.
pub(super) fn verdicts(lines: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let mut by_path: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["type"] == "verdict") {
        if let Some(path) = line["request"]["path"].as_str() {
            by_path.entry(path).or_default().push(line);
        }
    }
    by_path
}
