//! From a frame's bytes to the TCP segment or ICMP error in it; nothing is copied or kept.
//!
//! IP's own length says where a payload ends, not the frame's: Ethernet pads short frames, and a
//! snap length cuts long ones.

mod icmp;
mod ip;
mod link;
mod plain;
mod tcp;
mod tunnel;

#[cfg(test)]
mod tests;

pub use plain::plain;

use super::raw::RawFrame;
use super::segment::{Frame, Segment, Unreachable};
use crate::signal::Nanos;

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    Segment(Segment<'a>),
    Unreachable(Unreachable),
    /// Understood, and not about TCP.
    Other,
    /// It may hold a TCP segment that cannot be had.
    NotUnderstood(Reason),
}

/// Why a frame is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A link layer that is not known.
    LinkType,
    /// Cut by the snap length before the end of the TCP header.
    Truncated,
    /// A header contradicts itself.
    Malformed,
    /// Part of a TCP segment: IP fragments are not put together.
    Fragment,
    /// An encapsulation that is not known, encrypted, or nested too deep.
    Tunnel,
}

impl Reason {
    pub const ALL: [Reason; 5] = [
        Reason::LinkType,
        Reason::Truncated,
        Reason::Malformed,
        Reason::Fragment,
        Reason::Tunnel,
    ];

    /// As counters name it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::LinkType => "link_type",
            Reason::Truncated => "truncated",
            Reason::Malformed => "malformed",
            Reason::Fragment => "fragment",
            Reason::Tunnel => "tunnel",
        }
    }
}

/// Decodes one frame.
#[inline]
pub fn decode<'a>(raw: &RawFrame<'a>) -> Decoded<'a> {
    match plain(raw) {
        Some(segment) => Decoded::Segment(segment),
        None => link::decode(raw.link_type, Rest::of(raw)),
    }
}

/// How many of the frame's bytes are headers up to TCP's; what follows is users' traffic. For a
/// frame that is not understood, 0.
pub fn headers(raw: &RawFrame<'_>) -> usize {
    match decode(raw) {
        Decoded::Segment(segment) if segment.payload.is_empty() => raw.data.len(),
        Decoded::Segment(segment) => segment.payload.as_ptr().addr() - raw.data.as_ptr().addr(),
        Decoded::Unreachable(unreachable) => {
            let mut quoted = [0; 8];
            quoted[..2].copy_from_slice(&unreachable.from.port().to_be_bytes());
            quoted[2..4].copy_from_slice(&unreachable.to.port().to_be_bytes());
            quoted[4..].copy_from_slice(&unreachable.seq.to_be_bytes());
            let found = raw.data.windows(quoted.len()).position(|at| at == quoted);
            found.map_or(0, |at| at + quoted.len())
        }
        Decoded::Other | Decoded::NotUnderstood(_) => 0,
    }
}

/// What is left of a frame below the layers that have been read.
#[derive(Clone, Copy)]
struct Rest<'a> {
    at: Nanos,
    frame: Frame,
    bytes: &'a [u8],
    /// Bytes on the wire, of which `bytes` are those captured.
    wire: usize,
    /// Tunnels around it.
    depth: u8,
}

impl<'a> Rest<'a> {
    fn of(raw: &RawFrame<'a>) -> Rest<'a> {
        Rest {
            at: raw.at,
            frame: raw.frame,
            bytes: raw.data,
            wire: (raw.original_length as usize).max(raw.data.len()),
            depth: 0,
        }
    }

    /// What follows a header of this length, or that it was cut off.
    fn after(self, header: usize) -> Result<Rest<'a>, Reason> {
        let bytes = self.bytes.get(header..).ok_or(Reason::Truncated)?;
        Ok(Rest {
            bytes,
            wire: self.wire.saturating_sub(header),
            ..self
        })
    }

    /// A number in network byte order.
    fn number16(&self, at: usize) -> Result<u16, Reason> {
        match self.bytes.get(at..at + 2) {
            Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
            _ => Err(Reason::Truncated),
        }
    }
}
