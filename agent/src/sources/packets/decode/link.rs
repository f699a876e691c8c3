//! Link layers, down to IP.

use etherparse::EtherType;

use super::super::raw::LinkType;
use super::{Decoded, Reason, Rest, ip};

pub(super) const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
pub(super) const LINUX_SLL_HEADER: usize = 16;
pub(super) const LINUX_SLL2_HEADER: usize = 20;
const PPPOE_SESSION: EtherType = EtherType(0x8864);
const MPLS: EtherType = EtherType(0x8847);

/// The general way, for every kind of frame.
#[cold]
pub(super) fn decode(link_type: LinkType, rest: Rest<'_>) -> Decoded<'_> {
    let decoded = match link_type {
        LinkType::ETHERNET => ethernet(rest),
        LinkType::LINUX_SLL => typed(rest, LINUX_SLL_HEADER - 2, LINUX_SLL_HEADER),
        LinkType::LINUX_SLL2 => typed(rest, 0, LINUX_SLL2_HEADER),
        LinkType::RAW
        | LinkType::RAW_BSD
        | LinkType::RAW_OPENBSD
        | LinkType::IPV4
        | LinkType::IPV6 => ip::decode(rest),
        LinkType::NULL | LinkType::LOOP => loopback(rest),
        _ => Err(Reason::LinkType),
    };
    decoded.unwrap_or_else(Decoded::NotUnderstood)
}

pub(super) fn ethernet(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    typed(rest, ETHERNET_HEADER - 2, ETHERNET_HEADER)
}

/// A header that has the payload's type at `at`.
fn typed(rest: Rest<'_>, at: usize, header: usize) -> Result<Decoded<'_>, Reason> {
    let ether_type = EtherType(rest.number16(at)?);
    network(ether_type, rest.after(header)?)
}

/// What an Ethernet type announces, with VLAN tags before it.
pub(super) fn network(
    mut ether_type: EtherType,
    mut rest: Rest<'_>,
) -> Result<Decoded<'_>, Reason> {
    loop {
        match ether_type {
            EtherType::IPV4 | EtherType::IPV6 => return ip::decode(rest),
            EtherType::VLAN_TAGGED_FRAME
            | EtherType::PROVIDER_BRIDGING
            | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
                ether_type = EtherType(rest.number16(VLAN_TAG - 2)?);
                rest = rest.after(VLAN_TAG)?;
            }
            PPPOE_SESSION | MPLS | EtherType::MACSEC => return Err(Reason::Tunnel),
            _ => return Ok(Decoded::Other),
        }
    }
}

/// The address family is a word in the byte order of the capturing host, or of the network; IPv6
/// has another number on each system.
fn loopback(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    const IPV4: u32 = 2;
    const IPV6: [u32; 5] = [10, 23, 24, 28, 30];
    let family = match rest.bytes {
        // A family is a small number, so the byte order shows.
        &[0, 0, 0, low, ..] => low,
        &[low, 0, 0, 0, ..] => low,
        [_, _, _, _, ..] => return Ok(Decoded::Other),
        _ => return Err(Reason::Truncated),
    };
    let family = u32::from(family);
    if family == IPV4 || IPV6.contains(&family) {
        return ip::decode(rest.after(4)?);
    }
    Ok(Decoded::Other)
}
