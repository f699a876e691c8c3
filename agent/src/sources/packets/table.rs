//! The open connections, found by their ends: bounded, without a reallocation that doubles memory.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::signal::Nanos;

use super::arena::Arena;
use super::flow::{Flow, Key};
use super::prefetch::prefetch;

/// At most this many connections are followed; the rest is counted.
const CAP: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Table {
    index: HashTable<Slot>,
    /// Captures come from strangers, who must not be able to choose connections that collide.
    state: RandomState,
    flows: Arena<Flow, 8192>,
    /// Where the search for entries to free goes on.
    hand: u32,
}

/// Part of the hash beside the entry's number: others are nearly never looked at in vain.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    at: u32,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.index.len() >= CAP
    }

    #[inline]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        self.state.hash_one(key)
    }

    pub(super) fn find(&self, key: &Key, hash: u64) -> Option<u32> {
        let same = |slot: &Slot| slot.tag == tag(hash) && self.holds(slot.at, key);
        self.index.find(hash, same).map(|slot| slot.at)
    }

    /// What `find` will nearly always find, without a look at the entry itself.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<u32> {
        let slot = self.index.find(hash, |slot| slot.tag == tag(hash))?;
        Some(slot.at)
    }

    /// Whether the entry is what is found by this key.
    #[inline]
    pub(super) fn holds(&self, at: u32, key: &Key) -> bool {
        let flow = self.flows.at(at);
        flow.key == *key && flow.id != 0 && !flow.is(Flow::DETACHED)
    }

    pub(super) fn insert(&mut self, key: Key, id: u64, now: Nanos) -> u32 {
        let hash = self.hash(&key);
        let at = self.flows.take();
        self.flows.at_mut(at).begin(key, id, now);
        let (flows, state) = (&self.flows, &self.state);
        let hash_of = |slot: &Slot| state.hash_one(flows.at(slot.at).key);
        let slot = Slot { tag: tag(hash), at };
        self.index.insert_unique(hash, slot, hash_of);
        at
    }

    pub(super) fn remove(&mut self, at: u32) {
        if !self.at(at).is(Flow::DETACHED) {
            self.unindex(at);
        }
        self.flows.at_mut(at).id = 0;
        self.flows.give_back(at);
    }

    /// Makes room for a new connection between the same ends; the entry stays until it is removed.
    pub(super) fn detach(&mut self, at: u32) {
        self.unindex(at);
        self.at_mut(at).set(Flow::DETACHED);
    }

    fn unindex(&mut self, at: u32) {
        let hash = self.hash(&self.at(at).key);
        if let Ok(entry) = self.index.find_entry(hash, |slot| slot.at == at) {
            entry.remove();
        }
    }

    #[inline]
    pub(super) fn peek(&self, at: u32) -> Option<&Flow> {
        self.flows.get(at).filter(|flow| flow.id != 0)
    }

    /// An entry that is known to be there.
    #[inline]
    pub(super) fn at(&self, at: u32) -> &Flow {
        let flow = self.flows.at(at);
        debug_assert!(flow.id != 0, "the flow is in the table");
        flow
    }

    #[inline]
    pub(super) fn at_mut(&mut self, at: u32) -> &mut Flow {
        let flow = self.flows.at_mut(at);
        debug_assert!(flow.id != 0, "the flow is in the table");
        flow
    }

    /// The next entry in turn, to look whether it can go.
    pub(super) fn turn(&mut self) -> Option<u32> {
        let used = self.flows.used();
        if used == 0 {
            return None;
        }
        self.hand += 1;
        if self.hand >= used {
            self.hand = 0;
        }
        self.peek(self.hand).map(|_| self.hand)
    }

    /// Asks for so many entries whose turn comes next, and for those that will be taken.
    pub(super) fn prefetch_next(&self, turns: u32, taken: usize) {
        for i in 1..=turns {
            if let Some(flow) = self.flows.get(self.hand + i) {
                flow.prefetch();
            }
        }
        self.flows.next(taken).for_each(prefetch);
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 16) as u32
}
