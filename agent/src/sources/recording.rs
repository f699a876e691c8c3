//! Reads recordings: the signals of an earlier run, one per line.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::clock::Clock;
use crate::signal::Signal;
use crate::sinks::record::{FORMAT, Header};

/// No signal is longer; a longer line is not a recording's.
const MAX_LINE: u64 = 1024 * 1024;

/// An open recording; iterate over it for its signals.
#[derive(Debug)]
pub struct Recording<R> {
    input: R,
    name: String,
    header: Header,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

/// Why there is no further signal.
#[derive(Debug)]
pub enum ReadError {
    /// The last line is not whole: the writer was stopped. All before it is good.
    Truncated {
        name: String,
        line: u64,
    },
    /// Not a recording, or a damaged one.
    Malformed {
        name: String,
        line: u64,
        reason: String,
    },
    /// Written by a later version in a format that this one does not know.
    Newer {
        name: String,
        format: u32,
        version: String,
    },
    Io {
        name: String,
        error: io::Error,
    },
}

impl ReadError {
    /// Whether everything that was written whole has been read.
    pub fn is_truncation(&self) -> bool {
        matches!(self, ReadError::Truncated { .. })
    }
}

impl<R: BufRead> Recording<R> {
    /// Reads the first line. `name` is for messages.
    pub fn open(input: R, name: &str) -> Result<Recording<R>, ReadError> {
        let mut recording = Recording {
            input,
            name: name.to_owned(),
            header: Header::new(Clock::from_offset(0), ""),
            line: 0,
            buffer: Vec::new(),
            ended: false,
        };
        if !recording.read_line()? {
            return Err(recording.malformed("it is empty".to_owned()));
        }
        // The format first: a later one may have another header.
        let format = serde_json::from_slice::<serde_json::Value>(&recording.buffer)
            .ok()
            .and_then(|header| header.get("why502_recording")?.as_u64().zip(Some(header)));
        let Some((format, header)) = format else {
            return Err(recording.malformed(
                "not a recording: it does not begin with {\"why502_recording\":…}".to_owned(),
            ));
        };
        if format > u64::from(FORMAT) {
            return Err(ReadError::Newer {
                name: recording.name,
                format: u32::try_from(format).unwrap_or(u32::MAX),
                version: header["version"].as_str().unwrap_or("unknown").to_owned(),
            });
        }
        recording.header = serde_json::from_value(header)
            .map_err(|error| recording.malformed(format!("its header: {error}")))?;
        Ok(recording)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The recorded host's clock.
    pub fn clock(&self) -> Clock {
        Clock::from_offset(self.header.clock_offset_ns)
    }

    fn next_signal(&mut self) -> Result<Option<Signal>, ReadError> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        match serde_json::from_slice(&self.buffer) {
            Ok(signal) => Ok(Some(signal)),
            Err(_) if self.buffer.last() != Some(&b'\n') => Err(ReadError::Truncated {
                name: self.name.clone(),
                line: self.line,
            }),
            Err(error) => Err(self.malformed(error.to_string())),
        }
    }

    /// The next line with its end into the buffer; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        self.buffer.clear();
        self.line += 1;
        let read = self
            .input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| ReadError::Io {
                name: self.name.clone(),
                error,
            })?;
        if read as u64 == MAX_LINE && self.buffer.last() != Some(&b'\n') {
            return Err(self.malformed("longer than any signal".to_owned()));
        }
        Ok(read > 0)
    }

    fn malformed(&self, reason: String) -> ReadError {
        ReadError::Malformed {
            name: self.name.clone(),
            line: self.line,
            reason,
        }
    }
}

impl<R: BufRead> Iterator for Recording<R> {
    type Item = Result<Signal, ReadError>;

    /// Ends after the first error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_signal().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Truncated { name, line } => write!(
                f,
                "{name}: line {line} is cut off, as when the recording was interrupted; all lines before it were read"
            ),
            ReadError::Malformed { name, line, reason } => {
                write!(f, "{name}: line {line}: {reason}")
            }
            ReadError::Newer {
                name,
                format,
                version,
            } => write!(
                f,
                "{name}: recording format {format}, written by why502 {version}; this one reads up to {FORMAT}: use that version or a later one"
            ),
            ReadError::Io { name, error } => write!(f, "{name}: {error}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
