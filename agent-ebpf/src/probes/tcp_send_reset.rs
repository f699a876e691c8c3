//! `tcp:tcp_send_reset`: a kernel on this host answers a packet with a reset.
//!
//! `void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)`,
//! 4.15 (reason from 6.10). `sk` may be null: the socket may be gone, which is why the packet tells
//! whose reset it is. Without a packet it is the close itself that resets: `inet_sock_set_state` sees it.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{kernel, late, offset, packet, resets};

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let skb: *const u8 = ctx.arg(1);
    // As a number: older verifiers do not believe that it may be null.
    let skb = kernel::address(skb);
    if skb != 0
        && let Some(way) = packet::way(skb)
    {
        let mut reason = 0;
        if offset!(reset_reasons) == 1 {
            let number: u32 = ctx.arg(2);
            reason = u64::from(number) + 1;
        }
        late::came(skb, &way);
        resets::sent(way, reason);
    }
    0
}
