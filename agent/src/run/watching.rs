//! The source that watches live: probes in the kernel, or packets where they are wanted or all there is.

use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Result, bail};
use caps::Capability;

use super::following::{self, Following};
use super::pipeline::Pipeline;
use crate::check::others;
use crate::cli::{detail, note, warning};
use crate::clock::{self, Clock};
use crate::config::{ANY_INTERFACE, Choice, Watch};
use crate::privileges;
use crate::signal::{Nanos, Signal};
use crate::sources::cluster;
use crate::sources::kernel::{self, Selection, Status, load};
use crate::sources::packets::decode::Reason;
use crate::sources::packets::ring::Ring;
use crate::sources::packets::watch::{self, Capture, Namespaces, Request, Tally, Untold};

/// What packets never show; the names are those of `check`.
const NOT_IN_PACKETS: &str =
    "packets show no processes, no Unix sockets, no queues and not what was read";

/// The same of logs.
const NOT_IN_LOGS: &str = "logs show what proxies say of themselves, and prove nothing";

const KERNEL: &str = "kernel";
const LOG: &str = "log";
const PACKETS: &str = "packets";

/// A source under way, and what follows from which it is.
pub(super) struct Watching {
    source: Kind,
    /// Captures for the ring beside probes.
    beside: Option<JoinHandle<Tally>>,
    /// Logs that are followed beside it.
    logs: Option<Following>,
    /// Logs are looked for in what proxies hold open.
    finds_logs: bool,
    end: Arc<AtomicBool>,
}

enum Kind {
    Kernel(Status, JoinHandle<()>),
    Packets {
        /// Processes of proxies that ran when it started.
        proxies: usize,
        capture: Capture,
    },
    Logs(JoinHandle<()>),
}

/// A source, and its signals.
pub(super) type Started = (Watching, Receiver<Signal>);

impl Watching {
    /// Starts the source that was chosen, or the best that there is. Whichever it is, packets
    /// go into the `ring`.
    pub(super) fn start(
        watch: &Watch,
        cluster: &cluster::Pods,
        channel: usize,
        ring: Option<&Arc<Ring>>,
    ) -> Result<Started> {
        let selection = selection(watch, cluster);
        let (mut watching, signals) = Watching::main(watch, &selection, channel, ring)?;
        watching.finds_logs = watch.find_logs;
        let monotonic = match watching.source {
            Kind::Logs(_) => return Ok((watching, signals)),
            Kind::Kernel(..) => true,
            Kind::Packets { .. } => false,
        };
        let end = Arc::clone(&watching.end);
        match Following::beside(watch, selection, channel, monotonic, &end) {
            Ok(logs) => watching.logs = logs,
            Err(error) => {
                watching.end();
                return Err(error);
            }
        }
        Ok((watching, signals))
    }

