//! What can be wrong with a capture file, and where.

use std::{fmt, io};

use super::Kind;

/// Why a file cannot be read as a capture at all.
#[derive(Debug)]
pub enum OpenError {
    Io {
        name: String,
        error: io::Error,
    },
    Empty {
        name: String,
    },
    NotACapture {
        name: String,
        kind: Kind,
    },
    /// It begins as a capture does, and its header is damaged.
    Header(ReadError),
}

/// Why there are no further frames, though the file should have some. All frames before are good.
#[derive(Debug)]
pub struct ReadError {
    pub name: String,
    /// Bytes from the beginning to the record that cannot be read.
    pub offset: u64,
    /// The offset counts decompressed bytes.
    pub decompressed: bool,
    /// Frames read before.
    pub frames: u64,
    pub problem: Problem,
}

#[derive(Debug)]
pub enum Problem {
    /// The file ends within a record, as when its writer was stopped.
    Truncated,
    /// Somebody made the file shorter while it was read, or it cannot be read any more.
    Torn,
    Malformed(String),
    Io(io::Error),
}

/// A problem and its offset, before the file's name is added.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: u64,
    pub(super) problem: Problem,
}

impl ReadError {
    pub fn is_truncation(&self) -> bool {
        matches!(self.problem, Problem::Truncated)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { name, error } => write!(f, "{name}: {error}"),
            OpenError::Empty { name } => write!(f, "{name}: it is empty"),
            OpenError::NotACapture {
                name,
                kind: Kind::Gzip | Kind::Zstd,
            } => write!(f, "{name}: compressed twice; decompress it once"),
            OpenError::NotACapture {
                name,
                kind: Kind::Recording,
            } => write!(f, "{name}: a recording, not a packet capture"),
            OpenError::NotACapture { name, .. } => write!(
                f,
                "{name}: neither a packet capture (pcap, pcapng; plain, gzip or zstd) nor a recording"
            ),
            OpenError::Header(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { error, .. } => Some(error),
            OpenError::Header(error) => error.source(),
            OpenError::Empty { .. } | OpenError::NotACapture { .. } => None,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.decompressed {
            "decompressed byte"
        } else {
            "byte"
        };
        write!(f, "{}: {what} {}: ", self.name, self.offset)?;
        match &self.problem {
            Problem::Truncated => f.write_str(
                "the file ends within the record that begins there, as when the capture was interrupted",
            )?,
            Problem::Torn => f.write_str(
                "the file became shorter while it was read, or its disk failed; explain a copy of it",
            )?,
            Problem::Malformed(reason) => f.write_str(reason)?,
            Problem::Io(error) => error.fmt(f)?,
        }
        match self.frames {
            0 => Ok(()),
            1 => f.write_str("; the frame before it was read"),
            frames => write!(f, "; the {frames} frames before it were read"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Truncated | Problem::Torn | Problem::Malformed(_) => None,
        }
    }
}
