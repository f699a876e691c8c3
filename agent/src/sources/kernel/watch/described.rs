//! Which processes have been described. A process id alone does not say who: it is used again, and who
//! has just been forked may run another program.

use std::collections::HashMap;
use std::time::Duration;

use crate::signal::Nanos;
use crate::sources::process::{Incarnation, Seen};

/// A process id is not looked at again within this time, unless its process's end was told. No host
/// comes round to it sooner.
const TRUSTED: Duration = Duration::from_secs(10);
/// What is younger than that is trusted for as long as it has been there: most run another program at
/// once or never. At least this long, for ages are known in clock ticks.
const TICK: Duration = Duration::from_millis(10);
const CAP: usize = 65_536;

#[derive(Debug)]
struct Entry {
    incarnation: Incarnation,
    /// On the clock of signals.
    started: Nanos,
    parent: u32,
    supervises: bool,
    /// Until then it is not asked again; `None` once its end was told.
    trusted: Option<Nanos>,
}

fn trusted(started: Nanos, now: Nanos) -> Option<Nanos> {
    let age = Duration::from_nanos(now.saturating_sub(started));
    let time = age.clamp(TICK, TRUSTED);
    Some(now.saturating_add(time.as_nanos() as Nanos))
}

#[derive(Debug, Default)]
pub(super) struct Described {
    by_pid: HashMap<u32, Entry>,
}

impl Described {
    /// Whether this process has yet to be described. `incarnation` reads who has a number now: one that is
    /// dead or gone stays what it was.
    pub(super) fn lacks(
        &mut self,
        pid: u32,
        now: Nanos,
        incarnation: impl FnOnce(u32) -> Option<Incarnation>,
    ) -> bool {
        let Some(entry) = self.by_pid.get_mut(&pid) else {
            return true;
        };
        if entry.trusted.is_some_and(|until| now < until) {
            return false;
        }
        let Some(incarnation) = incarnation(pid) else {
            return false;
        };
        entry.trusted = trusted(entry.started, now);
        incarnation != entry.incarnation
    }

    pub(super) fn add(&mut self, seen: &Seen, now: Nanos) {
        if self.by_pid.len() >= CAP {
            self.by_pid.clear();
        }
        let entry = Entry {
            incarnation: seen.incarnation,
            started: seen.process.started,
            parent: seen.process.parent,
            supervises: seen.process.software.supervises(),
            trusted: trusted(seen.process.started, now),
        };
        self.by_pid.insert(seen.process.pid, entry);
    }

    /// Its end was told: whoever has this number next is another.
    pub(super) fn ended(&mut self, pid: u32) {
        if let Some(entry) = self.by_pid.get_mut(&pid) {
            entry.trusted = None;
        }
    }

    /// Those that watch workers, which they start anew.
    pub(super) fn supervisors(&self) -> Vec<u32> {
        let supervises = |pid: &u32| self.by_pid.get(pid).is_some_and(|entry| entry.supervises);
        let of_supervised = self.by_pid.values().filter(|entry| entry.supervises);
        let mut pids: Vec<u32> = of_supervised
            .map(|entry| entry.parent)
            .filter(supervises)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{Process, Software};

    fn seen(pid: u32, parent: u32, software: Software, incarnation: Incarnation) -> Seen {
        Seen {
            process: Process {
                pid,
                parent,
                name: "x".into(),
                software,
                settings: Vec::new(),
                started: 0,
                netns: 1,
                sagemaker: false,
                home: Default::default(),
            },
            incarnation,
            unnamed: false,
            untold: false,
            unreadable: Vec::new(),
        }
    }

    const S: Nanos = 1_000_000_000;

    fn born(birth: u64) -> Incarnation {
        Incarnation { birth, stack: 1 }
    }

    #[test]
    fn a_dead_process_is_not_described_again_and_who_follows_it_is() {
        let mut described = Described::default();
        let now = 1_000 * S;
        assert!(described.lacks(7, now, |_| Some(born(100))));
        described.add(&seen(7, 1, Software::Gunicorn, born(100)), now);
        let unasked = |_| unreachable!("asked again at once");
        assert!(!described.lacks(7, now, unasked));
        // Its record follows its exit, while it is a zombie.
        described.ended(7);
        assert!(!described.lacks(7, now, |_| None));
        assert!(
            described.lacks(7, now, |_| Some(born(200))),
            "its number is another's"
        );
        described.add(&seen(7, 1, Software::Gunicorn, born(200)), now);
        // Nobody tells the ends of those who only send signals.
        let later = now + 10 * S;
        assert!(!described.lacks(7, later, |_| Some(born(200))));
        assert!(described.lacks(7, later + 10 * S, |_| Some(born(300))));
    }

    #[test]
    fn who_was_just_forked_may_run_another_program() {
        let mut described = Described::default();
        let child = seen(7, 1, Software::Other, born(100));
        let exec = Incarnation {
            birth: 100,
            stack: 2,
        };
        // Started at 0, and seen at once.
        described.add(&child, 1);
        assert!(!described.lacks(7, S / 200, |_| unreachable!("within a tick")));
        assert!(described.lacks(7, S / 50, |_| Some(exec)));
        // The older it is, the longer is it trusted: here until four seconds.
        assert!(!described.lacks(7, 2 * S, |_| Some(born(100))));
        assert!(!described.lacks(7, 3 * S, |_| unreachable!("trusted")));
        assert!(described.lacks(7, 5 * S, |_| Some(exec)));
    }

    #[test]
    fn supervisors_are_those_whose_workers_are_known() {
        let mut described = Described::default();
        let now = 1_000 * S;
        for (pid, parent, software) in [
            (10, 1, Software::Gunicorn),
            (11, 10, Software::Gunicorn),
            (12, 10, Software::Gunicorn),
            (20, 2, Software::Uwsgi),
            (30, 3, Software::Node),
        ] {
            described.add(&seen(pid, parent, software, born(1)), now);
        }
        assert_eq!(described.supervisors(), [10]);
    }
}
