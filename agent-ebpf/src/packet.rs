//! What a packet's own headers say.

use agent_ebpf::Way;

use crate::{
    field,
    kernel::{AF_INET, AF_INET6, read, zero},
};

const TCP: u8 = 6;

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
