//! `syscalls:sys_enter_close`: a proxy closes an upstream connection. The only sign of a Unix
//! connection's end where the kernel allows no fentry, and for TCP the thread's own.
//!
//! Of its record `fd`. Any kernel with `CONFIG_FTRACE_SYSCALLS`.

use agent_ebpf::{Flow, Thread, end, flow_flag, records, role};
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
    if flow.role == role::UPSTREAM {
        upstream(sk, flow, thread);
    }
    // Its last transition is over, and a Unix socket has none: nothing else will remove it. A client's
    // was read from after it.
    if flow.ends.family == AF_UNIX || field!(sk, skc_state, u8) == TCP_CLOSE as u8 {
        CONNECTIONS.remove(sk);
    }
    0
}

/// Tells what ends with a connection to an upstream.
#[inline(always)]
fn upstream(sk: u64, flow: &mut Flow, thread: &mut Thread) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    flow.flags |= flow_flag::CLOSING;
    decide(sk, flow, thread, now);
    // By way of the flow, whose content no verifier knows: however it was decided, what follows is the
    // same to it, and followed once.
    // SAFETY: a field.
    let (ending, errno) = unsafe {
        (
            (&raw const flow.ending).read_volatile(),
            (&raw const flow.ending_errno).read_volatile(),
        )
    };
    flow.ending = 0;
    if ending != 0 {
        let refused = ending & REFUSED != 0;
        let how = (ending & !REFUSED) as u8;
        if how == end::GIVEN_UP && flow.peer_sk == 0 && flow.ends.family != AF_UNIX {
            accept_queue::find(flow);
        }
        // Told once: nothing for one that had ended before.
        emit::attempt_told(sk, flow, (how, i32::from(errno)), refused, now);
        if !refused {
            emit::noticed(flow, thread);
        }
    }
    let ended = flow.flags & flow_flag::ENDED != 0;
    if flow.ends.family == AF_UNIX {
        if !ended {
            emit::idle_closed(flow, flow.flags & flow_flag::EOF != 0, false, now);
        }
    } else if ended && field!(sk, skc_state, u8) == TCP_CLOSE as u8 {
        // Its last transition is over: nothing else will tell of it.
        emit::flow_closed(sk, flow, now);
    }
}

/// In `Flow::ending`: the attempt's answer was read and not taken.
const REFUSED: u16 = 1 << 8;

/// How its attempt ends with this, if it does: left in the flow.
#[inline(always)]
fn decide(sk: u64, flow: &mut Flow, thread: &mut Thread, now: u64) {
    let connecting = flow.flags & flow_flag::CONNECTING != 0;
    let (mut ending, mut errno) = (0, 0);
    if connecting {
        // connect()'s own result has told of a Unix socket. Of others the state tells how the connect
        // ended; this tells who noticed.
        if flow.ends.family == AF_UNIX {
        } else if flow.flags & flow_flag::CONNECT_FAILED != 0 {
            ending = u16::from(end::CONNECT_FAILED);
            errno = flow.send_errno as u16;
        } else {
            ending = u16::from(end::CONNECT_GIVEN_UP);
        }
    } else if flow::outstanding(flow)
        || flow.flags & flow_flag::ENDED != 0
        || disagrees(flow, thread)
    {
        ending = u16::from(if flow.reset_ns != 0 {
            end::RESET
        } else if flow::was_left(flow) || flow.flags & flow_flag::EOF != 0 {
            end::PEER_CLOSED
        } else {
            end::GIVEN_UP
        });
    } else {
        emit::suspect(flow, sk, thread);
        if refuses(flow, thread, now) {
            // Told for itself, tied to nobody: what was asked tells whose it was.
            flow::untie(flow);
            ending = REFUSED
                | u16::from(match cut(flow) {
                    true => end::PEER_CLOSED,
                    false => end::ANSWERED,
                });
        }
    }
    flow.ending = ending;
    flow.ending_errno = errno;
}

/// Whether the handshake came to nothing. nginx answers next, and tells of it then.
#[inline(always)]
fn disagrees(flow: &Flow, thread: &Thread) -> bool {
    (thread.lazy == 0) & records::is_within_handshake(flow)
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
    // In TLS nothing tells an answer that is refused from a handshake after which nothing was asked. HTTP/2
    // ends with no request.
    let sealed = flow.flags & flow_flag::SEALED != 0;
    let [p, r, i, space, ..] = flow.head;
    let http2 = u32::from_ne_bytes([p, r, i, space]) == u32::from_ne_bytes(*b"PRI ");
    if thread.lazy != 0 || flow.received == 0 || failed || sealed || http2 {
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
