//! `syscalls:sys_enter_close`: a proxy closes an upstream connection. The only sign of a Unix
//! connection's end where the kernel allows no fentry, and for TCP the thread's own.
//!
//! Of its record `fd`. Any kernel with `CONFIG_FTRACE_SYSCALLS`.

use agent_ebpf::{end, flow_flag, role};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::tracepoint, programs::TracePointContext,
};

use crate::{
    accept_queue, emit, field, flow,
    kernel::{AF_UNIX, TCP_CLOSE},
    maps::CONNECTIONS,
    offset,
    probes::socket_of,
};

#[tracepoint(category = "syscalls", name = "sys_enter_close")]
pub fn sys_enter_close(ctx: TracePointContext) -> u32 {
    let at = offset!(close_fd) as usize;
    // SAFETY: the tracepoint's own record.
    match unsafe { ctx.read_at::<u64>(at) } {
        Ok(fd) => closing(fd as u32),
        Err(_) => 0,
    }
}

/// The current thread closes this descriptor.
#[inline(always)]
pub fn closing(fd: u32) -> u32 {
    let Some((thread, _, tgid)) = flow::watched() else {
        return 0;
    };
    let sk = socket_of(fd);
    if sk == 0 {
        return 0;
    }
    let Some(flow) = flow::find(sk) else { return 0 };
    // A forked child closes what it inherited; the connection lives on.
    if flow.tgid != tgid {
        return 0;
    }
    if flow.role != role::UPSTREAM {
        if field!(sk, skc_state, u8) == TCP_CLOSE as u8 {
            // The proxy read from it after its last transition.
            CONNECTIONS.remove(sk);
        }
        return 0;
    }
    flow.flags |= flow_flag::CLOSING;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let connecting = flow.flags & flow_flag::CONNECTING != 0;
    if connecting && flow.ends.family == AF_UNIX {
        // connect()'s own result has told.
    } else if connecting || flow::outstanding(flow) || flow.flags & flow_flag::ENDED != 0 {
        let (how, errno) = if connecting {
            // The state tells how the connect ended; this tells who noticed.
            if flow.flags & flow_flag::CONNECT_FAILED != 0 {
                (end::CONNECT_FAILED, flow.send_errno)
            } else {
                (end::CONNECT_GIVEN_UP, 0)
            }
        } else if flow.reset_ns != 0 {
            (end::RESET, 0)
        } else if flow.fin_ns != 0 || flow.flags & flow_flag::EOF != 0 {
            (end::PEER_CLOSED, 0)
        } else {
            (end::GIVEN_UP, 0)
        };
        if how == end::GIVEN_UP && flow.peer_sk == 0 && flow.ends.family != AF_UNIX {
            accept_queue::find(flow);
        }
        // Told once: nothing for one that had ended before.
        emit::attempt_ended(sk, flow, how, errno, now);
        emit::noticed(flow, thread);
    } else {
        emit::suspect(flow, sk, thread);
    }
    if flow.ends.family == AF_UNIX {
        if flow.flags & flow_flag::ENDED == 0 {
            emit::idle_closed(flow, flow.flags & flow_flag::EOF != 0, false, now);
        }
        CONNECTIONS.remove(sk);
    } else if field!(sk, skc_state, u8) == TCP_CLOSE as u8 {
        // Its last transition is over: nothing else will tell of it, or remove it.
        if flow.flags & flow_flag::ENDED != 0 {
            emit::flow_closed(sk, flow, now);
        }
        CONNECTIONS.remove(sk);
    }
    0
}
