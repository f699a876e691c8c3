//! The bytes of a capture that are at hand, in one buffer or in the file's own pages; frames are
//! slices of them.

use std::fmt;
use std::io::{self, Read};

use super::error::{Fault, Problem};
use super::input::{Input, Progress};
use super::mapped::Mapped;

/// Read at a time: it stays in the processor's second-level cache.
const READ: usize = 256 * 1024;
/// The largest record that is read; a longer one is damage.
pub(super) const MAX_RECORD: usize = 16 * 1024 * 1024;

/// A moving view of the input: what is before `start` has been consumed.
pub(super) struct Window {
    source: Source,
    start: usize,
    end: usize,
    /// Where the first of the bytes is in the input.
    base: u64,
}

enum Source {
    Read {
        input: Box<dyn Read + Send>,
        bytes: Vec<u8>,
    },
    Mapped(Mapped, Progress),
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
        let bytes = vec![0; READ];
        Window::of(Source::Read { input, bytes })
    }

    /// Through the file's own pages where that is possible.
    pub(super) fn of_input(mut input: Input) -> Window {
        match input.take_mappable().and_then(Mapped::new) {
            Some(mapped) => {
                let end = mapped.bytes().len();
                let progress = input.progress();
                progress.reached(end as u64);
                Window {
                    end,
                    ..Window::of(Source::Mapped(mapped, progress))
                }
            }
            None => Window::new(Box::new(input)),
        }
    }

    fn of(source: Source) -> Window {
        Window {
            source,
            start: 0,
            end: 0,
            base: 0,
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Read { bytes, .. } => bytes,
            Source::Mapped(mapped, _) => mapped.bytes(),
        }
    }

    /// Bytes that were given were not the input's: its file became shorter.
    pub(super) fn is_torn(&self) -> bool {
        match &self.source {
            Source::Read { .. } => false,
            Source::Mapped(mapped, _) => mapped.is_torn(),
        }
    }

    /// Whether what lies ahead is still to come from memory.
    pub(super) fn is_far(&self) -> bool {
        matches!(self.source, Source::Mapped(..))
    }

    /// Where the next byte is in the input.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// The bytes at hand.
    #[inline]
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes()[self.start..self.end]
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

    /// The bytes in the buffer, where they begin in the input, and where those at hand begin among them, which
    /// the caller moves on.
    pub(super) fn parts(&mut self) -> (&[u8], u64, &mut usize) {
        let bytes = match &self.source {
            Source::Read { bytes, .. } => bytes,
            Source::Mapped(mapped, _) => mapped.bytes(),
        };
        (&bytes[..self.end], self.base, &mut self.start)
    }

    /// Bytes that were taken.
    #[inline]
    pub(super) fn taken(&self, start: usize, length: usize) -> &[u8] {
        &self.bytes()[start..start + length]
    }

    #[cold]
    fn fill(&mut self, length: usize) -> Result<bool, Fault> {
        debug_assert!(
            length < MAX_RECORD + READ,
            "the formats check lengths first"
        );
        match &mut self.source {
            Source::Read { input, bytes } => {
                bytes.copy_within(self.start..self.end, 0);
                self.base += self.start as u64;
                self.end -= self.start;
                self.start = 0;
                let read = read(input, bytes, &mut self.end, length);
                read.map_err(|problem| Fault {
                    // What was cut off is the record that begins here.
                    offset: match problem {
                        Problem::Io(_) => self.base + self.end as u64,
                        _ => self.base,
                    },
                    problem,
                })
            }
            Source::Mapped(mapped, progress) => {
                let next = self.base + self.start as u64;
                (self.start, self.end) = (0, 0);
                let shown = mapped.show(next, length);
                self.base = next;
                let begin = shown.map_err(|error| Fault {
                    offset: next,
                    problem: Problem::Io(error),
                })?;
                self.base = begin;
                self.end = mapped.bytes().len();
                // Nothing is left of a file that has become shorter than this.
                self.start = ((next - begin) as usize).min(self.end);
                progress.reached(begin + self.end as u64);
                Ok(self.end - self.start >= length)
            }
        }
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

/// Reads until there are so many bytes; false where the input ends before.
fn read(
    input: &mut dyn Read,
    bytes: &mut Vec<u8>,
    end: &mut usize,
    length: usize,
) -> Result<bool, Problem> {
    while *end < length {
        if *end == bytes.len() {
            // Only as far as the input has bytes: a length alone allocates little.
            let more = (2 * bytes.len()).min(MAX_RECORD + READ);
            bytes.resize(more, 0);
        }
        match input.read(&mut bytes[*end..]) {
            Ok(0) => return Ok(false),
            Ok(read) => *end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A compressed stream that is cut off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Problem::Truncated);
            }
            Err(error) => return Err(Problem::Io(error)),
        }
    }
    Ok(true)
}

#[cfg(test)]
impl Window {
    pub(super) fn capacity(&self) -> usize {
        match &self.source {
            Source::Read { bytes, .. } => bytes.capacity(),
            Source::Mapped(..) => 0,
        }
    }
}
