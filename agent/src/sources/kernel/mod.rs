//! The kernel source: loads the probes, reads their records, turns them into signals.

pub mod btf;
pub mod decode;
pub mod hooks;
pub mod layout;
mod listeners;
pub mod load;
mod misses;
pub mod object;
pub mod offer;
pub mod openssl;
pub mod plan;
pub mod proxies;
pub mod sockets;
mod state;
mod tracefs;
mod watch;

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};

use crate::privileges;
use crate::signal::Signal;
pub use proxies::Selection;
use watch::Watch;

/// By which hooks each fact is seen, and which cannot be.
#[derive(Clone, Debug)]
pub struct Status {
    pub facts: Vec<load::Seen>,
    /// Structure members, and abilities, that this kernel lacks.
    pub missing: Vec<&'static str>,
    /// Why ends of connections from elsewhere are not told, where they were asked for.
    pub no_far_ends: Option<String>,
    /// Why the status of responses in TLS is not read, where that was asked for.
    pub no_tls_status: Option<String>,
    /// Proxies that ran when the source started.
    pub proxies: usize,
}

impl Status {
    /// Whether failed responses can be seen at all.
    pub fn sees_responses(&self) -> bool {
        let seen = |fact: &str| {
            let mut facts = self.facts.iter();
            facts.any(|seen| seen.ladder.fact == fact && seen.by.is_some())
        };
        seen("reads") && seen("writes")
    }

    /// Facts that cannot be seen, each with the reason.
    pub fn blind(&self) -> Vec<(&'static str, String)> {
        let refused = self.facts.iter().filter(|seen| seen.by.is_none());
        refused
            .map(|seen| (seen.ladder.fact, seen.why()))
            .chain(self.missing.iter().filter_map(|member| {
                let why = format!("this kernel has no {member}");
                layout::fact_of(member).map(|fact| (fact, why))
            }))
            .collect()
    }
}

/// How long a read waits for records before the slower work gets its turn.
const POLL_MS: i32 = 20;

/// Starts the source on a thread of its own; returns when every probe is attached.
///
/// Signals go to `out` until `stop` is set. What does not fit is dropped and counted, never waited
/// for: the kernel's ring buffer must be drained.
pub fn start(
    selection: Selection,
    out: SyncSender<Signal>,
    stop: Arc<AtomicBool>,
) -> Result<(Status, JoinHandle<()>)> {
    let (ready, started) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let result = open(selection, out);
            let (mut watch, mut ring) = match result {
                Ok((status, watch, ring)) => {
                    let _ = ready.send(Ok(status));
                    (watch, ring)
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            while !stop.load(Ordering::Relaxed) {
                wait(&ring);
                // Time is told behind the records it covers: a fact that queues is never overdue.
                let now = crate::clock::now();
                watch.tell_losses(MISSES_EVERY);
                drain(&mut ring, &mut watch);
                watch.tell_losses(MISSES_EVERY);
                watch.tell_time(now);
                watch.tick();
            }
            drain(&mut ring, &mut watch);
            watch.tell_losses(MISSES_EVERY);
        })
        .context("start the kernel source's thread")?;
    let status = started
        .recv()
        .context("the kernel source ended before it was ready")??;
    Ok((status, thread))
}

fn open(
    selection: Selection,
    out: SyncSender<Signal>,
) -> Result<(Status, Watch, RingBuf<MapData>)> {
    let mut probes = load::load(selection.asked)?;
    let ring = RingBuf::try_from(probes.ebpf.take_map("EVENTS").context("no EVENTS map")?)?;
    let (facts, missing) = (probes.facts.clone(), probes.missing.clone());
    let (version, no_far_ends) = (probes.version, probes.no_far_ends.clone());
    let (tls_status, no_tls_status) = (selection.asked.tls_status, probes.no_tls_status.clone());
    let watch = Watch::start(probes, selection, out)?;
    privileges::keep(&privileges::of_kernel_source(version, tls_status));
    let status = Status {
        facts,
        missing,
        no_far_ends,
        no_tls_status,
        proxies: watch.proxies(),
    };
    Ok((status, watch, ring))
}

fn wait(ring: &RingBuf<MapData>) {
    let mut fd = libc::pollfd {
        fd: ring.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid descriptor. An interrupted wait is as good as an ended one.
    unsafe { libc::poll(&raw mut fd, 1, POLL_MS) };
}

/// The ring does not fill within this time unless this thread does not run.
const STALLED: Duration = Duration::from_millis(1);
/// Runs that the kernel left out are asked for as often: it takes a hundredth of a millisecond and more.
const MISSES_EVERY: Duration = Duration::from_millis(100);
/// And ahead of records, of which one may be decided upon at once.
const MISSES_BEFORE_RECORDS: Duration = Duration::from_millis(2);

/// Hands on what is there. A loss is told before the records that were written after it: the thread
/// may have been stopped at any point, so it looks again whenever time has passed.
fn drain(ring: &mut RingBuf<MapData>, watch: &mut Watch) {
    let mut looked = None::<Instant>;
    while let Some(item) = ring.next() {
        if looked.is_none_or(|at| at.elapsed() > STALLED) {
            watch.tell_losses(MISSES_BEFORE_RECORDS);
            looked = Some(Instant::now());
        }
        watch.record(&item);
    }
}
