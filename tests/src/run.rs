//! One scenario under way: its folder, its ledger, its software, why502 beside it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::{Capture, Captured};
use crate::client::Request;
use crate::expect::{Expect, Kind};
use crate::judge::{self, Judgement};
use crate::ledger::Ledger;
use crate::netns::NetNs;
use crate::packets::{self, Everything};
use crate::process;
use crate::prometheus::Watched;
use crate::software::Nginx;

/// What a person asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: no agent, the faults alone are checked.
    pub why502: Option<PathBuf>,
    pub full: bool,
    pub out: PathBuf,
    /// Compare the counters in a Prometheus after every scenario, not only after a few.
    pub prometheus: bool,
    /// Nowhere.
    pub no_prometheus: bool,
    /// Capture packets at the proxies too, and explain them.
    pub packets: bool,
    /// The kernel lets nothing be proven: right causes are to be `likely`.
    pub unproven: bool,
}

/// Something a scenario needs from the host.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Program(&'static str),
    Tun,
    Controller(&'static str),
    Http2Curl,
    /// why502: without it there is nothing in the scenario to look at.
    Agent,
}

impl Need {
    /// Why it is not there; `None` when it is.
    pub fn lacking(self, options: &Options) -> Option<String> {
        match self {
            Need::Agent => (options.why502.is_none())
                .then(|| "it is about why502 itself, which --no-agent leaves out".to_owned()),
            Need::Program(name) => process::program(name)
                .is_none()
                .then(|| format!("{name} is not installed")),
            Need::Tun => {
                (!Path::new("/dev/net/tun").exists()).then(|| "there is no /dev/net/tun".to_owned())
            }
            Need::Controller(name) => crate::cgroup::unusable(name),
            Need::Http2Curl => {
                (!crate::client::curl::speaks_http2()).then(|| "curl cannot do HTTP/2".to_owned())
            }
        }
    }
}

/// One way to break something, as the list knows it.
pub struct Scenario {
    pub row: u8,
    pub name: &'static str,
    pub needs: &'static [Need],
    /// Compared with a Prometheus in the quick run too.
    pub counters: bool,
    pub run: fn(&mut Run) -> Result<()>,
}

/// The scenarios that are watched live by packets as well: races and refused connects, which packets
/// prove.
const PACKETS_LIVE: [&str; 3] = ["post-fin-in-flight", "post-other-variants", "closed-port"];

/// The rows whose packets are looked at in the quick run too: those with TCP upstreams whose causes
/// packets show.
const PACKETS_QUICKLY: [u8; 8] = [1, 2, 3, 4, 11, 13, 14, 15];

