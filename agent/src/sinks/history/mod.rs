//! History on this host: what `run` finds, kept in one SQLite file for `report`.
//!
//! The path of signals hands over finished lines and never waits: a thread of its own has the file,
//! and what its queue does not take, or the disk, is dropped and counted.

mod file;
mod read;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::escape::json_line;
use crate::verdict::{Risk, Verdict};

pub use read::{Folded, Reader, Tally, Watched};
pub use store::Limits;

/// Where `run` keeps it and `report` looks for it.
pub const DEFAULT_PATH: &str = "/var/lib/why502/history.db";

/// Lines that may wait for the disk: some four megabytes.
const QUEUE: usize = 2_048;

/// How long the end waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kind of a risk, among those of verdicts.
const RISK: &str = "risk";

/// Verdicts that a report counts together: all that its table says of one, but for its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    pub kind: String,
    pub cause: String,
    pub variant: String,
    pub confidence: String,
    pub status: Option<u16>,
    pub upstream: String,
}

impl Series {
    fn of(verdict: &Verdict) -> Series {
        Series {
            kind: verdict.kind.name().to_owned(),
            cause: verdict.cause.name().to_owned(),
            variant: verdict.variant.map_or("", |v| v.name()).to_owned(),
            confidence: verdict.confidence.name().to_owned(),
            status: verdict.status,
            upstream: verdict
                .upstream
                .address
                .as_ref()
                .map_or_else(String::new, |address| address.0.clone()),
        }
    }

    pub fn is_risk(&self) -> bool {
        self.kind == RISK
    }

    fn of_risk() -> Series {
        Series {
            kind: RISK.to_owned(),
            cause: String::new(),
            variant: String::new(),
            confidence: String::new(),
            status: None,
            upstream: String::new(),
        }
    }
}

/// What is written.
#[derive(Clone, Debug)]
enum Entry {
    Line {
        at_ms: i64,
        series: Series,
        /// The JSON line of the contract, without its end.
        line: String,
    },
    /// So many signals or results were dropped, here or before.
    Lost { name: String, count: u64 },
    /// A fact that cannot be seen.
    Blind(String),
}

/// What the thread has to say.
#[derive(Debug, Default)]
struct Shared {
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    messages: Mutex<Vec<String>>,
    up: std::sync::atomic::AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts and texts are whole between statements: a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handing end.
#[derive(Debug)]
pub struct History {
    queue: SyncSender<Entry>,
    shared: Arc<Shared>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
    /// Losses that the queue has not taken yet.
    losses: BTreeMap<String, u64>,
    overflowed: u64,
}

impl History {
    /// Opens the file, or goes on without and tries again; what is wrong is among the messages.
    pub fn start(path: &Path, node: &str, limits: Limits) -> io::Result<History> {
        let (queue, entries) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let ended = writer::start(path, node, limits, entries, Arc::clone(&shared))?;
        Ok(History {
            queue,
            shared,
            ended,
            losses: BTreeMap::new(),
            overflowed: 0,
        })
    }

    /// Keeps a verdict as `--privacy` has left it.
    pub fn on_verdict(&mut self, verdict: &Verdict, at_ms: i64) {
        self.line(at_ms, Series::of(verdict), verdict);
    }

    pub fn on_risk(&mut self, risk: &Risk, at_ms: i64) {
        self.line(at_ms, Series::of_risk(), risk);
    }

    /// `count` signals or results were dropped at `stage`, so that a report can say so.
    pub fn lost(&mut self, stage: &str, reason: &str, count: u64) {
        if count > 0 {
            *self.losses.entry(format!("{stage}_{reason}")).or_default() += count;
        }
    }

    /// This cannot be seen here, in the words of the summary.
    pub fn blind(&mut self, text: &str) {
        // The start of a watch, when nothing else is queued.
        let _ = self.queue.try_send(Entry::Blind(text.to_owned()));
    }

    /// What was dropped, by reason, and what is to be said, since this was asked last.
    pub fn take(&mut self) -> (BTreeMap<&'static str, u64>, Vec<String>) {
        let mut dropped = std::mem::take(&mut *lock(&self.shared.dropped));
        if self.overflowed > 0 {
            *dropped.entry("queue_full").or_default() += std::mem::take(&mut self.overflowed);
        }
        for (reason, count) in &dropped {
            self.lost("history", reason, *count);
        }
        self.hand_over_losses();
        (dropped, std::mem::take(&mut *lock(&self.shared.messages)))
    }

    /// Whether verdicts are kept now.
    pub fn is_up(&self) -> bool {
        self.shared.up.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes what waits, unless the disk does not answer; returns what was dropped and said last.
    pub fn finish(mut self) -> (BTreeMap<&'static str, u64>, Vec<String>) {
        let mut last = self.take();
        let History {
            queue,
            shared,
            ended,
            ..
        } = self;
        drop(queue);
        // An error is the thread's end, and what is waited for.
        let _ = ended.recv_timeout(PATIENCE);
        last.0.append(&mut lock(&shared.dropped));
        last.1.append(&mut lock(&shared.messages));
        last
    }

    fn line(&mut self, at_ms: i64, series: Series, value: &impl serde::Serialize) {
        let line =
            json_line(value).map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
        let Ok(line) = line else { return };
        let entry = Entry::Line {
            at_ms,
            series,
            line,
        };
        // Without its thread it is as full.
        if self.queue.try_send(entry).is_err() {
            self.overflowed += 1;
        }
    }

    fn hand_over_losses(&mut self) {
        while let Some((name, count)) = self.losses.pop_first() {
            let entry = Entry::Lost {
                name: name.clone(),
                count,
            };
            if let Err(TrySendError::Full(_)) = self.queue.try_send(entry) {
                self.losses.insert(name, count);
                return;
            }
        }
    }
}
