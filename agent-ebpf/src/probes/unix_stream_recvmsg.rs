//! `unix_stream_recvmsg`, on its way out: what `sock:sock_recv_length` gives from 6.3.
//!
//! `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{member, probes::sock_recv_length::received};

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg(ctx: FExitContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    received(
        member!(socket, socket_sk, *const u8),
        ctx.arg(4),
        ctx.arg(3),
    )
}
