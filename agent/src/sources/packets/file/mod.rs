//! Capture files: pcap and pcapng, plain, gzip or zstd, from a file or any reader.
//!
//! Plain files are mapped, a window at a time (`mapped`): of a body nothing has to be copied. All
//! else is read through one buffer.

mod error;
mod input;
mod interface;
mod kind;
mod mapped;
mod pcap;
mod pcapng;
mod record;
mod scout;
mod window;
mod zstd;

#[cfg(test)]
mod tests;

pub use error::{OpenError, Problem, ReadError};
pub use input::{Input, Progress};
pub use kind::{Kind, sniff};

use std::io::Read;
use std::path::Path;

use super::raw::RawFrame;
use error::Fault;
use record::{Record, Step};
use scout::Scout;
use window::Window;

/// Frames given at once at most; then it is looked at what they made known.
pub const BATCH: usize = 1024;

/// An open capture; `next_frame` and `next_frames` give its frames in order.
#[derive(Debug)]
pub struct Capture {
    name: String,
    compressed: bool,
    window: Window,
    format: Format,
    scout: Scout,
    frames: u64,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(pcap::Pcap),
    PcapNg(pcapng::PcapNg),
}

impl Capture {
    /// Opens the capture file at `path`.
    pub fn open(path: &Path) -> Result<Capture, OpenError> {
        Capture::from_input(Input::open(path)?)
    }

    /// Reads a capture from `reader`, which messages call `name`.
    pub fn read(reader: impl Read + Send + 'static, name: &str) -> Result<Capture, OpenError> {
        Capture::from_input(Input::read(reader, name)?)
    }

    /// Goes on with an input whose kind is known.
    pub fn from_input(input: Input) -> Result<Capture, OpenError> {
        let kind = input.kind();
        let compressed = input.is_compressed();
        let name = input.name().to_owned();
        let mut window = Window::of_input(input);
        let format = match kind {
            Kind::Pcap => pcap::Pcap::open(&mut window).map(Format::Pcap),
            Kind::PcapNg => Ok(Format::PcapNg(pcapng::PcapNg::default())),
            Kind::Recording | Kind::Gzip | Kind::Zstd | Kind::Unknown => {
                return Err(OpenError::NotACapture { name, kind });
            }
        };
        match format {
            Ok(format) => Ok(Capture {
                name,
                compressed,
                window,
                format,
                scout: Scout::default(),
                frames: 0,
                ended: false,
            }),
            Err(fault) => Err(OpenError::Header(fault.named(&name, compressed, 0))),
        }
    }

    /// The next frame; after an error, which is the last thing told, `None`.
    #[inline]
    pub fn next_frame(&mut self) -> Option<Result<RawFrame<'_>, ReadError>> {
        Some(self.next_record()?.map(|record| {
            self.frames += 1;
            let data = self.window.taken(record.from, record.captured);
            record.frame(self.frames, data)
        }))
    }

    /// The next frame and those after it that are at hand; like `next_frame` otherwise.
    pub fn next_frames(&mut self) -> Option<Result<Frames<'_>, ReadError>> {
        let first = match self.next_record()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let scout = self.window.is_far().then_some(&mut self.scout);
        let (bytes, base, start) = self.window.parts();
        Some(Ok(Frames {
            scout,
            format: &mut self.format,
            bytes,
            base,
            start,
            first: Some(first),
            frames: &mut self.frames,
            left: BATCH,
        }))
    }

    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        if self.ended {
            return None;
        }
        let fault = loop {
            if self.window.is_torn() {
                break self.window.fault(Problem::Torn);
            }
            match self.format.step(self.window.held()) {
                Ok(Step::Frame(mut record)) => {
                    record.from += self.window.take(record.length);
                    return Some(Ok(record));
                }
                Ok(Step::Other(length)) => {
                    self.window.take(length);
                }
                Ok(Step::Short(length)) => match self.window.ensure(length) {
                    Ok(true) => {}
                    Ok(false) if self.window.is_torn() => {}
                    Ok(false) if self.window.held().is_empty() => {
                        self.ended = true;
                        return None;
                    }
                    Ok(false) => break self.window.fault(Problem::Truncated),
                    Err(fault) => break fault,
                },
                Err(reason) => break self.window.malformed(reason),
            }
        };
        self.ended = true;
        Some(Err(fault.named(&self.name, self.compressed, self.frames)))
    }

    /// Frames that the capturing program said it lost, so far in the file; only pcapng can say.
    pub fn dropped(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::PcapNg(format) => format.dropped(),
        }
    }

    /// The file became shorter: frames given since nobody knows when may hold what it never did.
    pub fn is_torn(&self) -> bool {
        self.window.is_torn()
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Some frames of a capture; those that are left when it is dropped come with the next ones.
pub struct Frames<'a> {
    /// Where the frames after these are still to come from memory.
    scout: Option<&'a mut Scout>,
    format: &'a mut Format,
    bytes: &'a [u8],
    /// Where the bytes begin in the file.
    base: u64,
    start: &'a mut usize,
    /// It has been read: `start` is behind it.
    first: Option<Record>,
    frames: &'a mut u64,
    left: usize,
}

impl Frames<'_> {
    /// A record that ends here was read.
    #[inline(always)]
    fn look_ahead(&mut self) {
        if let Some(scout) = &mut self.scout {
            let length = |bytes: &[u8]| self.format.length(bytes);
            scout.step(self.bytes, *self.start, self.base, length);
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = RawFrame<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<RawFrame<'a>> {
        if self.left == 0 {
            return None;
        }
        let record = match self.first.take() {
            Some(first) => first,
            // Told before what comes after it.
            None if self.format.told_loss() => {
                self.left = 0;
                return None;
            }
            None => loop {
                match self.format.step(&self.bytes[*self.start..]) {
                    Ok(Step::Frame(mut record)) => {
                        record.from += *self.start;
                        *self.start += record.length;
                        self.look_ahead();
                        break record;
                    }
                    Ok(Step::Other(length)) => {
                        *self.start += length;
                        self.look_ahead();
                    }
                    // The next reading goes on, or finds the damage again.
                    Ok(Step::Short(_)) | Err(_) => {
                        self.left = 0;
                        return None;
                    }
                }
            },
        };
        self.left -= 1;
        *self.frames += 1;
        let data = &self.bytes[record.from..record.from + record.captured];
        Some(record.frame(*self.frames, data))
    }
}

impl Format {
    #[inline]
    fn told_loss(&mut self) -> bool {
        match self {
            Format::Pcap(_) => false,
            Format::PcapNg(format) => format.told_loss(),
        }
    }

    #[inline(always)]
    fn length(&self, held: &[u8]) -> Option<usize> {
        match self {
            Format::Pcap(format) => format.length(held),
            Format::PcapNg(format) => format.length(held),
        }
    }

    #[inline(always)]
    fn step(&mut self, held: &[u8]) -> Result<Step, String> {
        match self {
            Format::Pcap(format) => format.step(held),
            Format::PcapNg(format) => format.step(held),
        }
    }
}

impl Fault {
    #[cold]
    fn named(self, name: &str, decompressed: bool, frames: u64) -> ReadError {
        ReadError {
            name: name.to_owned(),
            offset: self.offset,
            decompressed,
            frames,
            problem: self.problem,
        }
    }
}
