//! Keeps the kernel half's maps true and adds to its records what only user space can read.

use std::collections::{HashMap as StdMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use agent_ebpf::{
    COMM, Flow, ListenerKey, ListenerValue, PATH, Peer, SLOTS, Thread, UnixKey, WATCHED_BLOCK,
    WATCHED_THREADS, counter, flow_flag, name, role,
};
use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use zerocopy::FromZeros as _;

use super::decode::{self, Beside, Record};
use super::listeners::Listeners;
use super::load::Probes;
use super::openssl::Openssl;
use super::state::{Spoken, State};
use super::{Selection, layout, proxies, sockets};
use crate::clock;
use crate::signal::{Address, Attempt, End, Fact, Nanos, Queue, Signal, Source};
use crate::sources::process::{self, Homes, Sampler};
use described::Described;
use far_ends::Servers;
use half_open::HalfOpen;
use leftovers::Leftovers;
use open_files::OpenFiles;
use queues::Queues;

mod complete;
mod described;
mod far_ends;
mod half_open;
mod in_touch;
mod late;
mod leftovers;
mod maps;
mod open_files;
mod queues;
mod second;
mod strangers;

const NOEXIST: u64 = 1;
/// How often the queues are read and long waits sampled.
const SECOND: Duration = Duration::from_secs(1);
/// A burst of new listeners is read once.
const REFRESH: Duration = Duration::from_millis(20);
/// A request that waits longer than this has its reader's threads sampled.
const LONG_NS: u64 = 900_000_000;
/// Addresses for which every process was asked within the last second.
const LOOKED: usize = 8;
/// Processes taken as being started for one address.
const STARTING: usize = 8;
/// Processes whose homes may be named later, and the seconds within which they are.
const UNNAMED: usize = 1024;
const NAMED_WITHIN: u8 = 5;
/// Requests whose readers are sampled in one second, and flows beyond the slots looked through.
const SAMPLED_FLOWS: usize = 4096;

/// The kernel source's user-space half.
pub(super) struct Watch {
    probes: Probes,
    flows: State<Flow>,
    peers: State<Peer>,
    spoken: Spoken,
    selection: Selection,
    out: SyncSender<Signal>,
    listeners: Listeners,
    /// Watched processes.
    proxies: HashSet<u32>,
    /// Processes with a watched name that are not in the containers which were asked for.
    strangers: HashSet<u32>,
    /// Those of them that may get the name that was asked for, and the seconds within which they may.
    undecided: StdMap<u32, (String, u8)>,
    described: Described,
    homes: Homes,
    unnamed: StdMap<u32, u8>,
    /// Processes of pods of which the Kubernetes API has not told yet.
    untold: HashSet<u32>,
    sampler: Sampler,
    queues: Queues,
    half_open: HalfOpen,
    open_files: OpenFiles,
    in_touch: in_touch::Connections,
    servers: Servers,
    openssl: Openssl,
    leftovers: Leftovers,
    refresh_at: Option<Instant>,
    /// When processes were last searched for one that is being started to serve this address.
    looked: StdMap<Address, Instant>,
    next_second: Instant,
    /// Kernel losses already told.
    told: [u64; counter::LOSSES.len()],
    /// Of each program.
    missed: Vec<u64>,
    looked_for_misses: Instant,
    /// Signals that did not fit into the channel and are not told yet.
    unsent: u64,
    /// Listeners, and processes of upstreams, that did not fit into the kernel half's maps.
    no_room: u64,
    unguarded: u64,
}

impl Watch {
    /// Fills the maps with what is older than the agent.
    pub(super) fn start(
        probes: Probes,
        selection: Selection,
        out: SyncSender<Signal>,
    ) -> Result<Watch> {
        let now = Instant::now();
        let mut watch = Watch {
            flows: State::flows(&probes.ebpf)?,
            peers: State::peers(&probes.ebpf)?,
            spoken: Spoken::open(&probes.ebpf)?,
            probes,
            homes: Homes::with(&selection.cluster),
            selection,
            out,
            listeners: Listeners::default(),
            proxies: HashSet::new(),
            strangers: HashSet::new(),
            undecided: StdMap::new(),
            described: Described::default(),
            unnamed: StdMap::new(),
            untold: HashSet::new(),
            sampler: Sampler::default(),
            queues: Queues::default(),
            half_open: HalfOpen::default(),
            open_files: OpenFiles::default(),
            in_touch: in_touch::Connections::default(),
            servers: Servers::default(),
            openssl: Openssl::default(),
            leftovers: Leftovers::default(),
            refresh_at: None,
            looked: StdMap::new(),
            next_second: now + SECOND,
            told: [0; counter::LOSSES.len()],
            missed: Vec::new(),
            looked_for_misses: now,
            unsent: 0,
            no_room: 0,
            unguarded: 0,
        };
        let names = watch.selection.names.clone();
        {
            let mut map: HashMap<_, [u8; COMM], u8> = map(&mut watch.probes.ebpf, "PROXY_NAMES")?;
            for name in &names {
                let kind = if proxies::keeps_requests(name) {
                    name::KEEPS_REQUESTS
                } else {
                    name::WATCHED
                };
                map.insert(proxies::comm(name), kind, 0)?;
            }
        }
        watch.tell_start();
        for pid in watch.selection.running() {
            let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            watch.add_proxy(pid, decode::name(name.trim_ascii_end()))?;
        }
        watch.mark_watched()?;
        watch.mark_watched()?;
        watch.pick_up()?;
        watch.probe_openssl();
        Ok(watch)
    }

    /// Which silences mean something: facts that are told whenever they happen.
    fn tell_start(&mut self) {
        let seen = |fact: &str| {
            let mut facts = self.probes.facts.iter();
            facts.any(|seen| seen.ladder.fact == fact && seen.by.is_some())
        };
        let sees = [
            ("signals", "signal_sent"),
            ("process_exits", "process_exited"),
            ("oom_kills", "oom_killed"),
        ]
        .into_iter()
        .filter(|(fact, _)| seen(fact))
        .map(|(_, signal)| signal.to_owned())
        .collect();
        let refused = self.probes.facts.iter().filter(|seen| seen.by.is_none());
        let lacking = self.probes.missing.iter();
        let blind = refused
            .map(|seen| seen.ladder.fact)
            .chain(lacking.filter_map(|member| layout::fact_of(member)))
            .map(str::to_owned)
            .collect();
        self.send(clock::now(), Fact::SourceStarted { sees, blind });
    }

    pub(super) fn proxies(&self) -> usize {
        self.proxies.len()
    }

    /// Looks for OpenSSL in proxies that have come lately.
    fn probe_openssl(&mut self) {
        if self.selection.asked.tls_status && self.probes.no_tls_status.is_none() {
            self.openssl.probe(&mut self.probes.ebpf, &self.proxies);
        }
    }

    /// One record of the ring buffer.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        let beside = Beside {
            reasons: &self.probes.reset_reasons,
            spoken: &|flow| self.spoken.has(flow),
            listened: &|ends| {
                let local = decode::local(ends);
                local.is_some_and(|local| self.listeners.tcp(ends.netns, &local).is_some())
            },
        };
        match decode::record(bytes, beside) {
            Some(Record::Signal(signal)) => self.signal(signal),
            Some(Record::ProxyStarted { pid, name }) => {
                // It may have become another program meanwhile.
                let now = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                if decode::name(now.trim_ascii_end()) != name {
                    return;
                }
                if !self.is_selected(pid) {
                    self.may_be_selected_later(pid, name);
                } else if self.add_proxy(pid, name).is_ok() {
                    let _ = self.name_unix_listeners();
                }
            }
            Some(Record::OfClient) => {}
            Some(Record::Listening) => {
                self.refresh_at.get_or_insert(Instant::now() + REFRESH);
            }
            Some(Record::FarEnd(far)) => self.far_end(&far),
            Some(Record::Late(late)) => self.late(&late),
            None => self.send(
                clock::now(),
                Fact::SignalsLost {
                    stage: "decode".into(),
                    reason: "unknown_record".into(),
                    count: 1,
                    probe: None,
                },
            ),
        }
    }

    fn signal(&mut self, mut signal: Signal) {
        if !self.strangers.is_empty() && self.is_strangers(&signal.fact) {
            return;
        }
        match &mut signal.fact {
            Fact::AttemptEnded(attempt) => self.complete(attempt),
            Fact::ResponseSent(response) => {
                self.describe(response.proxy);
                if let Some(attempt) = &mut response.last_attempt {
                    self.complete(attempt);
                }
                response.descriptors = self.open_files.of(response);
                let ebpf = &mut self.probes.ebpf;
                response.in_touch = self.in_touch.of(response, &self.flows, ebpf);
            }
            Fact::ProcessExited(exit) => {
                self.described.ended(exit.pid);
                if self.proxies.remove(&exit.pid) {
                    self.forget_flows(exit.pid);
                }
            }
            Fact::SignalSent(sent) => {
                self.describe(sent.to);
                self.describe(sent.to_parent);
                self.describe(sent.from);
            }
            Fact::IdleClosed(idle) => self.describe(idle.proxy),
            Fact::RequestMetClose(attempt) => self.describe(attempt.proxy),
            _ => {}
        }
        self.send_signal(signal);
    }

    /// The slower work: once a second, and after a listener appeared.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            if let Ok(file) = self.probes.listening_sockets()
                && let Ok(list) = sockets::read(file)
            {
                let _ = self.take_listeners(list);
            }
        }
        if now < self.next_second {
            return;
        }
        self.next_second = now + SECOND;
        let _ = self.mark_watched();
        self.sample_waits();
        self.tell_queues();
        self.describe_workers();
        self.name_homes();
        self.name_workloads();
        self.decide_strangers();
        self.read_servers();
        self.probe_openssl();
        self.forget_leftovers();
    }

    fn send(&mut self, at: Nanos, fact: Fact) {
        self.send_signal(Signal {
            at,
            source: Source::Kernel,
            fact,
        });
    }

    fn send_signal(&mut self, signal: Signal) {
        if !self.try_send(signal) {
            self.unsent += 1;
        }
    }

    /// `false` when the channel is full: what is lost must be counted.
    fn try_send(&mut self, signal: Signal) -> bool {
        !matches!(self.out.try_send(signal), Err(TrySendError::Full(_)))
    }

    /// Everything that happened before `now` has been handed on.
    pub(super) fn tell_time(&mut self, now: Nanos) {
        // One that does not fit is made up for by the next.
        self.try_send(Signal {
            at: now,
            source: Source::Kernel,
            fact: Fact::Tick,
        });
    }
}

pub(super) fn map<'a, K: aya::Pod, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<HashMap<&'a mut MapData, K, V>> {
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("no {name} map"))?;
    HashMap::try_from(map).with_context(|| format!("open the {name} map"))
}

fn mount_namespace(pid: u32) -> Option<u32> {
    let inode = std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino();
    u32::try_from(inode).ok()
}
