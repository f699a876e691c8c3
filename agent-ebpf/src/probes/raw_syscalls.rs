//! `raw_syscalls:sys_exit` and `sys_enter`, typed: what the data path and the system calls' own hooks give
//! elsewhere, on kernels that have neither `sock_send_length` (6.3) nor fexit (arm64: 6.4).
//!
//! `void sys_exit(struct pt_regs *regs, long ret)`, `void sys_enter(struct pt_regs *regs, long id)`, 4.17.
//! Every system call of the host pays for it. Nothing here has a type that the helper for cookies takes.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::Untyped,
    probes::{
        sock_recv_length::received, sock_send_length::sent, socket_of, sys_enter_close::closing,
        sys_exit_connect::connected, sys_exit_listen::listens,
    },
    user::{Call, argument},
};

#[btf_tracepoint(function = "sys_exit")]
pub fn call_receives(ctx: BtfTracePointContext) -> i32 {
    let Call::Receive(flags) = Call::of(ctx.arg(0)) else {
        return 0;
    };
    match socket_of(argument(0) as u32) {
        0 => 0,
        sk => received(Untyped(sk), ctx.arg(1), flags),
    }
}

#[btf_tracepoint(function = "sys_exit")]
pub fn call_sends(ctx: BtfTracePointContext) -> i32 {
    if Call::of(ctx.arg(0)) != Call::Send || !crate::flow::is_watched() {
        return 0;
    }
    match socket_of(argument(0) as u32) {
        0 => 0,
        sk => sent(Untyped(sk), ctx.arg(1)),
    }
}

#[btf_tracepoint(function = "sys_exit")]
pub fn call_connects(ctx: BtfTracePointContext) -> i32 {
    match Call::of(ctx.arg(0)) {
        Call::Connect => connected(ctx.arg(1)) as i32,
        _ => 0,
    }
}

#[btf_tracepoint(function = "sys_exit")]
pub fn call_listens(ctx: BtfTracePointContext) -> i32 {
    match (Call::of(ctx.arg(0)), ctx.arg::<i64>(1)) {
        (Call::Listen, 0) => listens() as i32,
        _ => 0,
    }
}

#[btf_tracepoint(function = "sys_enter")]
pub fn call_closes(ctx: BtfTracePointContext) -> i32 {
    match Call::of(ctx.arg(0)) {
        Call::Close => closing(argument(0) as u32) as i32,
        _ => 0,
    }
}
