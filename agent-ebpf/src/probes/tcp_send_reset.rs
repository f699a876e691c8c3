//! `tcp:tcp_send_reset`: this host's upstream answered a proxy's connection with a reset.
//!
//! `void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)`,
//! 4.15 (reason from 6.10). `sk` may be null, which older verifiers do not believe.

use agent_ebpf::{flow_flag, peer_reset};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{flow, kernel, maps::UPSTREAM_ENDS, offset};

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let Some(peer) = UPSTREAM_ENDS.get(kernel::address(sk)) else {
        return 0;
    };
    // SAFETY: a map value, written once.
    let peer = unsafe { *peer };
    if let Some(flow) = flow::of(peer.sk, peer.cookie) {
        if flow.flags & flow_flag::PEER_SENT_RESET == 0 {
            flow.flags |= flow_flag::PEER_SENT_RESET;
            flow.peer_reset = peer_reset::LATE;
        }
        if offset!(reset_reasons) == 1 {
            let reason: u32 = ctx.arg(2);
            flow.peer_reset_reason = reason as u16 + 1;
        }
    }
    0
}
