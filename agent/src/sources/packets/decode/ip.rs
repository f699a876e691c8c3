//! IPv4 with options, IPv6 with extension headers.

use std::net::IpAddr;

use etherparse::{IpNumber, LaxIpSlice};

use super::{Decoded, Reason, Rest, icmp, tcp, tunnel};

/// Who speaks to whom.
pub(super) struct Ends {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

pub(super) fn decode(rest: Rest<'_>) -> Result<Decoded<'_>, Reason> {
    let packet = slice(rest)?;
    let Packet {
        protocol,
        ends,
        payload,
        fragmented,
    } = packet;
    let relevant = matches!(
        protocol,
        IpNumber::TCP | IpNumber::IPV4 | IpNumber::IPV6 | IpNumber::GRE
    );
    if fragmented && relevant {
        return Err(Reason::Fragment);
    }
    match protocol {
        IpNumber::TCP => tcp::decode(ends, payload),
        IpNumber::ICMP | IpNumber::IPV6_ICMP if !fragmented => {
            Ok(icmp::decode(protocol, ends.from, payload))
        }
        IpNumber::UDP if !fragmented => tunnel::udp(payload),
        IpNumber::IPV4 | IpNumber::IPV6 => tunnel::ip(payload),
        IpNumber::GRE => tunnel::gre(payload),
        // Encrypted, or compressed.
        IpNumber::ENCAPSULATING_SECURITY_PAYLOAD | IpNumber::IP_COMP => Err(Reason::Tunnel),
        _ => Ok(Decoded::Other),
    }
}

/// An IP packet taken apart.
pub(super) struct Packet<'a> {
    pub(super) protocol: IpNumber,
    pub(super) ends: Ends,
    pub(super) payload: Rest<'a>,
    pub(super) fragmented: bool,
}

pub(super) fn slice(rest: Rest<'_>) -> Result<Packet<'_>, Reason> {
    use etherparse::err::ip::LaxHeaderSliceError as Error;
    let (packet, stopped) = LaxIpSlice::from_slice(rest.bytes).map_err(|error| match error {
        Error::Len(_) => Reason::Truncated,
        Error::Content(_) => Reason::Malformed,
    })?;
    if stopped.is_some() {
        return Err(Reason::Truncated);
    }
    let (header, told) = match &packet {
        LaxIpSlice::Ipv4(packet) => (
            packet.header().slice().len(),
            usize::from(packet.header().total_len()),
        ),
        LaxIpSlice::Ipv6(packet) => {
            let header = packet.header().slice().len();
            match usize::from(packet.header().payload_length()) {
                0 => (header, 0),
                length => (header, header + length),
            }
        }
    };
    // Hosts capture large sends before the network card cuts them, some with no length yet.
    let length = match told {
        0 => rest.wire,
        told if told < header => return Err(Reason::Malformed),
        told => told,
    };
    let carried = packet.payload();
    let skipped = carried.payload.as_ptr().addr() - rest.bytes.as_ptr().addr();
    let wire = length.checked_sub(skipped).ok_or(Reason::Malformed)?;
    Ok(Packet {
        protocol: carried.ip_number,
        ends: Ends {
            from: packet.source_addr().to_canonical(),
            to: packet.destination_addr().to_canonical(),
        },
        payload: Rest {
            bytes: &carried.payload[..carried.payload.len().min(wire)],
            wire,
            ..rest
        },
        fragmented: carried.fragmented,
    })
}
