//! `syscalls:sys_enter_close`: a proxy closes an upstream connection. The only sign of a Unix
//! connection's end where the kernel allows no fentry, and for TCP the thread's own.
//!
//! Of its record `fd`. Any kernel with `CONFIG_FTRACE_SYSCALLS`.

use agent_ebpf::{Flow, Thread, end, flow_flag, role};
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
        if refuses(flow, thread, now) {
            tell_refused(sk, flow, now);
        }
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

/// Closes later than this after the last byte are of an idle connection.
const IDLE_NS: u64 = 100_000_000;
/// Few servers' heads are shorter.
const SHORT: u32 = 64;

/// Whether the connection is closed for what was read there: threads that work on several requests at
/// once answer before or after, and not always themselves. Either this thread has passed it on to
/// nobody, or it has told a client of a failure since; or it was cut short at once. What is no HTTP is waited
/// for to become some, as Varnish does.
#[inline(always)]
fn refuses(flow: &Flow, thread: &Thread, now: u64) -> bool {
    let [first, .., hundreds, _, _, _, _, _, _] = flow.response;
    let failed = (first == b'H') & (hundreds == b'5');
    if thread.lazy != 0 || flow.received == 0 || failed {
        return false;
    }
    let idle = now.saturating_sub(flow.last_receive_ns) > IDLE_NS;
    let kept = (thread.answered_cookie == flow.cookie) & (thread.sent_ns < flow.last_receive_ns);
    let refused = thread.refused_ns > flow.last_receive_ns;
    let strange = (first != b'H') & (flow.ordinal == 1) & flow.head[0].is_ascii_uppercase();
    (!idle & (kept | refused | cut(flow))) | strange
}

/// Nothing more came of what is too short for a head.
#[inline(always)]
fn cut(flow: &Flow) -> bool {
    (flow.flags & flow_flag::EOF != 0) & (flow.received < SHORT)
}

/// Tells it for itself, tied to nobody: what was asked tells whose it was.
#[inline(always)]
fn tell_refused(sk: u64, flow: &mut Flow, now: u64) {
    flow.link_sk = 0;
    flow.link_cookie = 0;
    let how = match cut(flow) {
        true => end::PEER_CLOSED,
        false => end::ANSWERED,
    };
    emit::attempt_refused(sk, flow, how, now);
}