    /// What logs beside it have told since this was asked last.
    pub(super) fn lines(&self) -> impl Iterator<Item = Signal> + '_ {
        self.logs.iter().flat_map(Following::lines)
    }

    fn main(
        watch: &Watch,
        selection: &Selection,
        channel: usize,
        ring: Option<&Arc<Ring>>,
    ) -> Result<Started> {
        match watch.source {
            Choice::Logs => {
                let (sender, signals) = sync_channel(channel);
                let end = Arc::new(AtomicBool::new(false));
                let thread = following::alone(watch, selection.clone(), sender, &end)?;
                Ok((Watching::new(Kind::Logs(thread), end), signals))
            }
            Choice::Packets => packets(watch, selection, channel, ring),
            Choice::Kernel => beside(probes(selection, channel)?, watch, selection, ring),
            Choice::Auto => {
                let why_not = match probes(selection, channel) {
                    Ok((probes, signals)) => match probes.blind_to_responses() {
                        None => return beside((probes, signals), watch, selection, ring),
                        Some(why_not) => {
                            // Its signals are on another clock: they go with their channel.
                            probes.end();
                            why_not
                        }
                    },
                    Err(error) => format!("{error:#}"),
                };
                let started = packets(watch, selection, channel, ring).map_err(|error| {
                    anyhow::anyhow!(
                        "no source can see responses here; kernel probes: {why_not}; packets: \
                         {error:#}; `why502 check` says what is missing"
                    )
                })?;
                warning!(
                    "watching packets on {}: kernel probes cannot be used: {why_not}",
                    watch.interface
                );
                if watch.asked.tls_status {
                    warning!(
                        "--tls-status has no effect: only kernel probes read the status in TLS"
                    );
                }
                Ok(started)
            }
        }
    }

    fn new(source: Kind, end: Arc<AtomicBool>) -> Watching {
        Watching {
            source,
            beside: None,
            logs: None,
            finds_logs: false,
            end,
        }
    }

    /// Has it end after the signals of what has happened.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Why kernel probes see no responses; `None` where the source sees them.
    pub(super) fn blind_to_responses(&self) -> Option<String> {
        let Kind::Kernel(status, _) = &self.source else {
            return None;
        };
        let why = || {
            let refused = |seen: &&load::Seen| {
                seen.by.is_none() && ["reads", "writes"].contains(&seen.ladder.fact)
            };
            let first = status.facts.iter().find(refused);
            first.map(load::Seen::why).unwrap_or_default()
        };
        (!status.sees_responses()).then(why)
    }

    pub(super) fn name(&self) -> &'static str {
        match &self.source {
            Kind::Kernel(..) => "kernel",
            Kind::Packets { .. } => "packet",
            Kind::Logs(_) => "log",
        }
    }

    /// The metrics' names of what may be chosen.
    pub(super) fn labels(choice: Choice) -> &'static [&'static str] {
        match choice {
            Choice::Auto => &[KERNEL, PACKETS],
            Choice::Kernel => &[KERNEL],
            Choice::Packets => &[PACKETS],
            Choice::Logs => &[LOG],
        }
    }

    /// The metrics' name of this one.
    pub(super) fn label(&self) -> &'static str {
        match &self.source {
            Kind::Kernel(..) => KERNEL,
            Kind::Packets { .. } => PACKETS,
            Kind::Logs(_) => LOG,
        }
    }

    /// The choice that it is.
    pub(super) fn kind(&self) -> Choice {
        match &self.source {
            Kind::Kernel(..) => Choice::Kernel,
            Kind::Packets { .. } => Choice::Packets,
            Kind::Logs(_) => Choice::Logs,
        }
    }

    /// Verdicts come from packets.
    pub(super) fn sees_packets(&self) -> bool {
        matches!(self.source, Kind::Packets { .. })
    }

    /// For the header of a report.
    pub(super) fn words(&self) -> &'static str {
        match &self.source {
            Kind::Kernel(..) => "watched live by kernel probes",
            Kind::Packets { .. } => "watched live in packets",
            Kind::Logs(_) => "watched live in logs",
        }
    }

    /// What it takes to start this source again, as far as that is kept: loading probes is given up.
    pub(super) fn keeps(&self) -> Vec<Capability> {
        match &self.source {
            Kind::Kernel(..) => Vec::new(),
            Kind::Packets { .. } if self.logs.is_some() => {
                [privileges::of_packet_source(), privileges::of_log_source()].concat()
            }
            Kind::Packets { .. } => privileges::of_packet_source(),
            Kind::Logs(_) => privileges::of_log_source(),
        }
    }

    /// Now on the clock of its signals.
    pub(super) fn now(&self) -> Nanos {
        match &self.source {
            Kind::Kernel(..) => clock::now(),
            Kind::Packets { .. } | Kind::Logs(_) => clock::unix_now(),
        }
    }

    /// From the clock of its signals to the wall clock.
    pub(super) fn clock(&self) -> Clock {
        match &self.source {
            Kind::Kernel(..) => Clock::of_host(),
            Kind::Packets { .. } | Kind::Logs(_) => Clock::from_offset(0),
        }
    }

    /// Proxies that ran when it started.
    pub(super) fn proxies(&self) -> usize {
        match &self.source {
            Kind::Kernel(status, _) => status.proxies,
            Kind::Packets { proxies, .. } => *proxies,
            Kind::Logs(_) => 0,
        }
    }

    /// What it sees and does not see.
    pub(super) fn tell<W: Write>(&self, pipeline: &mut Pipeline<W>) {
        let held = privileges::held();
        if self.finds_logs {
            pipeline.sees(others::logs(&held));
        }
        match &self.source {
            Kind::Kernel(status, _) => {
                pipeline.remeasures = true;
                pipeline.blind(status);
                pipeline.sees(others::processes(&held));
                if self.beside.is_some() {
                    pipeline.sees(others::namespaces(&held));
                }
            }
            Kind::Packets { .. } => {
                pipeline.sees(others::namespaces(&held));
                if self.proxies() == 0 {
                    note!("no proxy runs here yet; capturing in this network namespace");
                }
                // A proxy may be another host's, whose packets come by here.
                pipeline.saw_proxy = true;
                pipeline.unseen(NOT_IN_PACKETS, "");
                if let Some(metrics) = &pipeline.metrics {
                    metrics.source_up(PACKETS, true);
                }
            }
            Kind::Logs(_) => {
                // A log may be another host's.
                pipeline.saw_proxy = true;
                pipeline.unseen(NOT_IN_LOGS, "");
                if let Some(metrics) = &pipeline.metrics {
                    metrics.source_up(LOG, true);
                }
            }
        }
    }

    /// What it could not follow since this was asked last.
    pub(super) fn tend<W: Write>(&self, pipeline: &mut Pipeline<W>) {
        if let Kind::Packets { capture, .. } = &self.source {
            count(&capture.untold, pipeline);
        }
    }

    /// After its last signal.
    pub(super) fn join<W: Write>(self, pipeline: &mut Pipeline<W>) -> Result<()> {
        if let Some(logs) = self.logs {
            self.end.store(true, Ordering::Relaxed);
            logs.join(|line| pipeline.signal(line))?;
        }
        if let Some(beside) = self.beside {
            let Ok(tally) = beside.join() else {
                bail!("the capture beside the probes failed");
            };
            if tally.lost > 0 {
                warning!("{} packets were lost before they could be kept", tally.lost);
            }
            pipeline.lost("excerpt", "packets", tally.lost);
        }
        match self.source {
            Kind::Logs(thread) => {
                if thread.join().is_err() {
                    bail!("the log source failed");
                }
            }
            Kind::Kernel(_, thread) => {
                if thread.join().is_err() {
                    bail!("the kernel source failed");
                }
            }
            Kind::Packets { capture, .. } => {
                let Ok(tally) = capture.thread.join() else {
                    bail!("the packet source failed");
                };
                detail!("{} frames", tally.frames);
                count(&capture.untold, pipeline);
            }
        }
        Ok(())
    }
}

