//! What a decoded frame tells: one TCP segment, or one ICMP error about a TCP segment.

use std::net::{IpAddr, SocketAddr};

use crate::signal::Nanos;

/// TCP header flags, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;

    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
    pub fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
    pub fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Neither begins nor ends anything.
    #[inline]
    pub fn only_acknowledge(self) -> bool {
        const ALL: u8 = Flags::SYN | Flags::FIN | Flags::RST | Flags::ACK;
        self.0 & ALL == Self::ACK
    }
}

/// One TCP segment as captured. Addresses of IPv4 in IPv6 are IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Nanoseconds since 1970, by the capture's clock, which may step back.
    pub at: Nanos,
    pub frame: Frame,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: Flags,
    /// As in the header, not scaled.
    pub window: u16,
    /// Payload bytes as sent; `payload` has fewer where the capture's snap length cut them.
    pub length: u32,
    pub payload: &'a [u8],
}

/// Which frame of which interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From 1, in the order of the capture, as Wireshark numbers them.
    pub number: u64,
    pub interface: u32,
}

/// An ICMP error that quotes a TCP segment: a host or port could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    pub at: Nanos,
    pub frame: Frame,
    /// Who says so.
    pub router: IpAddr,
    /// The quoted segment's ends.
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The quoted segment's sequence number.
    pub seq: u32,
    /// The errno that the kernel makes of it (`EHOSTUNREACH` 113, `ENETUNREACH` 101, `ECONNREFUSED` 111).
    pub errno: i32,
}
