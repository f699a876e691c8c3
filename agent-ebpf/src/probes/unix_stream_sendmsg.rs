//! `unix_stream_sendmsg`, on its way out: what `sock:sock_send_length` gives from 6.3.
//!
//! `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{member, probes::sock_send_length::sent};

#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg(ctx: FExitContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    sent(member!(socket, socket_sk, *const u8), ctx.arg(3))
}
