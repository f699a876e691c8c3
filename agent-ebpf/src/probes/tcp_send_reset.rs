//! `tcp:tcp_send_reset`: this host's upstream answered a proxy's connection with a reset.
//!
//! `void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)`,
//! 4.15 (reason from 6.10). `sk` may be null, which older verifiers do not believe.

use agent_ebpf::flow_flag;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{flow, kernel, maps::UPSTREAM_ENDS};

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let Some(peer) = UPSTREAM_ENDS.get(kernel::address(sk)) else {
        return 0;
    };
    // SAFETY: a map value, written once.
    let peer = unsafe { *peer };
    if let Some(flow) = flow::of(peer.sk, peer.cookie) {
        flow.flags |= flow_flag::PEER_SENT_RESET;
    }
    0
}
