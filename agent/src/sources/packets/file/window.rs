//! The one buffer through which a capture is read; frames are slices of it.

use std::fmt;
use std::io::{self, Read};

use super::error::{Fault, Problem};

/// Read at a time: it stays in the processor's second-level cache.
const READ: usize = 256 * 1024;
/// The largest record that is read; a longer one is damage.
pub(super) const MAX_RECORD: usize = 16 * 1024 * 1024;

/// A moving view of the input: what is before `start` has been consumed.
pub(super) struct Window {
    input: Box<dyn Read + Send>,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where `bytes[0]` is in the input.
    base: u64,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("offset", &self.offset())
            .field("held", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

impl Window {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Window {
        Window {
            input,
            bytes: vec![0; READ],
            start: 0,
            end: 0,
            base: 0,
        }
    }

    /// Where the next byte is in the input.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// The bytes at hand.
    #[inline]
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Makes `length` bytes be at hand; false where the input ends before.
    #[inline]
    pub(super) fn ensure(&mut self, length: usize) -> Result<bool, Fault> {
        if self.end - self.start >= length {
            return Ok(true);
        }
        self.fill(length)
    }

    /// Steps over bytes that are at hand; says where they begin in the buffer, in which they stay
    /// until more are asked for than it holds.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> usize {
        let start = self.start;
        self.start += length;
        start
    }

    /// The bytes in the buffer, and where those at hand begin, which the caller moves on.
    pub(super) fn parts(&mut self) -> (&[u8], &mut usize) {
        (&self.bytes[..self.end], &mut self.start)
    }

    /// Bytes that were taken.
    #[inline]
    pub(super) fn taken(&self, start: usize, length: usize) -> &[u8] {
        &self.bytes[start..start + length]
    }

    #[cold]
    fn fill(&mut self, length: usize) -> Result<bool, Fault> {
        debug_assert!(
            length < MAX_RECORD + READ,
            "the formats check lengths first"
        );
        self.bytes.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        while self.end < length {
            if self.end == self.bytes.len() {
                // Only as far as the input has bytes: a length alone allocates little.
                let more = (2 * self.bytes.len()).min(MAX_RECORD + READ);
                self.bytes.resize(more, 0);
            }
            match self.input.read(&mut self.bytes[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A compressed stream that is cut off.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.fault(Problem::Truncated));
                }
                Err(error) => {
                    return Err(Fault {
                        offset: self.base + self.end as u64,
                        problem: Problem::Io(error),
                    });
                }
            }
        }
        Ok(true)
    }

    /// A problem with the record that begins here.
    #[cold]
    pub(super) fn fault(&self, problem: Problem) -> Fault {
        Fault {
            offset: self.offset(),
            problem,
        }
    }

    #[cold]
    pub(super) fn malformed(&self, reason: impl Into<String>) -> Fault {
        self.fault(Problem::Malformed(reason.into()))
    }
}

#[cfg(test)]
impl Window {
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
