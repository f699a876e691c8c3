//! Processes that have a proxy's name, but are in none of the containers that a person asked for.
//! The kernel half knows names alone, and watches them until it is told.

use super::*;

/// Process ids that are remembered.
const STRANGERS: usize = 65_536;

impl Watch {
    /// Whether a process that has just started is asked for: also what a watched one has begun.
    pub(super) fn is_selected(&mut self, pid: u32) -> bool {
        let begun = || process::parent(pid).is_some_and(|parent| self.proxies.contains(&parent));
        begun() || self.selection.admits(pid, &mut self.homes)
    }

    /// A container's name is known a moment after its processes are: nothing is told of this one until
    /// then.
    pub(super) fn may_be_selected_later(&mut self, pid: u32, name: String) {
        self.estrange(pid);
        if self.undecided.len() < UNNAMED {
            self.undecided.insert(pid, (name, NAMED_WITHIN));
        } else {
            let _ = self.ignore(pid);
        }
    }

    pub(super) fn decide_strangers(&mut self) {
        for (pid, (name, tries)) in std::mem::take(&mut self.undecided) {
            if self.is_selected(pid) {
                if self.add_proxy(pid, name).is_ok() {
                    let _ = self.name_unix_listeners();
                }
            } else if tries > 1 {
                self.undecided.insert(pid, (name, tries - 1));
            } else {
                let _ = self.ignore(pid);
            }
        }
    }

    fn estrange(&mut self, pid: u32) {
        if self.strangers.len() >= STRANGERS {
            self.strangers.clear();
        }
        self.strangers.insert(pid);
    }

    /// Has the kernel half forget a process.
    pub(super) fn ignore(&mut self, pid: u32) -> Result<()> {
        self.estrange(pid);
        unwatch(&mut self.probes.ebpf, &proxies::threads(pid))
    }

    /// What the kernel half told of one before it was ignored.
    pub(super) fn is_strangers(&self, fact: &Fact) -> bool {
        let proxy = match fact {
            Fact::AttemptEnded(attempt) => attempt.proxy,
            Fact::ResponseSent(response) => response.proxy,
            Fact::IdleClosed(idle) => idle.proxy,
            Fact::RequestMetClose(attempt) => attempt.proxy,
            Fact::FirstByteLate(stall) => stall.proxy,
            _ => return false,
        };
        self.strangers.contains(&proxy)
    }
}

/// Takes threads from those whose calls the kernel half looks at.
pub(super) fn unwatch(ebpf: &mut Ebpf, threads: &[u32]) -> Result<()> {
    {
        let mut map: HashMap<_, u32, Thread> = map(ebpf, "THREADS")?;
        for tid in threads {
            // One that the kernel half has not come to is not there.
            let _ = map.remove(tid);
        }
    }
    let slots = ebpf
        .map_mut("SLOT_THREADS")
        .context("no SLOT_THREADS map")?;
    let mut slots = Array::<_, Thread>::try_from(slots)?;
    for tid in threads {
        let mut slot = slots.get(&(tid % SLOTS), 0)?;
        if slot.owner == *tid {
            slot.owner = 0;
            slots.set(tid % SLOTS, slot, 0)?;
        }
    }
    let watched = ebpf.map_mut("WATCHED").context("no WATCHED map")?;
    let mut watched = Array::<_, [u8; WATCHED_BLOCK]>::try_from(watched)?;
    for tid in threads.iter().filter(|tid| **tid < WATCHED_THREADS) {
        let index = tid / WATCHED_BLOCK as u32;
        let mut block = watched.get(&index, 0)?;
        block[*tid as usize % WATCHED_BLOCK] = 0;
        watched.set(index, block, 0)?;
    }
    Ok(())
}
