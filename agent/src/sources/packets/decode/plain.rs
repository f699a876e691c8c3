//! What nearly every frame is, taken apart without the general way's cost: IPv4 without options,
//! whole, with TCP.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, IpNumber};

use super::super::raw::{LinkType, RawFrame};
use super::super::segment::{Flags, Segment};
use super::{link, tcp};

const IP_HEADER: usize = 20;
const BOTH_HEADERS: usize = IP_HEADER + tcp::SMALLEST_HEADER;

/// The segment of such a frame; anything else is left to `decode`, which takes these frames too.
#[inline(always)]
pub fn plain<'a>(raw: &RawFrame<'a>) -> Option<Segment<'a>> {
    const VERSION_AND_LENGTH: u8 = 0x45;
    let packet = network(raw)?;
    let header = packet.first_chunk::<BOTH_HEADERS>()?;
    let number16 = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let number32 = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let end = |at: usize, port: usize| {
        let ip = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        SocketAddr::new(IpAddr::from(ip), number16(port))
    };
    let fragmented = number16(6) & 0x3fff != 0;
    if header[0] != VERSION_AND_LENGTH || header[9] != IpNumber::TCP.0 || fragmented {
        return None;
    }
    let whole = usize::from(number16(2));
    let headers = IP_HEADER + usize::from(header[IP_HEADER + 12] >> 4) * 4;
    if headers < BOTH_HEADERS || headers > whole {
        return None;
    }
    let captured = packet.len().min(whole);
    Some(Segment {
        at: raw.at,
        frame: raw.frame,
        from: end(12, IP_HEADER),
        to: end(16, IP_HEADER + 2),
        seq: number32(IP_HEADER + 4),
        ack: number32(IP_HEADER + 8),
        flags: Flags(header[IP_HEADER + 13]),
        window: number16(IP_HEADER + 14),
        length: (whole - headers) as u32,
        payload: packet.get(headers..captured).unwrap_or_default(),
    })
}

/// The IP packet of a frame that says that it is IPv4.
#[inline(always)]
fn network<'a>(raw: &RawFrame<'a>) -> Option<&'a [u8]> {
    let (ether_type, header) = match raw.link_type {
        LinkType::ETHERNET => (link::ETHERNET_HEADER - 2, link::ETHERNET_HEADER),
        LinkType::LINUX_SLL => (link::LINUX_SLL_HEADER - 2, link::LINUX_SLL_HEADER),
        LinkType::LINUX_SLL2 => (0, link::LINUX_SLL2_HEADER),
        LinkType::RAW | LinkType::IPV4 => return Some(raw.data),
        _ => return None,
    };
    let (link, packet) = raw.data.split_at_checked(header)?;
    let announced = u16::from_be_bytes([link[ether_type], link[ether_type + 1]]);
    (EtherType(announced) == EtherType::IPV4).then_some(packet)
}
