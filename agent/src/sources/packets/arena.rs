//! Entries that are known by a number and never move: growing costs one chunk, not a copy of all.
//!
//! Chunks are huge pages where the kernel gives them: entries are looked up all over the place, and
//! more small pages than the processor remembers cost as much time as the entries themselves.

/// The size of a huge page.
const HUGE: usize = 2 << 20;

/// `N` entries, which have to fill a huge page.
#[repr(C, align(2097152))]
struct Chunk<T, const N: usize>([T; N]);

pub(super) struct Arena<T, const N: usize> {
    chunks: Vec<Box<Chunk<T, N>>>,
    free: Vec<u32>,
    /// Numbers given out so far, whether they are free again or not.
    used: u32,
}

impl<T, const N: usize> Default for Arena<T, N> {
    fn default() -> Arena<T, N> {
        Arena {
            chunks: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }
}

impl<T: Default, const N: usize> Chunk<T, N> {
    fn new() -> Box<Chunk<T, N>> {
        const { assert!(size_of::<Chunk<T, N>>() == HUGE && size_of::<[T; N]>() == HUGE) };
        let mut chunk = Box::<Chunk<T, N>>::new_uninit();
        let at = chunk.as_mut_ptr();
        // SAFETY: the range is the box's own memory, and the advice changes nothing of what it
        // holds; a kernel that knows none refuses it.
        unsafe { libc::madvise(at.cast(), HUGE, libc::MADV_HUGEPAGE) };
        for i in 0..N {
            // SAFETY: `at` points to memory for N entries, of which this is one.
            unsafe { (&raw mut (*at).0).cast::<T>().add(i).write(T::default()) };
        }
        // SAFETY: each of the entries has just been written, and there is nothing else in it.
        unsafe { chunk.assume_init() }
    }
}

impl<T: Default, const N: usize> Arena<T, N> {
    /// The number of an entry that is in no use, which holds what it held last.
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let at = self.used;
            if at as usize == self.chunks.len() * N {
                self.chunks.push(Chunk::new());
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
        let chunk = self.chunks.get(at as usize / N)?;
        Some(&chunk.0[at as usize % N])
    }

    /// An entry whose number was given out.
    #[inline]
    pub(super) fn at(&self, at: u32) -> &T {
        &self.chunks[at as usize / N].0[at as usize % N]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.chunks[at as usize / N].0[at as usize % N]
    }
}
