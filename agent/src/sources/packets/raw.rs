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
