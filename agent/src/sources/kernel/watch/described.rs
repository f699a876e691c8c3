//! Which processes have been described. A process id alone does not say who: it is used again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::sources::process::Seen;

/// A process id is not looked at again within this time, unless its process's end was told. No host
/// comes round to it sooner.
const TRUSTED: Duration = Duration::from_secs(10);
const CAP: usize = 65_536;

#[derive(Debug)]
struct Entry {
    birth: u64,
    parent: u32,
    supervises: bool,
    /// When it was last known to be the same; `None` once its end was told.
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Described {
    by_pid: HashMap<u32, Entry>,
}

impl Described {
    /// Whether this process has yet to be described. `birth` reads when the process with a number
    /// began: one that is dead or gone stays what it was.
    pub(super) fn lacks(
        &mut self,
        pid: u32,
        now: Instant,
        birth: impl FnOnce(u32) -> Option<u64>,
    ) -> bool {
        let Some(entry) = self.by_pid.get_mut(&pid) else {
            return true;
        };
        if entry.asked.is_some_and(|asked| now < asked + TRUSTED) {
            return false;
        }
        let Some(birth) = birth(pid) else {
            return false;
        };
        entry.asked = Some(now);
        birth != entry.birth
    }

    pub(super) fn add(&mut self, seen: &Seen, now: Instant) {
        if self.by_pid.len() >= CAP {
            self.by_pid.clear();
        }
        let entry = Entry {
            birth: seen.birth,
            parent: seen.process.parent,
            supervises: seen.process.software.supervises(),
            asked: Some(now),
        };
        self.by_pid.insert(seen.process.pid, entry);
    }

    /// Its end was told: whoever has this number next is another.
    pub(super) fn ended(&mut self, pid: u32) {
        if let Some(entry) = self.by_pid.get_mut(&pid) {
            entry.asked = None;
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

    fn seen(pid: u32, parent: u32, software: Software, birth: u64) -> Seen {
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
            birth,
            unnamed: false,
            untold: false,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn a_dead_process_is_not_described_again_and_who_follows_it_is() {
        let mut described = Described::default();
        let now = Instant::now();
        assert!(described.lacks(7, now, |_| Some(100)));
        described.add(&seen(7, 1, Software::Gunicorn, 100), now);
        let unasked = |_| unreachable!("asked again at once");
        assert!(!described.lacks(7, now, unasked));
        // Its record follows its exit, while it is a zombie.
        described.ended(7);
        assert!(!described.lacks(7, now, |_| None));
        assert!(
            described.lacks(7, now, |_| Some(200)),
            "its number is another's"
        );
        described.add(&seen(7, 1, Software::Gunicorn, 200), now);
        // Nobody tells the ends of those who only send signals.
        let later = now + TRUSTED;
        assert!(!described.lacks(7, later, |_| Some(200)));
        assert!(described.lacks(7, later + TRUSTED, |_| Some(300)));
    }

    #[test]
    fn supervisors_are_those_whose_workers_are_known() {
        let mut described = Described::default();
        let now = Instant::now();
        for (pid, parent, software) in [
            (10, 1, Software::Gunicorn),
            (11, 10, Software::Gunicorn),
            (12, 10, Software::Gunicorn),
            (20, 2, Software::Uwsgi),
            (30, 3, Software::Node),
        ] {
            described.add(&seen(pid, parent, software, 1), now);
        }
        assert_eq!(described.supervisors(), [10]);
    }
}
