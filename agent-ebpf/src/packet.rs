//! What a packet's own headers say.

use agent_ebpf::Way;

use crate::{
    field,
    kernel::{AF_INET, AF_INET6, read, zero},
};

const TCP: u8 = 6;

/// How many bytes of data this TCP packet carries, and what it acknowledges.
#[inline(always)]
pub fn data(skb: u64) -> (u32, u32) {
    let header = field!(skb, skb_head, u64) + u64::from(field!(skb, skb_network_header, u16));
    let first = read::<u8>(header, 0);
    let (all, tcp) = match first >> 4 {
        4 => (
            u32::from(u16::from_be(read::<u16>(header, 2))),
            u32::from(first & 15) * 4,
        ),
        _ => (40 + u32::from(u16::from_be(read::<u16>(header, 4))), 40),
    };
    let options = u32::from(read::<u8>(header, tcp + 12) >> 4) * 4;
    let acknowledged = u32::from_be(read::<u32>(header, tcp + 8));
    (all.saturating_sub(tcp + options), acknowledged)
}

/// Where this TCP packet comes from and is going.
#[inline(always)]
pub fn way(skb: u64) -> Option<Way> {
    let header = field!(skb, skb_head, u64) + u64::from(field!(skb, skb_network_header, u16));
    let mut way: Way = zero();
    let to = &mut way.to;
    let first = read::<u8>(header, 0);
    if first >> 4 == 4 {
        if read::<u8>(header, 9) != TCP {
            return None;
        }
        to.family = AF_INET;
        way.from[..4].copy_from_slice(&read::<[u8; 4]>(header, 12));
        to.address[..4].copy_from_slice(&read::<[u8; 4]>(header, 16));
        let tcp = u32::from(first & 15) * 4;
        to.from_port = u16::from_be(read::<u16>(header, tcp));
        to.port = u16::from_be(read::<u16>(header, tcp + 2));
    } else {
        // Extension headers are not walked: a SYN has none as a rule.
        if first >> 4 != 6 || read::<u8>(header, 6) != TCP {
            return None;
        }
        to.family = AF_INET6;
        way.from = read::<[u8; 16]>(header, 8);
        to.address = read::<[u8; 16]>(header, 24);
        to.from_port = u16::from_be(read::<u16>(header, 40));
        to.port = u16::from_be(read::<u16>(header, 40 + 2));
    }
    Some(way)
}
