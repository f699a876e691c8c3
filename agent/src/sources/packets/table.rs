//! The open connections, found by their ends: bounded, without a reallocation that doubles memory.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::signal::Nanos;

use super::arena::Arena;
use super::flow::Flow;
use super::key::Key;
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

/// An entry's number below a part of the hash, so that others are nearly never looked at in vain. In
/// four bytes: the index of many connections stays in the processor's second-level cache.
#[derive(Clone, Copy)]
struct Slot(u32);

impl Slot {
    const NUMBER_BITS: u32 = 24;

    /// `None` for a number that has no room in it.
    #[inline]
    fn new(hash: u64, at: u32) -> Option<Slot> {
        (at >> Slot::NUMBER_BITS == 0).then(|| Slot(Slot::tag(hash) | at))
    }

    #[inline]
    fn at(self) -> u32 {
        self.0 & ((1 << Slot::NUMBER_BITS) - 1)
    }

    #[inline]
    fn has_tag_of(self, hash: u64) -> bool {
        (self.0 ^ Slot::tag(hash)) >> Slot::NUMBER_BITS == 0
    }

    /// Bits that do not say where in the index the slot is.
    #[inline]
    fn tag(hash: u64) -> u32 {
        (hash >> Slot::NUMBER_BITS) as u32 & !((1 << Slot::NUMBER_BITS) - 1)
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Those whose ports are used again take room, too.
    pub(super) fn is_full(&self) -> bool {
        self.flows.in_use() >= CAP
    }

    #[inline]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        self.state.hash_one(key)
    }

    pub(super) fn find(&self, key: &Key, hash: u64) -> Option<u32> {
        let same = |slot: &Slot| slot.has_tag_of(hash) && self.holds(slot.at(), key);
        self.index.find(hash, same).map(|slot| slot.at())
    }

    /// What `find` will nearly always find, without a look at the entry itself.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<u32> {
        let slot = self.index.find(hash, |slot| slot.has_tag_of(hash))?;
        Some(slot.at())
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
        let hash_of = |slot: &Slot| state.hash_one(flows.at(slot.at()).key);
        match Slot::new(hash, at) {
            Some(slot) => {
                self.index.insert_unique(hash, slot, hash_of);
            }
            // Far more than are followed: it will not be found again.
            None => self.flows.at_mut(at).set(Flow::DETACHED),
        }
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
        if let Ok(entry) = self.index.find_entry(hash, |slot| slot.at() == at) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_a_number_and_a_part_of_the_hash() {
        let hash = 0x0123_4567_89ab_cdef;
        for at in [0, 1, CAP as u32, (1 << Slot::NUMBER_BITS) - 1] {
            let slot = Slot::new(hash, at).unwrap();
            assert_eq!(slot.at(), at);
            assert!(slot.has_tag_of(hash));
            assert!(!slot.has_tag_of(hash ^ 1 << 48));
        }
        assert!(Slot::new(hash, 1 << Slot::NUMBER_BITS).is_none());
    }

    #[test]
    fn a_connection_whose_ports_are_used_again_is_kept_and_not_found() {
        let key = |port: u16| {
            let ends = |port| format!("10.0.0.1:{port}").parse().unwrap();
            Key::new(ends(port), ends(80)).0
        };
        let mut table = Table::default();
        let entries = [4000, 4001, 4002].map(|port| table.insert(key(port), 1, 1));
        table.detach(entries[1]);
        assert_eq!((table.len(), table.flows.in_use()), (2, 3));
        assert_eq!(table.find(&key(4001), table.hash(&key(4001))), None);
        assert_eq!(
            table.find(&key(4002), table.hash(&key(4002))),
            Some(entries[2])
        );
        table.remove(entries[1]);
        table.remove(entries[2]);
        assert_eq!((table.len(), table.flows.in_use()), (1, 1));
    }
}
