//! `tcp_recvmsg`, on its way out: what `sock:sock_recv_length` gives from 6.3.
//!
//! `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len)`; before
//! 5.19 with `int nonblock` ahead of `flags`.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{offset, probes::sock_recv_length::received};

#[fexit(function = "tcp_recvmsg")]
pub fn tcp_recvmsg(ctx: FExitContext) -> i32 {
    if offset!(tcp_recvmsg_flags) == 4 {
        received(ctx.arg::<*const u8>(0), ctx.arg(6), ctx.arg(4))
    } else {
        received(ctx.arg::<*const u8>(0), ctx.arg(5), ctx.arg(3))
    }
}
