//! The journals of all services that watched proxies are part of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::{Template, Timed, Zone};
use super::Journal;
use crate::clock;
use crate::signal::{Fact, Nanos};

/// Journals followed at once, each by a process of its own.
const JOURNALS: usize = 16;
/// One that cannot be followed is tried again after this.
const AGAIN: Nanos = 60_000_000_000;
/// So much later than in a file the same line may be in a journal.
const LATER: Nanos = 2_000_000_000;
/// Lines of files that are remembered for that.
const LINES: usize = 1024;

#[derive(Default)]
pub struct Journals {
    /// By their services, or when one could not be followed.
    followed: BTreeMap<String, Result<Journal, Nanos>>,
    of_files: Lately,
}

/// What files told lately, and when: the same lines may come by way of a journal.
#[derive(Default)]
struct Lately(VecDeque<(Nanos, Fact)>);

impl Lately {
    fn add(&mut self, now: Nanos, lines: &[Timed]) {
        self.0.retain(|(at, _)| *at <= now && *at + LATER >= now);
        for timed in lines {
            if self.0.len() >= LINES {
                self.0.pop_front();
            }
            self.0.push_back((now, timed.fact.clone()));
        }
    }

    fn has(&self, timed: &Timed) -> bool {
        self.0.iter().any(|(_, told)| *told == timed.fact)
    }
}

impl Journals {
    /// Follows these services, each with the proxy's processes; tells which it cannot follow.
    pub fn find(
        &mut self,
        services: &BTreeMap<String, BTreeSet<u32>>,
        now: Nanos,
        templates: impl Fn(&BTreeSet<u32>) -> Arc<[Template]>,
        mut tell: impl FnMut(&str, std::io::Error),
    ) {
        let lapsed = |known: &Result<Journal, Nanos>| {
            known.as_ref().err().is_some_and(|at| at + AGAIN < now)
        };
        self.followed
            .retain(|name, known| services.contains_key(name) && !lapsed(known));
        for (service, pids) in services {
            if !self.followed.contains_key(service) && self.followed.len() < JOURNALS {
                let zone = Zone::Host(clock::seconds_east);
                let journal = Journal::follow(service, now, &templates(pids), zone);
                let known = journal.map_err(|error| {
                    tell(service, error);
                    now
                });
                self.followed.insert(service.clone(), known);
            }
            if let Some(Ok(journal)) = self.followed.get_mut(service) {
                journal.know(pids);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Journal> {
        self.followed.values().flatten()
    }

    /// A process has written that may be a proxy's since its processes were looked for.
    pub fn any_waits(&self) -> bool {
        self.all().any(Journal::waits)
    }

    /// A proxy's lines come by way of one of them.
    pub fn are_read(&self) -> bool {
        self.all().any(|journal| journal.format().is_some())
    }

    pub fn tells(&self) -> impl Iterator<Item = &'static str> {
        self.all().flat_map(Journal::tells)
    }

    /// Adds what was written since the last look to what files have told by now.
    pub fn look(
        &mut self,
        now: Nanos,
        lines: &mut Vec<Timed>,
        mut tell: impl FnMut(&Journal, Option<std::io::Error>),
    ) {
        if self.followed.is_empty() {
            return;
        }
        self.of_files.add(now, lines);
        let mut written = Vec::new();
        for known in self.followed.values_mut() {
            let Ok(journal) = known else { continue };
            let error = journal.look(&mut written).err();
            let ended = error.is_some();
            tell(journal, error);
            if ended {
                *known = Err(now);
            }
        }
        written.retain(|timed| !self.of_files.has(timed));
        lines.append(&mut written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_file_had_is_not_told_again_until_it_may_be_another() {
        let line = |count| Timed {
            at: 1,
            fact: Fact::LinesDistrusted { count },
        };
        let mut lately = Lately::default();
        lately.add(10, &[line(1)]);
        assert!(lately.has(&line(1)) && !lately.has(&line(2)));
        lately.add(10 + LATER, &[]);
        assert!(lately.has(&line(1)));
        lately.add(11 + LATER, &[]);
        assert!(!lately.has(&line(1)));
        for count in 0..=LINES as u64 {
            lately.add(20 + LATER, &[line(count)]);
        }
        assert!(!lately.has(&line(0)) && lately.has(&line(1)));
    }
}
