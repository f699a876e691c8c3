//! One scenario under way: its folder, its ledger, its software, why502 beside it.

mod finish;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::Capture;
use crate::client::Request;
use crate::expect::Expect;
use crate::keeper;
use crate::ledger::Ledger;
use crate::netns::NetNs;
use crate::packets::Everything;
use crate::process;
use crate::prometheus::{Prometheus, Watched};
use crate::software::Nginx;
use crate::wait;

/// What a person asked for.
#[derive(Clone)]
pub struct Options {
    /// `None`: no agent, the faults alone are checked.
    pub why502: Option<PathBuf>,
    pub full: bool,
    pub out: PathBuf,
    /// Where the counters are compared after every scenario; `None`: they are not.
    pub prometheus: Option<Arc<Prometheus>>,
    /// Capture packets at the proxies too, and explain them.
    pub packets: bool,
    /// The kernel lets nothing be proven: right causes are to be `likely`.
    pub unproven: bool,
    /// The kernel leaves out runs of probes, which is told.
    pub lossy: bool,
}

/// Something a scenario needs from the host.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Program(&'static str),
    Tun,
    Controller(&'static str),
    Http2Curl,
    /// Podman, and a host that lets it start something.
    Containers,
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
            Need::Containers => crate::container::unusable(),
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
    name: String,
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
    /// Packets are captured where the proxies are: the captures, and in which namespaces.
    captures: bool,
    dumps: Vec<Everything>,
    spaces: BTreeSet<PathBuf>,
    /// Others that watch the same, by name, each judged like the first.
    beside: Vec<(&'static str, Capture)>,
    /// What agents said that are no more, to be judged with what the last one says.
    said: Vec<Value>,
    /// Signals are lost on purpose.
    losing: bool,
    /// The same, live.
    live: Option<(u64, Capture)>,
    watched: Option<Watched>,
    problems: Vec<String>,
    notes: Vec<String>,
    /// Software that lives until why502 has ended; dropped in order.
    held: Vec<Box<dyn Any + Send + Sync>>,
    _temp: tempfile::TempDir,
}

impl Run {
    pub fn new(options: &Options, scenario: &Scenario) -> Result<Run> {
        let prefix = format!("r{:02}", scenario.row);
        let folder = format!("{prefix}-{}", scenario.name);
        Run::begin(options, scenario.row, scenario.name, &prefix, &folder)
    }

    /// A pair of the matrix; `prefix` is its own among those of this process.
    pub fn of_pair(options: &Options, prefix: &str, name: &str) -> Result<Run> {
        Run::begin(options, 0, name, prefix, name)
    }

    fn begin(options: &Options, row: u8, name: &str, prefix: &str, folder: &str) -> Result<Run> {
        use std::os::unix::fs::PermissionsExt;
        let temp = keeper::temporary()?;
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755))?;
        let out = options.out.join(folder);
        std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        Ok(Run {
            row,
            name: name.to_owned(),
            options: options.clone(),
            // Two labs on one host must not take each other's verdicts for their own.
            ledger: Arc::new(
                Ledger::new(&format!("{prefix}x{:04x}", std::process::id() & 0xffff))
                    .unproven(options.unproven)
                    .lossy(options.lossy),
            ),
            folder: temp.path().to_owned(),
            out,
            minimum: BTreeMap::new(),
            masters: Vec::new(),
            proxies: BTreeSet::new(),
            capture: None,
            captures: false,
            dumps: Vec::new(),
            spaces: BTreeSet::new(),
            beside: Vec::new(),
            said: Vec::new(),
            losing: false,
            live: None,
            watched: None,
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
            self.add_proxy(proxy.pid())?;
        }
        if let Some(why502) = self.options.why502.clone() {
            let why502 = why502.as_path();
            let daemon = self.out.join("counted");
            let prometheus = self.options.prometheus.as_ref();
            let starting = prometheus.map(|prometheus| prometheus.watch(why502, &daemon));
            // Both start at the same time.
            self.capture = Some(Capture::start(why502, &self.out, &[])?);
            if let Some(starting) = starting {
                self.watched = Some(starting?.wait_ready()?);
            }
            let wanted = self.options.full || PACKETS_QUICKLY.contains(&self.row);
            if self.options.packets && wanted && process::program("tcpdump").is_some() {
                self.captures = true;
                for proxy in proxies {
                    self.capture_packets(proxy.pid())?;
                }
            }
            if self.options.packets && PACKETS_LIVE.contains(&self.name.as_str()) {
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
                self.live = Some((wait::monotonic_ns(), live));
            }
        }
        Ok(())
    }

    /// Captures everything in a proxy's namespace, once in each.
    fn capture_packets(&mut self, proxy: u32) -> Result<()> {
        let space = std::fs::read_link(format!("/proc/{proxy}/ns/net"))?;
        if self.spaces.insert(space) {
            let ns = NetNs::of_process(proxy)?;
            let name = format!("everything-{}", self.dumps.len() + 1);
            self.dumps
                .push(Everything::start(&ns, &self.folder, &name)?);
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

    pub fn agent_mut(&mut self) -> Result<&mut Capture> {
        self.capture.as_mut().context("no agent watches")
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
    pub fn add_proxy(&mut self, master: u32) -> Result<()> {
        self.masters.push(master);
        self.note_proxies();
        if self.captures {
            self.capture_packets(master)?;
        }
        Ok(())
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

    /// The highest value that Prometheus saw of it in this scenario.
    pub fn highest(&self, name: &str, label: &str) -> Result<Option<f64>> {
        match &self.watched {
            Some(watched) => watched.highest(name, label),
            None => Ok(None),
        }
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

/// A timeout for software to start: generous, it ends as soon as the software is up.
pub const START: Duration = Duration::from_secs(30);
