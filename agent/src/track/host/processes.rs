//! Who the processes are: proxies, upstreams, their parents.

use std::collections::HashMap;

use super::MILLISECOND;
use crate::settings;
use crate::signal::{Address, Nanos, Process, Software};

const CAP: usize = 4096;
/// Start times come in ticks, and from two clocks that are read one after the other.
const SAME_START: Nanos = 10 * MILLISECOND;

/// What statistics are kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Label {
    Name(String),
    /// Of a process without a name.
    Pid(u32),
}

#[derive(Debug)]
struct Known {
    process: Process,
    seen: Nanos,
    exited: Option<Nanos>,
}

impl Known {
    fn is(&self, process: &Process) -> bool {
        self.process.started.abs_diff(process.started) < SAME_START
    }
}

fn poorer(new: &Process, old: &Process) -> bool {
    let lost_software = new.software == Software::Other && old.software != Software::Other;
    lost_software || (new.netns == 0 && old.netns != 0)
}

#[derive(Debug, Default)]
pub(super) struct Processes {
    by_pid: HashMap<u32, Known>,
}

impl Processes {
    pub(super) fn seen(&mut self, at: Nanos, process: &Process) -> u64 {
        let mut lost = 0;
        if !self.by_pid.contains_key(&process.pid) && self.by_pid.len() >= CAP {
            // The dead go first, then those seen the longest ago.
            let victim = self
                .by_pid
                .iter()
                .min_by_key(|(_, k)| (k.exited.is_none(), k.seen))
                .map(|(p, _)| *p);
            if let Some(victim) = victim.and_then(|pid| self.by_pid.remove(&pid)) {
                lost = u64::from(victim.exited.is_none());
            }
        }
        let before = self.by_pid.get(&process.pid);
        let same = before.filter(|known| known.is(process));
        // What dies reads as nobody in particular: recordings of earlier versions have such.
        if same.is_some_and(|known| poorer(process, &known.process)) {
            return lost;
        }
        let known = Known {
            process: process.clone(),
            seen: at,
            exited: same.and_then(|known| known.exited),
        };
        self.by_pid.insert(process.pid, known);
        lost
    }

    /// The name is still wanted for the verdict that its death causes.
    pub(super) fn exited(&mut self, at: Nanos, pid: u32) {
        if let Some(known) = self.by_pid.get_mut(&pid)
            && known.seen <= at
        {
            known.exited = Some(at);
        }
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Process> {
        self.by_pid.get(&pid).map(|k| &k.process)
    }

    /// The software of a process that lives, and the oldest ancestor of the same software that does: a proxy's
    /// master, and that of the one which it was upgraded from.
    pub(super) fn family(&self, pid: u32) -> Option<(Software, u32)> {
        const GENERATIONS: usize = 8;
        let alive = |pid: u32| self.by_pid.get(&pid).filter(|k| k.exited.is_none());
        let software = alive(pid)?.process.software;
        let mut oldest = pid;
        for _ in 0..GENERATIONS {
            let parent = alive(oldest).map(|known| known.process.parent);
            let same =
                |parent: &u32| alive(*parent).is_some_and(|p| p.process.software == software);
            match parent.filter(same) {
                Some(parent) => oldest = parent,
                None => break,
            }
        }
        Some((software, oldest))
    }

    /// Whether these are one process, or of one proxy.
    pub(super) fn are_one(&self, one: u32, other: u32) -> bool {
        let both = || {
            let of = self.family(one);
            of.is_some() && of == self.family(other)
        };
        one == other || both()
    }

    /// Whether a proxy of this kind is known.
    pub(super) fn has(&self, software: Software) -> bool {
        self.by_pid.values().any(|k| k.process.software == software)
    }

    /// What to keep statistics under: a proxy's workers share a pool's fate, not a process id.
    pub(super) fn label(&self, pid: u32) -> Label {
        self.get(pid)
            .map_or(Label::Pid(pid), |p| Label::Name(p.name.clone()))
    }

    pub(super) fn told_to_listen(
        &self,
        address: &Address,
        netns: Option<u32>,
        at: Nanos,
    ) -> Option<&Process> {
        self.by_pid
            .values()
            .filter(|k| k.exited.is_none_or(|exited| exited > at) && k.process.started <= at)
            .map(|k| &k.process)
            .filter(|p| netns.is_none_or(|netns| p.netns == netns))
            .filter(|p| {
                p.settings
                    .iter()
                    .any(|(name, value)| binds(name, value, address))
            })
            .min_by_key(|p| (p.started, p.pid))
    }
}

/// Whether a setting makes its process listen on this address.
fn binds(name: &str, value: &str, address: &Address) -> bool {
    const NAMES: &[&str] = &[
        "bind",
        "socket",
        "http-socket",
        "fastcgi-socket",
        "uwsgi-socket",
        "http",
        "port",
    ];
    NAMES.contains(&settings::plain(name).as_str())
        && value.split(", ").any(|one| same_address(one, address))
}

/// `unix:/path` and `/path` are one, a port alone or for all addresses fits any host.
fn same_address(told: &str, address: &Address) -> bool {
    if let Some(path) = address.0.strip_prefix("unix:") {
        return told.strip_prefix("unix:").unwrap_or(told) == path;
    }
    let Some((host, port)) = address.0.rsplit_once(':') else {
        return false;
    };
    let (told_host, told_port) = told.rsplit_once(':').unwrap_or(("", told));
    told_port == port && (["", "*", "0.0.0.0", "[::]", "localhost", host].contains(&told_host))
}
