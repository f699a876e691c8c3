//! `tcp:tcp_receive_reset`: a reset arrived at a proxy's connection.
//!
//! `void tcp_receive_reset(struct sock *sk)`, 4.15. Runs before the state changes.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{flow, kernel};

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if let Some(flow) = flow::find(kernel::address(sk)) {
        // SAFETY: no arguments.
        flow.reset_ns = unsafe { bpf_ktime_get_ns() };
    }
    0
}
