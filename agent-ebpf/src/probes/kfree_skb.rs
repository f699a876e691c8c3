//! `skb:kfree_skb`: packets that a filter on this host dropped (netfilter: iptables, nftables).
//!
//! `void kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk)`;
//! the reason is there from 5.17, without it this probe does not load.

use agent_ebpf::Filtered;
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{maps::FILTERED, offset, packet};

#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let reason: i32 = ctx.arg(2);
    if reason as u32 != offset!(netfilter_drop) {
        return 0;
    }
    let skb: *const u8 = ctx.arg(0);
    let Some(way) = packet::way(skb as u64) else {
        return 0;
    };
    let key = way.to;
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
