//! `skb:kfree_skb`: packets that a filter on this host dropped (netfilter: iptables, nftables).
//!
//! `void kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk)`;
//! the reason is there from 5.17, without it this probe does not load.

use agent_ebpf::{Destination, Filtered};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    field,
    kernel::{AF_INET, AF_INET6, read},
    maps::FILTERED,
    offset,
};

const TCP: u8 = 6;

#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let reason: i32 = ctx.arg(2);
    if reason as u32 != offset!(netfilter_drop) {
        return 0;
    }
    let skb: *const u8 = ctx.arg(0);
    let skb = skb as u64;
    let header = field!(skb, skb_head, u64) + u64::from(field!(skb, skb_network_header, u16));
    let mut key = Destination {
        address: [0; 16],
        family: 0,
        port: 0,
        from_port: 0,
    };
    let first = read::<u8>(header, 0);
    if first >> 4 == 4 {
        if read::<u8>(header, 9) != TCP {
            return 0;
        }
        key.family = AF_INET;
        key.address[..4].copy_from_slice(&read::<[u8; 4]>(header, 16));
        let tcp = u32::from(first & 15) * 4;
        key.from_port = u16::from_be(read::<u16>(header, tcp));
        key.port = u16::from_be(read::<u16>(header, tcp + 2));
    } else {
        // Extension headers are not walked: a SYN has none as a rule.
        if first >> 4 != 6 || read::<u8>(header, 6) != TCP {
            return 0;
        }
        key.family = AF_INET6;
        key.address = read::<[u8; 16]>(header, 24);
        key.from_port = u16::from_be(read::<u16>(header, 40));
        key.port = u16::from_be(read::<u16>(header, 40 + 2));
    }
    // SAFETY: no arguments.
    let last_ns = unsafe { bpf_ktime_get_ns() };
    match FILTERED.get_ptr_mut(key) {
        // SAFETY: a map value; a lost count is one packet.
        Some(found) => unsafe {
            (*found).last_ns = last_ns;
            (*found).count += 1;
        },
        None => {
            let _ = FILTERED.insert(key, Filtered { last_ns, count: 1 }, 0);
        }
    }
    0
}
