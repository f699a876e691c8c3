//! `tcp_recvmsg`, on its way out: what `sock:sock_recv_length` gives from 6.3.
//!
//! `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len)`; before
//! 5.19 with `int nonblock` ahead of `flags`, later (7.3) without `addr_len`.

use core::arch::asm;

use aya_ebpf::{EbpfContext as _, macros::fexit, programs::FExitContext};

use crate::{offset, probes::sock_recv_length::received};

#[fexit(function = "tcp_recvmsg")]
pub fn tcp_recvmsg(ctx: FExitContext) -> i32 {
    let flags = match offset!(tcp_recvmsg_flags) {
        4 => word::<4>(&ctx),
        _ => word::<3>(&ctx),
    };
    // The result stands behind all arguments; the verifier refuses a load past it, of ways taken alone.
    let result = match offset!(tcp_recvmsg_arguments) {
        6 => word::<6>(&ctx),
        4 => word::<4>(&ctx),
        _ => word::<5>(&ctx),
    };
    received(ctx.arg::<*const u8>(0), result as i32, flags as i32)
}

/// One word of the context, by an instruction of its own: of several loads the compiler makes one from an
/// address that it calculates, which no verifier takes.
#[inline(always)]
fn word<const N: usize>(ctx: &FExitContext) -> u64 {
    let word;
    // SAFETY: checked by the verifier.
    unsafe {
        asm!(
            "{word} = *(u64 *)({ctx} + {at})",
            word = out(reg) word,
            ctx = in(reg) ctx.as_ptr(),
            at = const N * 8,
            options(readonly, nostack)
        );
    }
    word
}
