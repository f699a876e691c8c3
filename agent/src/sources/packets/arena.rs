//! Entries that are known by a number and never move: growing costs one chunk, not a copy of all.

/// Entries in one chunk.
const CHUNK: usize = 1024;

pub(super) struct Arena<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    free: Vec<u32>,
    /// Numbers given out so far, whether they are free again or not.
    used: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena {
            chunks: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }
}

impl<T: Default> Arena<T> {
    /// The number of an entry that is in no use, which holds what it held last.
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let at = self.used;
            if at as usize == self.chunks.len() * CHUNK {
                let chunk: Vec<T> = (0..CHUNK).map(|_| T::default()).collect();
                self.chunks.extend(chunk.into_boxed_slice().try_into().ok());
            }
            self.used += 1;
            at
        })
    }

    pub(super) fn give_back(&mut self, at: u32) {
        self.free.push(at);
    }

    /// Entries that will be taken next.
    pub(super) fn next(&self, count: usize) -> impl Iterator<Item = &T> {
        self.free.iter().rev().take(count).map(|at| self.at(*at))
    }

    /// Numbers are below this.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn in_use(&self) -> usize {
        self.used as usize - self.free.len()
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let chunk = self.chunks.get(at as usize / CHUNK)?;
        Some(&chunk[at as usize % CHUNK])
    }

    /// An entry whose number was given out.
    #[inline]
    pub(super) fn at(&self, at: u32) -> &T {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}
