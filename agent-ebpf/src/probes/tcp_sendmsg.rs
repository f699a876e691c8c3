//! `tcp_sendmsg`, on its way out: what `sock:sock_send_length` gives from 6.3.
//!
//! `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`. fexit is there from 5.5 (arm64: 6.4).

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::probes::sock_send_length::sent;

#[fexit(function = "tcp_sendmsg")]
pub fn tcp_sendmsg(ctx: FExitContext) -> i32 {
    sent(ctx.arg::<*const u8>(0), ctx.arg(3))
}
