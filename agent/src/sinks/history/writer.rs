//! The thread that has the file: gathers what comes for a quarter of a second, writes it at once,
//! opens the file again when it could not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::store::{Limits, Refused, Store};
use super::{Entry, Shared, lock};
use crate::clock;
use crate::privileges;

/// What is not written yet is lost with kill -9.
const GATHER: Duration = Duration::from_millis(250);
/// Entries of one transaction.
const BATCH: usize = 128;
/// Without anything to write: that the watch goes on is noted, and a file that was away is tried.
const IDLE: Duration = Duration::from_secs(60);

/// Opens the file and starts the thread; the channel is closed when the thread has ended.
pub(super) fn start(
    path: &Path,
    node: &str,
    limits: Limits,
    entries: Receiver<Entry>,
    shared: Arc<Shared>,
) -> io::Result<Receiver<()>> {
    let mut writer = Writer {
        path: path.to_owned(),
        node: node.to_owned(),
        limits,
        store: None,
        opened: None,
        losses: BTreeMap::new(),
        said: BTreeSet::new(),
        shared,
    };
    writer.open();
    let (end, ended) = channel();
    std::thread::Builder::new()
        .name("history".to_owned())
        .spawn(move || {
            privileges::keep(&[]);
            writer.follow(&entries);
            drop(writer);
            drop(end);
        })?;
    Ok(ended)
}

struct Writer {
    path: PathBuf,
    node: String,
    limits: Limits,
    store: Option<Store>,
    /// When it was tried last.
    opened: Option<Instant>,
    /// Not written yet.
    losses: BTreeMap<String, u64>,
    said: BTreeSet<&'static str>,
    shared: Arc<Shared>,
}

impl Writer {
    fn follow(&mut self, entries: &Receiver<Entry>) {
        let mut batch = Vec::new();
        loop {
            match entries.recv_timeout(IDLE) {
                Ok(entry) => batch.push(entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let until = Instant::now() + GATHER;
            while !batch.is_empty() && batch.len() < BATCH {
                match entries.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(entry) => batch.push(entry),
                    Err(_) => break,
                }
            }
            self.write(&mut batch);
        }
        self.write(&mut batch);
    }

    /// Writes the batch, or counts what it held.
    fn write(&mut self, batch: &mut Vec<Entry>) {
        for entry in batch.iter() {
            if let Entry::Lost { name, count } = entry {
                *self.losses.entry(name.clone()).or_default() += count;
            }
        }
        if self.store.as_ref().is_some_and(|store| !store.is_there()) {
            // Deleted or moved: what is written there nobody finds.
            self.store = None;
            self.opened = None;
        }
        if self.store.is_none() && self.opened.is_none_or(|at| at.elapsed() >= IDLE) {
            self.open();
        }
        let written = match &mut self.store {
            Some(store) => store.write(batch, &self.losses, now_ms()),
            None => Err(Refused {
                reason: "unavailable",
                message: String::new(),
            }),
        };
        match written {
            Ok(()) => self.losses.clear(),
            Err(refused) => self.refused(batch, refused),
        }
        batch.clear();
    }

    fn open(&mut self) {
        self.opened = Some(Instant::now());
        match Store::open(&self.path, &self.node, self.limits, now_ms()) {
            Ok(store) => self.store = Some(store),
            Err(error) => self.say(
                "unavailable",
                format!(
                    "history {}: {error:#}; nothing is kept there",
                    self.path.display()
                ),
            ),
        }
        self.shared
            .up
            .store(self.store.is_some(), Ordering::Relaxed);
    }

    fn refused(&mut self, batch: &[Entry], refused: Refused) {
        let lines = batch.iter().filter(|e| matches!(e, Entry::Line { .. }));
        let count = lines.count() as u64;
        if count > 0 {
            *lock(&self.shared.dropped)
                .entry(refused.reason)
                .or_default() += count;
        }
        let path = self.path.display();
        let message = format!(
            "history {path}: {}; what cannot be kept is counted",
            refused.message
        );
        self.say(refused.reason, message);
    }

    /// Once for each reason, however long it lasts.
    fn say(&mut self, reason: &'static str, message: String) {
        if self.said.insert(reason) {
            lock(&self.shared.messages).push(message);
        }
    }
}

fn now_ms() -> i64 {
    (clock::unix_now() / 1_000_000).cast_signed()
}
