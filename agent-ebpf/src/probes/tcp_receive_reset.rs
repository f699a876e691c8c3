//! `tcp:tcp_receive_reset`: a reset arrived at a proxy's connection.
//!
//! `void tcp_receive_reset(struct sock *sk)`, 4.15. Runs before the state changes.

use agent_ebpf::flow_flag;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{flow, kernel, resets};

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if let Some(flow) = flow::same(sk) {
        flow.reset_ns = kernel::now();
        // Its own close has told already, if that was what reset.
        if flow.flags & flow_flag::PEER_SENT_RESET == 0 {
            resets::arrived(flow);
        }
    }
    0
}
