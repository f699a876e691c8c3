//! Looks ahead over the records of a file's own pages: their heads are near when they are read, and of
//! payloads nothing is brought that nobody looks at.

use super::super::prefetch;

/// Records ahead: those that are found and followed together, and as long as memory takes for one.
const AHEAD: u32 = 64;
/// What is looked at of nearly every record: its header, those of link, IP and TCP, and a request's or
/// status line with some of what comes after it.
const HEAD: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Scout {
    /// In the file, where the next record begins that nobody has asked for.
    at: u64,
    /// Records asked for and not read.
    ahead: u32,
}

impl Scout {
    /// Called as a record has been read that ends at `start` of these bytes, which begin at `base` in the
    /// file. `length`: of the record at the beginning of bytes, as far as it can be told.
    #[inline(always)]
    pub(super) fn step(
        &mut self,
        bytes: &[u8],
        start: usize,
        base: u64,
        length: impl Fn(&[u8]) -> Option<usize>,
    ) {
        let next = base + start as u64;
        self.ahead = self.ahead.saturating_sub(1);
        if self.at < next {
            (self.at, self.ahead) = (next, 0);
        }
        // One takes the place of that which was read; another one catches up.
        for _ in 0..2 {
            if self.ahead >= AHEAD {
                return;
            }
            let at = (self.at - base) as usize;
            // Its head was asked for when the record before it was passed.
            let Some(length) = bytes.get(at..).and_then(&length) else {
                return;
            };
            self.at += length as u64;
            self.ahead += 1;
            prefetch::bytes(bytes.as_ptr().wrapping_add(at + length), HEAD);
            // The one after that is often as long.
            prefetch::bytes(bytes.as_ptr().wrapping_add(at + 2 * length), 1);
        }
    }
}