/// What is watched.
pub(super) fn selection(watch: &Watch, cluster: &cluster::Pods) -> Selection {
    Selection {
        names: watch.names.clone(),
        pids: watch.pids.clone(),
        places: watch.places.clone(),
        cluster: cluster.clone(),
        asked: watch.asked,
    }
}

fn count<W: Write>(untold: &Untold, pipeline: &mut Pipeline<W>) {
    let tally = untold.take();
    pipeline.lost("capture", "gaps", tally.counts.gaps);
    for (reason, count) in Reason::ALL.iter().zip(tally.not_understood) {
        pipeline.lost("not_understood", reason.name(), count);
    }
}

/// Probes watch; packets are captured beside them where somebody wants them.
fn beside(
    (mut probes, signals): Started,
    watch: &Watch,
    selection: &Selection,
    ring: Option<&Arc<Ring>>,
) -> Result<Started> {
    let unused = [
        (
            "--interface",
            watch.interface != ANY_INTERFACE && ring.is_none(),
        ),
        ("--proxy-address", !watch.addresses.is_empty()),
    ];
    for (option, _) in unused.iter().filter(|(_, given)| *given) {
        warning!("{option} is not used: kernel probes watch; --source packets would use it");
    }
    if let Some(ring) = ring {
        let end = Arc::clone(&probes.end);
        match capture(watch, selection, Some(Arc::clone(ring)), None, end) {
            Ok((_, capture)) => probes.beside = Some(capture.thread),
            Err(error) => {
                probes.end();
                return Err(error.context("packets cannot be captured beside kernel probes"));
            }
        }
    }
    Ok((probes, signals))
}

fn probes(selection: &Selection, channel: usize) -> Result<Started> {
    let (sender, signals) = sync_channel(channel);
    let end = Arc::new(AtomicBool::new(false));
    let (status, thread) = kernel::start(selection.clone(), sender, Arc::clone(&end))?;
    let source = Kind::Kernel(status, thread);
    Ok((Watching::new(source, end), signals))
}

fn packets(
    watch: &Watch,
    selection: &Selection,
    channel: usize,
    ring: Option<&Arc<Ring>>,
) -> Result<Started> {
    let (sender, signals) = sync_channel(channel);
    let end = Arc::new(AtomicBool::new(false));
    let (proxies, capture) = capture(
        watch,
        selection,
        ring.cloned(),
        Some(sender),
        Arc::clone(&end),
    )?;
    let source = Kind::Packets { proxies, capture };
    Ok((Watching::new(source, end), signals))
}

/// Begins to capture; how many processes of proxies there are.
fn capture(
    watch: &Watch,
    selection: &Selection,
    ring: Option<Arc<Ring>>,
    out: Option<SyncSender<Signal>>,
    end: Arc<AtomicBool>,
) -> Result<(usize, Capture)> {
    let selection = selection.clone();
    let proxies = selection.running().len();
    let request = Request {
        interface: watch.interface.clone(),
        proxies: watch.addresses.clone(),
        ring,
        cluster: selection.cluster.clone(),
    };
    let find = move || namespaces(&selection);
    Ok((proxies, watch::start(request, find, out, end)?))
}

/// The network namespaces in which these processes are.
fn namespaces(selection: &Selection) -> Namespaces {
    let mut found = Namespaces::new();
    for pid in selection.running() {
        if let Ok(file) = std::fs::metadata(format!("/proc/{pid}/ns/net")) {
            found.entry(file.ino()).or_default().push(pid);
        }
    }
    found
}
