//! What became of the records: each is counted once when it was made, and once when it was sent or
//! dropped.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Dropped;

/// Of all records since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub produced: u64,
    pub sent: u64,
    pub dropped: Dropped,
    /// Whether the receiver answered last time; `None`: nothing was sent yet.
    pub up: Option<bool>,
}

impl Counts {
    pub fn lost(&self) -> u64 {
        self.dropped.values().sum()
    }

    pub fn waiting(&self) -> u64 {
        self.produced - self.sent - self.lost()
    }
}

/// Between the handing end and the thread.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    said: BTreeSet<&'static str>,
    messages: Vec<String>,
}

impl Shared {
    pub(super) fn produced(&self, count: u64) {
        self.state().counts.produced += count;
    }

    pub(super) fn sent(&self, count: u64) {
        self.state().counts.sent += count;
    }

    pub(super) fn dropped(&self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.state().counts.dropped.entry(reason).or_default() += count;
        }
    }

    /// Whatever still waits will not be sent.
    pub(super) fn drop_rest(&self, reason: &'static str) {
        let waiting = self.waiting();
        self.dropped(reason, waiting);
    }

    pub(super) fn waiting(&self) -> u64 {
        self.state().counts.waiting()
    }

    pub(super) fn up(&self, up: bool) {
        self.state().counts.up = Some(up);
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Once for each reason, however long it lasts.
    pub(super) fn say(&self, reason: &'static str, message: impl FnOnce() -> String) {
        let mut state = self.state();
        if state.said.insert(reason) {
            state.messages.push(message());
        }
    }

    pub(super) fn messages(&self) -> Vec<String> {
        std::mem::take(&mut self.state().messages)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts and texts are whole between statements: a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
