//! IP within IP, GRE and VXLAN.

use etherparse::EtherType;

use super::{Decoded, Reason, Rest, ip, link};

/// Tunnels within tunnels that are followed.
const DEEPEST: u8 = 4;
/// The registered port, and the one that Linux used before and some overlays still do.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;
const UDP_HEADER: usize = 8;
const VXLAN_HEADER: usize = 8;

#[cold]
pub(super) fn ip(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    ip::decode(deeper(rest)?)
}

#[cold]
pub(super) fn gre(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const BRIDGED_ETHERNET: EtherType = EtherType(0x6558);
    let flags = rest.number16(0)?;
    // Version 0 without source routing.
    if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
        return Err(Reason::Tunnel);
    }
    let fields = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
    let inner = deeper(rest.after(4 + 4 * fields)?)?;
    match EtherType(rest.number16(2)?) {
        BRIDGED_ETHERNET => link::ethernet(inner),
        EtherType::IPV4 | EtherType::IPV6 => ip::decode(inner),
        _ => Err(Reason::Tunnel),
    }
}

/// Most of UDP is no tunnel.
pub(super) fn udp(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    const VALID_NETWORK: u8 = 0x08;
    let Ok(port) = rest.number16(2) else {
        return Ok(Decoded::Other);
    };
    if port == GENEVE_PORT {
        return Err(Reason::Tunnel);
    }
    if !VXLAN_PORTS.contains(&port) || rest.bytes.get(UDP_HEADER) != Some(&VALID_NETWORK) {
        return Ok(Decoded::Other);
    }
    link::ethernet(deeper(rest.after(UDP_HEADER + VXLAN_HEADER)?)?)
}

fn deeper(rest: Rest<'_>) -> Result<Rest<'_>, Reason> {
    if rest.depth == DEEPEST {
        return Err(Reason::Tunnel);
    }
    Ok(Rest {
        depth: rest.depth + 1,
        ..rest
    })
}
