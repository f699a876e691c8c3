//! The annotated capture of `--pcap`: the packets of failed exchanges, with comments that Wireshark
//! and `tshark -T fields -e frame.comment` show in place.
//!
//! Unless a person asks for payload, only request and status lines are in it. Checksums stay as
//! they were captured, so that they tell of the original; the file's own comment says so.

pub mod comments;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use super::create_private;
use super::privacy::Privacy;
use super::redact::{Shown, head_line, hide_addresses};
use crate::signal::Nanos;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const RESOLUTION: u16 = 9;
const NANOSECONDS: u8 = 9;
/// A longer comment is cut: options have 16 bits for their length.
const LONGEST_COMMENT: usize = 16 * 1024;
const LINK_TYPE_LIMIT: &str = "more interfaces than a capture can have";

const REDACTED: &str = "Payload beyond request and status lines is cut, and queries are overwritten \
    with x at equal length. Checksums are as they were captured, so they do not match what was \
    overwritten.";
const HIDDEN: &str =
    "Clients' addresses are cut to their networks or to zeros, hardware addresses to zeros.";
const WHOLE: &str = "Payload is as it was captured.";

/// What of users' traffic is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redaction {
    /// Request lines without query, status lines; of paths what this level shows.
    Lines(Privacy),
    /// Everything: a person said `--with-payload`.
    WithPayload,
}

/// A frame and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Annotated<'a> {
    pub at: Nanos,
    pub interface: u32,
    /// The registered link-layer type.
    pub link_type: u16,
    pub original_length: u32,
    pub data: &'a [u8],
    /// Bytes of headers before users' traffic.
    pub headers: usize,
    /// A request's or a response's head begins with the payload.
    pub begins_head: bool,
    /// The client's address, which only `--privacy full` shows whole.
    pub client: Option<IpAddr>,
    pub comments: &'a [String],
}

/// Writes a pcapng file.
#[derive(Debug)]
pub struct AnnotatedCapture<W> {
    output: W,
    redaction: Redaction,
    /// Interfaces written so far, by their number and link type; the index is the file's number.
    interfaces: Vec<(u32, u16)>,
    block: Vec<u8>,
}

impl AnnotatedCapture<BufWriter<File>> {
    /// Creates the file, which only its owner may read.
    pub fn create(path: &Path, redaction: Redaction) -> anyhow::Result<Self> {
        let file = create_private(path)?;
        AnnotatedCapture::new(BufWriter::new(file), redaction)
            .with_context(|| format!("write {}", path.display()))
    }
}

impl<W: Write> AnnotatedCapture<W> {
    pub fn new(output: W, redaction: Redaction) -> io::Result<AnnotatedCapture<W>> {
        let mut capture = AnnotatedCapture {
            output,
            redaction,
            interfaces: Vec::new(),
            block: Vec::new(),
        };
        capture.section()?;
        Ok(capture)
    }

    /// Writes one frame. Times may step back; readers allow it.
    pub fn write(&mut self, frame: &Annotated<'_>) -> io::Result<()> {
        let interface = self.interface(frame.interface, frame.link_type)?;
        let headers = frame.headers.min(frame.data.len());
        let (headers, payload) = frame.data.split_at(headers);
        let shown = match self.redaction {
            Redaction::WithPayload => Shown {
                keep: payload.len(),
                blank: Vec::new(),
            },
            Redaction::Lines(privacy) if frame.begins_head => head_line(payload, privacy),
            Redaction::Lines(_) => Shown::default(),
        };
        let captured = headers.len() + shown.keep;
        let original = (frame.original_length as usize).max(frame.data.len());
        self.begin(PACKET);
        self.number(interface);
        self.number((frame.at >> 32) as u32);
        self.number(frame.at as u32);
        self.number(u32::try_from(captured).map_err(io::Error::other)?);
        self.number(u32::try_from(original).map_err(io::Error::other)?);
        let start = self.block.len();
        self.block.extend(headers);
        if let Redaction::Lines(privacy) = self.redaction {
            hide_addresses(
                &mut self.block[start..],
                frame.link_type,
                frame.client,
                privacy,
            );
        }
        let start = self.block.len();
        self.block.extend(&payload[..shown.keep]);
        for range in shown.blank {
            self.block[start + range.start..start + range.end].fill(b'x');
        }
        self.pad();
        if !frame.comments.is_empty() {
            for comment in frame.comments {
                self.option(COMMENT, comment.as_bytes());
            }
            self.number(0);
        }
        self.end()
    }

    /// Writes out what is buffered.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn section(&mut self) -> io::Result<()> {
        self.begin(SECTION);
        self.number(0x1a2b_3c4d);
        self.number(1);
        // Its length is not known.
        self.number(u32::MAX);
        self.number(u32::MAX);
        let comment = match self.redaction {
            Redaction::Lines(_) => REDACTED,
            Redaction::WithPayload => WHOLE,
        };
        self.option(COMMENT, comment.as_bytes());
        if matches!(self.redaction, Redaction::Lines(privacy) if privacy != Privacy::Full) {
            self.option(COMMENT, HIDDEN.as_bytes());
        }
        let application = concat!("why502 ", env!("CARGO_PKG_VERSION"));
        self.option(APPLICATION, application.as_bytes());
        self.number(0);
        self.end()
    }

    /// The file's number of this interface, described when it is first needed.
    fn interface(&mut self, interface: u32, link_type: u16) -> io::Result<u32> {
        let wanted = (interface, link_type);
        let known = self.interfaces.iter().position(|known| *known == wanted);
        if known.is_none() {
            self.begin(INTERFACE);
            self.number(u32::from(link_type));
            self.number(0);
            self.option(RESOLUTION, &[NANOSECONDS]);
            self.number(0);
            self.end()?;
            self.interfaces.push(wanted);
        }
        let index = known.unwrap_or(self.interfaces.len() - 1);
        u32::try_from(index).map_err(|_| io::Error::other(LINK_TYPE_LIMIT))
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.number(kind);
        // Its length, known at the end.
        self.number(0);
    }

    /// A number in the file's byte order, little-endian.
    fn number(&mut self, number: u32) {
        self.block.extend(number.to_le_bytes());
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = cut(value);
        self.block.extend(code.to_le_bytes());
        self.block.extend((value.len() as u16).to_le_bytes());
        self.block.extend(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn end(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.block.len() + 4).map_err(io::Error::other)?;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.number(length);
        self.output.write_all(&self.block)
    }
}

/// At most `LONGEST_COMMENT` bytes of a text, cut between characters.
fn cut(text: &[u8]) -> &[u8] {
    if text.len() <= LONGEST_COMMENT {
        return text;
    }
    let continues = |byte: &u8| byte & 0xc0 == 0x80;
    let mut end = LONGEST_COMMENT;
    while end > 0 && continues(&text[end]) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
