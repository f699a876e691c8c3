//! The open connections, found by their ends: bounded, without a reallocation that doubles memory.

use hashbrown::HashTable;

use super::flow::{Flow, Key};

/// At most this many connections are followed; the rest is counted.
const CAP: usize = 1 << 20;
const CHUNK: usize = 1024;

#[derive(Default)]
pub(super) struct Table {
    index: HashTable<u32>,
    /// Entries never move, so growing costs one chunk.
    chunks: Vec<Box<[Option<Flow>]>>,
    free: Vec<u32>,
    used: u32,
    /// Where the search for entries to free goes on.
    hand: u32,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.index.len() >= CAP
    }

    pub(super) fn find(&self, key: &Key, hash: u64) -> Option<u32> {
        self.index
            .find(hash, |&at| {
                self.peek(at).is_some_and(|flow| flow.key == *key)
            })
            .copied()
    }

    pub(super) fn insert(&mut self, flow: Flow) -> u32 {
        let hash = flow.key.hash();
        let at = self.free.pop().unwrap_or_else(|| {
            let at = self.used;
            if at as usize == self.chunks.len() * CHUNK {
                self.chunks.push((0..CHUNK).map(|_| None).collect());
            }
            self.used += 1;
            at
        });
        self.chunks[at as usize / CHUNK][at as usize % CHUNK] = Some(flow);
        let chunks = &self.chunks;
        self.index
            .insert_unique(hash, at, |&at| slot(chunks, at).map_or(0, |f| f.key.hash()));
        at
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<Flow> {
        let flow = self.chunks[at as usize / CHUNK][at as usize % CHUNK].take()?;
        if let Ok(entry) = self.index.find_entry(flow.key.hash(), |&other| other == at) {
            entry.remove();
        }
        self.free.push(at);
        Some(flow)
    }

    /// Makes room for a new connection between the same ends; the entry stays until it is removed.
    pub(super) fn detach(&mut self, at: u32) {
        let hash = self.at(at).key.hash();
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
    }

    pub(super) fn peek(&self, at: u32) -> Option<&Flow> {
        slot(&self.chunks, at)
    }

    /// An entry that is known to be there.
    pub(super) fn at(&self, at: u32) -> &Flow {
        self.peek(at).expect("the flow is in the table")
    }

    pub(super) fn at_mut(&mut self, at: u32) -> &mut Flow {
        self.chunks[at as usize / CHUNK][at as usize % CHUNK]
            .as_mut()
            .expect("the flow is in the table")
    }

    /// The next entry in turn, to look whether it can go.
    pub(super) fn turn(&mut self) -> Option<u32> {
        if self.used == 0 {
            return None;
        }
        self.hand = (self.hand + 1) % self.used;
        self.peek(self.hand).map(|_| self.hand)
    }
}

fn slot(chunks: &[Box<[Option<Flow>]>], at: u32) -> Option<&Flow> {
    chunks.get(at as usize / CHUNK)?[at as usize % CHUNK].as_ref()
}