pub struct Run {
    row: u8,
    name: &'static str,
    pub options: Options,
    pub ledger: Arc<Ledger>,
    /// Sockets, configurations and logs; workers of another user can enter it.
    pub folder: PathBuf,
    /// What is kept.
    pub out: PathBuf,
    minimum: BTreeMap<&'static str, u32>,
    /// Masters of the proxies of this scenario, and all their processes seen.
    masters: Vec<u32>,
    proxies: BTreeSet<u32>,
    capture: Option<Capture>,
    dumps: Vec<Everything>,
    /// Others that watch the same, by name, each judged like the first.
    beside: Vec<(&'static str, Capture)>,
    /// What agents said that are no more, to be judged with what the last one says.
    said: Vec<Value>,
    /// Signals are lost on purpose.
    losing: bool,
    /// The same, live.
    live: Option<Capture>,
    watched: Option<Watched>,
    counters: bool,
    problems: Vec<String>,
    notes: Vec<String>,
    /// Software that lives until why502 has ended; dropped in order.
    held: Vec<Box<dyn Any + Send + Sync>>,
    _temp: tempfile::TempDir,
}

impl Run {
    pub fn new(options: &Options, scenario: &Scenario) -> Result<Run> {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::Builder::new().prefix("why502-lab-").tempdir()?;
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755))?;
        let out = options
            .out
            .join(format!("r{:02}-{}", scenario.row, scenario.name));
        std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        Ok(Run {
            row: scenario.row,
            name: scenario.name,
            options: options.clone(),
            // Two labs on one host must not take each other's verdicts for their own.
            ledger: Arc::new(
                Ledger::new(&format!(
                    "r{:02}x{:04x}",
                    scenario.row,
                    std::process::id() & 0xffff
                ))
                .unproven(options.unproven),
            ),
            folder: temp.path().to_owned(),
            out,
            minimum: BTreeMap::new(),
            masters: Vec::new(),
            proxies: BTreeSet::new(),
            capture: None,
            dumps: Vec::new(),
            beside: Vec::new(),
            said: Vec::new(),
            losing: false,
            live: None,
            watched: None,
            counters: !options.no_prometheus && (options.prometheus || scenario.counters),
            problems: Vec::new(),
            notes: Vec::new(),
            held: Vec::new(),
            _temp: temp,
        })
    }

    /// How many failures each cell has to have: 30 in a full run, else 3.
    pub fn wanted(&self) -> usize {
        if self.options.full { 30 } else { 3 }
    }

    /// `quick` or `full`, whichever this is.
    pub fn either<T>(&self, quick: T, full: T) -> T {
        if self.options.full { full } else { quick }
    }

    pub fn path(&self, folder: &str) -> String {
        self.ledger.path(folder)
    }

    /// A request whose truth is known before it is sent.
    pub fn expecting(&self, request: Request, expect: &Expect) -> Request {
        self.ledger.expect(&request.path, expect.clone());
        request
    }

    /// This cell has to end up with at least so many requests.
    pub fn at_least(&mut self, cell: &'static str, count: usize) {
        self.minimum.insert(cell, count as u32);
    }

    /// Starts why502, once the proxies are up, and waits until it sees.
    pub fn watch(&mut self, proxies: &[&Nginx]) -> Result<()> {
        for proxy in proxies {
            self.add_proxy(proxy.pid());
        }
        if let Some(why502) = self.options.why502.clone() {
            let why502 = why502.as_path();
            if self.counters {
                self.watched = Some(Watched::start(why502, &self.folder)?);
            }
            self.capture = Some(Capture::start(why502, &self.out, &[])?);
            let wanted = self.options.full || PACKETS_QUICKLY.contains(&self.row);
            if self.options.packets && wanted && process::program("tcpdump").is_some() {
                self.capture_packets(proxies)?;
            }
            if self.options.packets && PACKETS_LIVE.contains(&self.name) {
                let pids: Vec<String> = proxies.iter().map(|p| p.pid().to_string()).collect();
                let mut command = Command::new(why502);
                command
                    .args([
                        "capture",
                        "--for",
                        "600s",
                        "--json",
                        "--no-logs",
                        "--source",
                        "packets",
                    ])
                    .args(["--pid", &pids.join(",")]);
                let mut live = Capture::launch(command, &self.out.join("packets"))?;
                live.wait_ready()?;
                self.live = Some(live);
            }
        }
        Ok(())
    }

    /// Captures everything in the proxies' namespaces, once in each.
    fn capture_packets(&mut self, proxies: &[&Nginx]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for proxy in proxies {
            let pid = proxy.pid();
            if seen.insert(std::fs::read_link(format!("/proc/{pid}/ns/net"))?) {
                let ns = NetNs::of_process(pid)?;
                let name = format!("everything-{}", self.dumps.len() + 1);
                self.dumps
                    .push(Everything::start(&ns, &self.folder, &name)?);
            }
        }
        Ok(())
    }

    /// Another agent that sees the same and has to say the same.
    pub fn watch_beside(&mut self, name: &'static str) -> Result<()> {
        if let Some(why502) = &self.options.why502 {
            let capture = Capture::start(why502, &self.out.join(name), &[])?;
            self.beside.push((name, capture));
        }
        Ok(())
    }

    /// Has a scenario's own agent take the place of the one that `watch` starts.
    pub fn watched_by(&mut self, agent: Capture) {
        self.capture = Some(agent);
    }

    /// The agent that `watch` started.
    pub fn agent(&self) -> Result<&Capture> {
        self.capture.as_ref().context("no agent watches")
    }

    /// Has an agent's lines judged that did not live until the end.
    pub fn said(&mut self, lines: Vec<Value>) {
        self.said.extend(lines);
    }

    /// Losses are what the scenario is about: the agent has to tell some.
    pub fn loses_signals(&mut self) {
        self.losing = true;
    }

    /// The program under test.
    pub fn why502(&self) -> Result<&Path> {
        let why502 = self.options.why502.as_deref();
        why502.context("no why502 to start")
    }

    /// Another proxy of this scenario, by its first process.
    pub fn add_proxy(&mut self, master: u32) {
        self.masters.push(master);
        self.note_proxies();
    }

    /// Remembers the proxies' processes of this moment (a reload makes new ones).
    pub fn note_proxies(&mut self) {
        for master in &self.masters {
            self.proxies.insert(*master);
            self.proxies.extend(process::children(*master));
        }
    }

    /// A value of the agent's metrics; `None` where it is not compared in this run.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        self.watched.as_ref()?.metric(name, label).ok().flatten()
    }

    pub fn has_metrics(&self) -> bool {
        self.watched.is_some()
    }

    pub fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// What is worth knowing of a scenario that passed.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Keeps software running until why502 has ended.
    pub fn hold(&mut self, software: impl Any + Send + Sync) {
        self.held.push(Box::new(software));
    }

    /// Keeps a file of the scenario with the results.
    pub fn keep(&self, file: &Path) {
        if let Some(name) = file.file_name() {
            let _ = std::fs::copy(file, self.out.join(name));
        }
    }

    /// Ends why502 and judges.
    pub fn finish(mut self) -> Result<Judgement> {
        self.note_proxies();
        let entries = self.ledger.entries();
        let count = |kind| {
            entries
                .iter()
                .filter(|(_, truth)| truth.kind == kind)
                .count()
        };
        let (verdicts, near_misses) = (count(Kind::Verdict), count(Kind::NearMiss));
        let mut captured: Option<Captured> = self
            .capture
            .take()
            .map(|capture| capture.finish(verdicts.saturating_sub(self.said.len()), near_misses))
            .transpose()?;
        if let Some(captured) = &mut captured {
            captured.lines.splice(..0, std::mem::take(&mut self.said));
        }
        let lines = captured.as_ref().map(|captured| captured.lines.as_slice());
        let mut judged = judge::judge(&self.ledger, lines, &self.proxies);
        for (cell, count) in &self.minimum {
            let requests = judged.cells.get(cell).map_or(0, |cell| cell.requests);
            if requests < *count {
                judged.problems.push(format!(
                    "cell {cell}: {requests} requests, {count} wanted: the fault did not happen often enough"
                ));
            }
        }
        if let Some(captured) = &captured {
            if captured.exit != 0 {
                judged
                    .problems
                    .push(format!("why502 capture: exit status {}", captured.exit));
            }
            check_losses(captured, self.losing, &mut judged);
        }
        for (name, capture) in std::mem::take(&mut self.beside) {
            let captured = capture.finish(verdicts, near_misses)?;
            let beside = judge::judge(&self.ledger, Some(&captured.lines), &self.proxies);
            let right: u32 = beside.cells.values().map(|cell| cell.right).sum();
            judged.notes.push(format!("agent {name}: right {right}"));
            let problems = beside.problems.into_iter();
            let named = problems.map(|problem| format!("agent {name}: {problem}"));
            judged.problems.extend(named);
            if captured.exit != 0 {
                let problem = format!("agent {name}: exit status {}", captured.exit);
                judged.problems.push(problem);
            }
        }
        if let Some(watched) = &self.watched {
            let seen = watched.increase(&judged.failed)?;
            if judged.foreign > 0 {
                // They are in the counters too, and nobody knows how many there should be.
                judged.notes.push(format!(
                    "counters not compared: {} lines about other proxies on this host",
                    judged.foreign
                ));
            } else if seen != judged.failed {
                judged.problems.push(format!(
                    "Prometheus counted {seen:?}, the clients saw {:?}",
                    judged.failed
                ));
            }
        }
        if let Some(why502) = self.options.why502.clone() {
            for dump in std::mem::take(&mut self.dumps) {
                let packets = dump.explain(&why502)?;
                let scores = packets::score(&self.ledger, &packets, lines);
                let bad = scores.wrongly_proven.iter().chain(&scores.flagged);
                for wrong in bad.chain(&scores.races_missed) {
                    judged.problems.push(format!("packets: {wrong}"));
                }
                judged.packets.add(&scores);
            }
        }
        if let Some(live) = self.live.take() {
            let packets = live.finish(verdicts, near_misses)?;
            let scores = packets::score(&self.ledger, &packets.lines, lines);
            // Packets show the causes of these scenarios: a mistake is one.
            let bad = [
                &scores.wrongly_proven,
                &scores.flagged,
                &scores.races_missed,
                &scores.mistakes,
            ];
            for wrong in bad.into_iter().flatten() {
                judged.problems.push(format!("live packets: {wrong}"));
            }
            for (truth, score) in &scores.by_truth {
                let proof = ["keepalive_race", "connection_refused"];
                let unread = truth.contains("closed_unread");
                let proves = !unread && proof.iter().any(|cause| truth.starts_with(cause));
                if score.missing > 0 || proves && score.proven < score.failed {
                    judged
                        .problems
                        .push(format!("live packets: {truth}: {score:?}"));
                }
            }
            check_losses(&packets, self.losing, &mut judged);
            judged.packets.add(&scores);
        }
        judged.problems.append(&mut self.problems);
        judged.notes.append(&mut self.notes);
        Ok(judged)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.held.clear();
        for file in std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = file.path();
            if path
                .extension()
                .is_some_and(|end| end == "log" || end == "pcap")
            {
                self.keep(&path);
            }
        }
    }
}

fn check_losses(captured: &Captured, losing: bool, judged: &mut Judgement) {
    let lost = captured
        .lines
        .last()
        .and_then(|summary| summary["lost"]["signals"].as_u64());
    if lost.is_none() || (lost != Some(0)) != losing {
        judged.problems.push(format!("signals lost: {lost:?}"));
    }
}

/// A timeout for software to start: generous, it ends as soon as the software is up.
pub const START: Duration = Duration::from_secs(30);
