//! `syscalls:sys_exit_listen`: a Unix socket began to listen; TCP tells by its state.

use agent_ebpf::{Listen, kind};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::tracepoint,
    programs::TracePointContext,
};

use crate::{
    emit, field,
    kernel::{self, AF_UNIX},
    offset,
    probes::{serve, socket_of},
    user::argument,
};

#[tracepoint(category = "syscalls", name = "sys_exit_listen")]
pub fn sys_exit_listen(ctx: TracePointContext) -> u32 {
    let at = offset!(listen_ret) as usize;
    // SAFETY: the tracepoint's own record.
    match unsafe { ctx.read_at::<i64>(at) } {
        Ok(0) => listens(),
        _ => 0,
    }
}

/// The current thread's listen() has succeeded.
#[inline(always)]
pub fn listens() -> u32 {
    let sk = socket_of(argument(0) as u32);
    if sk == 0 || kernel::family(sk) != AF_UNIX {
        return 0;
    }
    serve((bpf_get_current_pid_tgid() >> 32) as u32);
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(mut entry) = emit::reserve::<Listen>() {
        entry.write(Listen {
            header: emit::header(kind::LISTEN, now),
            sk,
            cookie: field!(sk, skc_cookie, u64),
            family: AF_UNIX,
            port: 0,
            gone: 0,
        });
        entry.submit(0);
    }
    0
}
