//! A frame as captured, before anything in it is understood.

use super::segment::Frame;
use crate::signal::Nanos;

/// What a frame begins with: the registered link-layer type (`LINKTYPE_…`), which every capture
/// format shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: the address family in the capturing host's byte order.
    pub const NULL: LinkType = LinkType(0);
    pub const ETHERNET: LinkType = LinkType(1);
    /// Raw IP as three systems number it in files that they wrote without translation.
    pub const RAW_BSD: LinkType = LinkType(12);
    pub const RAW_OPENBSD: LinkType = LinkType(14);
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: the address family in network byte order.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux cooked capture, version 1 and 2.
    pub const LINUX_SLL: LinkType = LinkType(113);
    pub const LINUX_SLL2: LinkType = LinkType(276);
    pub const IPV4: LinkType = LinkType(228);
    pub const IPV6: LinkType = LinkType(229);
}

/// One frame of a capture file or a live capture.
#[derive(Clone, Copy, Debug)]
pub struct RawFrame<'a> {
    /// Nanoseconds since 1970, by the capture's clock, which may step back.
    pub at: Nanos,
    pub frame: Frame,
    pub link_type: LinkType,
    /// Bytes on the wire; `data` has fewer where the snap length cut them.
    pub original_length: u32,
    pub data: &'a [u8],
}

/// A frame with bytes of its own.
#[derive(Clone, Debug)]
pub struct OwnedFrame {
    at: Nanos,
    frame: Frame,
    link_type: LinkType,
    original_length: u32,
    data: Vec<u8>,
}

impl OwnedFrame {
    /// The same frame, its bytes in a buffer that is no longer needed.
    pub fn new(raw: &RawFrame<'_>, mut buffer: Vec<u8>) -> OwnedFrame {
        buffer.clear();
        buffer.extend_from_slice(raw.data);
        OwnedFrame {
            at: raw.at,
            frame: raw.frame,
            link_type: raw.link_type,
            original_length: raw.original_length,
            data: buffer,
        }
    }

    pub fn as_raw(&self) -> RawFrame<'_> {
        RawFrame {
            at: self.at,
            frame: self.frame,
            link_type: self.link_type,
            original_length: self.original_length,
            data: &self.data,
        }
    }

    pub fn into_buffer(self) -> Vec<u8> {
        self.data
    }
}
