//! The tools: how they are started, and what their lines say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{APP, Ends, REFUSING};
use crate::process::Proc;
use crate::run::{Run, START};

/// On an emulated processor they take seconds to end.
const END: Duration = Duration::from_secs(20);
/// Tracepoints by name are read from tracefs, which need not be mounted; lines are wanted as they come.
const SCRIPT: &str = "[ -d /sys/kernel/tracing/events ] ||
    mount -t tracefs tracefs /sys/kernel/tracing || exit
    exec stdbuf -oL \"$0\" \"$@\"";

pub(super) struct Tool {
    pub(super) name: &'static str,
    proc: Proc,
    log: PathBuf,
}

impl Tool {
    /// Starts it and waits for the head of its table, which comes when its probes are attached; `None`,
    /// said aloud, where this kernel refuses them.
    pub(super) fn start(run: &mut Run, name: &'static str, head: &str) -> Result<Option<Tool>> {
        let log = run.out.join(format!("{name}.txt"));
        // An earlier run's would be taken for this one's.
        std::fs::write(&log, "")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, name]);
        if name == "tcpconnlat" {
            // With the local port.
            command.arg("-L");
        }
        let mut proc = Proc::spawn(name, command, &log)?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        match proc.wait_ready("its table", START, || said().contains(head)) {
            Ok(()) => Ok(Some(Tool { name, proc, log })),
            Err(error) if proc.running() => Err(error),
            Err(_) => {
                let why = said().lines().last().unwrap_or("without a word").to_owned();
                run.note(format!("SKIPPED {name}, which does not start here: {why}"));
                Ok(None)
            }
        }
    }

    /// All it said.
    pub(super) fn end(mut self) -> Result<String> {
        self.proc.signal(libc::SIGINT);
        self.proc.wait_exit(END)?;
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

/// Whether an upstream's port is one of ours.
pub(super) fn called(port: &str) -> bool {
    [REFUSING, APP].iter().any(|ours| ours.to_string() == port)
}

/// The last words of a line, so many: names of processes before them may hold spaces.
fn last<const COUNT: usize>(line: &str) -> Option<[&str; COUNT]> {
    let mut words: Vec<_> = line.split_whitespace().rev().take(COUNT).collect();
    words.reverse();
    words.try_into().ok()
}

/// From which state to which.
type Changes<'a> = Vec<(&'a str, &'a str)>;

/// tcpstates: the states that each connection to our ports went through. Its lines come processor by
/// processor, so that one may come after the next.
pub(super) fn changes(said: &str) -> BTreeMap<Ends, Vec<&str>> {
    // By the socket, whose memory the next one may have.
    let mut open: BTreeMap<&str, (Ends, Changes)> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for line in said.lines() {
        let Some([address, port, remote, remote_port, old, "->", new, _]) = last(line) else {
            continue;
        };
        if !called(remote_port) {
            continue;
        }
        let socket = line.split(' ').next().unwrap_or_default();
        let ends = (
            format!("{address}:{port}"),
            format!("{remote}:{remote_port}"),
        );
        if old == "CLOSE" {
            all.extend(open.insert(socket, (ends.clone(), Vec::new())));
        }
        // Of one that is older than the tool only the end is seen.
        let Some((known, states)) = open.get_mut(socket) else {
            continue;
        };
        if port != "0" {
            *known = ends;
        }
        states.push((old, new));
    }
    all.extend(open.into_values());
    all.into_iter()
        .map(|(ends, states)| (ends, chained(states)))
        .collect()
}

/// Each change after the one that led to it; those that none led to are last.
fn chained(mut changes: Changes<'_>) -> Vec<&str> {
    let mut states = Vec::new();
    let mut now = "CLOSE";
    while let Some(next) = changes.iter().position(|(old, _)| *old == now) {
        now = changes.remove(next).1;
        states.push(now);
    }
    states.extend(changes.into_iter().map(|(_, new)| new));
    states
}

/// tcptracer: connects (`C`) and closes (`X`) of each connection to our ports, in order.
pub(super) fn connections(said: &str) -> BTreeMap<Ends, String> {
    let mut all: BTreeMap<Ends, String> = BTreeMap::new();
    for line in said.lines() {
        let Some([address, remote, port, remote_port]) = last(line) else {
            continue;
        };
        if called(remote_port) {
            let ends = (
                format!("{address}:{port}"),
                format!("{remote}:{remote_port}"),
            );
            all.entry(ends).or_default().extend(line.chars().next());
        }
    }
    all
}

/// tcpconnlat: how often a SYN of each connection to our ports was answered.
pub(super) fn connects(said: &str) -> BTreeMap<Ends, usize> {
    let mut all: BTreeMap<Ends, usize> = BTreeMap::new();
    for line in said.lines() {
        let Some([address, port, remote, remote_port, _]) = last(line) else {
            continue;
        };
        if called(remote_port) {
            let ends = (
                format!("{address}:{port}"),
                format!("{remote}:{remote_port}"),
            );
            *all.entry(ends).or_default() += 1;
        }
    }
    all
}
