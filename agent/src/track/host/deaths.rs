//! Exits, signals sent and OOM kills of the last while, by process.

use std::collections::VecDeque;

use super::{Past, SECOND};
use crate::signal::{Nanos, ProcessExit, SignalSent};

/// A service told to stop gets 30 s by common default (gunicorn's `--graceful-timeout`), often a
/// minute (uWSGI), sometimes two.
const SIGNALS_KEPT: Nanos = 180 * SECOND;
const DEATHS_KEPT: Nanos = 10 * SECOND;
const CAP: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Deaths {
    exits: VecDeque<Past<ProcessExit>>,
    signals: VecDeque<Past<SignalSent>>,
    oom_kills: VecDeque<Past<u32>>,
}

impl Deaths {
    pub(super) fn exited(&mut self, exit: Past<ProcessExit>) -> u64 {
        remember(&mut self.exits, exit, DEATHS_KEPT)
    }

    pub(super) fn sent(&mut self, sent: Past<SignalSent>) -> u64 {
        remember(&mut self.signals, sent, SIGNALS_KEPT)
    }

    pub(super) fn oom_killed(&mut self, pid: Past<u32>) -> u64 {
        remember(&mut self.oom_kills, pid, DEATHS_KEPT)
    }

    pub(super) fn parent_of(&self, pid: u32) -> Option<u32> {
        let exit = self
            .exits
            .iter()
            .rev()
            .find(|e| e.fact.pid == pid)
            .map(|e| e.fact.parent);
        let sent = || self.signals.iter().rev().find(|s| s.fact.to == pid);
        exit.or_else(|| sent().map(|s| s.fact.to_parent))
            .filter(|parent| *parent != 0)
    }

    pub(super) fn exit_near(
        &self,
        pid: u32,
        at: Nanos,
        within: Nanos,
    ) -> Option<&Past<ProcessExit>> {
        let near = |e: &&Past<ProcessExit>| e.fact.pid == pid && e.at.abs_diff(at) <= within;
        self.exits
            .iter()
            .filter(near)
            .min_by_key(|e| e.at.abs_diff(at))
    }

    pub(super) fn exits_between(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = &Past<ProcessExit>> {
        self.exits
            .iter()
            .filter(move |e| (from..=to).contains(&e.at))
    }

    pub(super) fn signals_to(&self, pid: u32, from: Nanos, to: Nanos) -> Vec<&Past<SignalSent>> {
        self.signals
            .iter()
            .filter(|s| s.fact.to == pid && (from..=to).contains(&s.at))
            .collect()
    }

    pub(super) fn oom_kill_of(&self, pid: u32, from: Nanos, to: Nanos) -> Option<&Past<u32>> {
        self.oom_kills
            .iter()
            .find(|k| k.fact == pid && (from..=to).contains(&k.at))
    }
}

/// Inserts in order of time, forgets what is older than `kept`; says how many young ones had to go.
fn remember<T>(queue: &mut VecDeque<Past<T>>, past: Past<T>, kept: Nanos) -> u64 {
    let horizon = past.at.saturating_sub(kept);
    while queue.front().is_some_and(|oldest| oldest.at < horizon) {
        queue.pop_front();
    }
    let place = queue.partition_point(|p| p.at <= past.at);
    queue.insert(place, past);
    if queue.len() > CAP {
        queue.pop_front();
        return 1;
    }
    0
}
