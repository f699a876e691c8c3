//! Capture files: pcap and pcapng, plain, gzip or zstd, from a file or any reader.
//!
//! Read through one buffer rather than a memory map: it costs no more (see `cargo xtask bench
//! offline`), works for pipes, counts little memory, and a file that shrinks meanwhile is an end
//! and not a fatal signal.

mod error;
mod input;
mod interface;
mod kind;
mod pcap;
mod pcapng;
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
use window::Window;

/// An open capture; `next_frame` gives its frames in order.
#[derive(Debug)]
pub struct Capture {
    name: String,
    compressed: bool,
    window: Window,
    format: Format,
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
        let mut window = Window::new(Box::new(input));
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
                frames: 0,
                ended: false,
            }),
            Err(fault) => Err(OpenError::Header(fault.named(&name, compressed, 0))),
        }
    }

    /// The next frame; after an error, which is the last thing told, `None`.
    #[inline]
    pub fn next_frame(&mut self) -> Option<Result<RawFrame<'_>, ReadError>> {
        if self.ended {
            return None;
        }
        let number = self.frames + 1;
        let next = match &mut self.format {
            Format::Pcap(format) => format.next(&mut self.window, number),
            Format::PcapNg(format) => format.next(&mut self.window, number),
        };
        match next {
            Ok(Some(frame)) => {
                self.frames = number;
                Some(Ok(frame))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(fault) => {
                self.ended = true;
                Some(Err(fault.named(&self.name, self.compressed, self.frames)))
            }
        }
    }

    /// Frames that the capturing program said it lost, so far in the file; only pcapng can say.
    pub fn dropped(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::PcapNg(format) => format.dropped(),
        }
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.name
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
