//! `sock:sock_recv_length`: bytes read by a proxy, and by the upstreams on this host.
//!
//! `void sock_recv_length(struct sock *sk, int ret, int flags)`, 6.3. Runs after the read.

use agent_ebpf::{Flow, HEAD, RESPONSE, Thread, end, flow_flag, records, role};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{
    emit, flow,
    kernel::{self, AF_UNIX, Socket},
    maps::{SPOKEN, UPSTREAM_ENDS},
    probes::sock_send_length::{interrupted, only_continue, status, stream},
    user,
};

const MSG_PEEK: i32 = 2;
const MSG_TRUNC: i32 = 0x20;
/// Bytes of `HTTP/1.x NNN`.
const STATUS: u32 = 12;
/// Bytes of a FastCGI record's header.
const FASTCGI_HEADER: u32 = 8;
const STALL_NS: u64 = 1_000_000_000;

#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    received(ctx.arg::<*const u8>(0), ctx.arg(1), ctx.arg(2))
}

/// A receive on this socket has ended with this result.
#[inline(always)]
pub fn received(sk: impl Socket, ret: i32, flags: i32) -> i32 {
    if interrupted(ret) || flags & MSG_PEEK != 0 {
        return 0;
    }
    if !flow::is_watched() {
        if ret > 0 {
            flow::note_read(sk);
        }
        return 0;
    }
    let flow = match flow::find(sk.address()) {
        Some(flow) if sk.is(flow.cookie) => flow,
        _ if ret <= 0 => return 0,
        // A socket not seen before that a proxy reads from first is a downstream connection.
        _ if sk.family() == AF_UNIX || !stream(sk.raw()) => return 0,
        _ => {
            let id = bpf_get_current_pid_tgid();
            let Some(flow) = flow::create(sk, role::DOWNSTREAM, (id >> 32) as u32, id as u32)
            else {
                forget_client();
                return 0;
            };
            if UPSTREAM_ENDS.get(sk.address()).is_some() {
                flow.peer_sk = sk.address();
            }
            flow
        }
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if flow.role == role::UPSTREAM && ret > 0 {
        if flow::is_sealed(flow) {
            if flags & MSG_TRUNC != 0 {
                // HAProxy throws away what it has not read of a handshake, without looking.
                return 0;
            }
            answer_in_tls(flow, ret as u32, now);
            several(flow.cookie);
            return 0;
        }
        answer(flow, sk.raw(), ret, now);
        several(flow.cookie);
        // Last: what comes after it would be verified for every way through it.
        if flow.ordinal == 1 && flow.received == ret as u32 && status(&flow.response) != 0 {
            spoke(flow);
        }
        return 0;
    }
    let Some((thread, tid, tgid)) = flow::thread() else {
        return 0;
    };
    if flow.role == role::DOWNSTREAM {
        if ret > 0 {
            if flow.peer_sk != 0 {
                // The client is a watched proxy, too.
                flow::note_read_by_proxy(flow.peer_sk, tgid, tid, now);
            }
            request(flow, sk.raw(), thread, ret, now);
        }
    } else {
        thread.answered_cookie = flow.cookie;
        ended(flow, sk.raw(), thread, ret, now);
    }
    0
}

/// What the thread does next is not for the client that it read before, but for one of which nothing is kept.
#[inline(always)]
fn forget_client() {
    if let Some((thread, _, _)) = flow::thread() {
        thread.downstream_sk = 0;
        thread.downstream_cookie = 0;
        thread.failed_cookie = 0;
    }
}

/// The proxy read from its client.
#[inline(always)]
fn request(flow: &mut Flow, sk: u64, thread: &mut Thread, ret: i32, now: u64) {
    let switches = kernel::switches();
    // Without branches, each of which the verifier would follow to the end.
    let slept = u16::from(thread.read_switches != switches);
    let another = u16::from(thread.downstream_cookie != flow.cookie);
    let awake = slept.wrapping_sub(1);
    thread.reads = (thread.reads | another << 1) & awake | slept;
    thread.downstream_sk = sk;
    thread.downstream_cookie = flow.cookie;
    thread.begun = 0;
    thread.read_ns = now;
    thread.read_switches = switches;
    thread.failed_cookie = 0;
    thread.refused_cookie = 0;
    // One whose bytes were not seen was begun by an attempt alone: this may be the next one.
    let known = (flow.head_ptr != 0) | (flow.flags & flow_flag::OPAQUE != 0);
    if (flow.flags & flow_flag::AWAITED != 0) & known {
        return;
    }
    flow.flags |= flow_flag::AWAITED;
    flow.flags &= !flow_flag::FAILED;
    flow.ordinal += 1;
    flow.request_ns = now;
    if flow.ordinal == 1 {
        first_bytes(flow);
    } else if flow.flags & flow_flag::OPAQUE == 0 {
        flow::keep_head(flow, thread.lazy != 0);
    }
    // The buffer may be larger than what was read into it.
    let read = ret as u32;
    if flow.head_len > read {
        flow.head_len = read;
    }
    if flow.head_size > read {
        flow.head_size = read;
        if (read as usize) < HEAD {
            flow.head[read as usize & (HEAD - 1)] = 0;
        }
    }
}

/// What a client speaks is told by its first bytes; if it is not HTTP/1, later ones are not looked at.
#[inline(always)]
fn first_bytes(flow: &mut Flow) {
    flow::keep_head(flow, false);
    let head = &flow.head;
    let method = head[0].is_ascii_uppercase() && head[1].is_ascii_uppercase();
    let http2 = head[0] == b'P' && head[1] == b'R' && head[2] == b'I';
    if flow.head_size != 0 && (!method || http2) {
        flow.flags |= flow_flag::OPAQUE;
    }
}

/// The proxy read response bytes from its upstream.
#[inline(always)]
fn answer(flow: &mut Flow, sk: u64, ret: i32, now: u64) {
    if flow.received == 0 || only_continue(flow) {
        let waited = now.saturating_sub(flow.request_ns);
        let mut read = 0;
        if let Some(buffer) = user::buffer() {
            flow.answer_ptr = buffer.ptr;
            // What lies behind what was read is of an earlier answer.
            let len = if buffer.len < ret as u64 {
                buffer.len
            } else {
                ret as u64
            };
            read = user::read_user(buffer.ptr, len, &mut flow.response);
            flow.response_size = read as u16;
            fastcgi(flow, buffer.ptr, FASTCGI_HEADER, ret as u32);
        }
        // A head that trickles in says nothing yet of what is spoken.
        if read >= STATUS && !speaks_in_turns(&flow.response) {
            flow.flags |= flow_flag::UPGRADED;
        }
        if flow.request_ns != 0 && waited > STALL_NS {
            emit::stalled(flow, waited, now);
        }
        // A server error passed on to a client whose side is TLS or HTTP/2 shows nowhere else, and
        // that of a proxy whose threads interleave has to be found by its request.
        if status(&flow.response) >= 500
            && (flow::thread().is_some_and(|(thread, _, _)| thread.lazy == 0)
                || flow::of(flow.link_sk, flow.link_cookie)
                    .is_some_and(|downstream| downstream.flags & flow_flag::OPAQUE != 0))
        {
            flow.received = ret as u32;
            if let Some((thread, _, _)) = flow::thread() {
                emit::may_fail(flow, thread);
            }
            emit::attempt_ended(sk, flow, end::ANSWERED, 0, now);
            flow.flags &= !flow_flag::ENDED;
            flow.received = 0;
        }
    }
    if flow.received == FASTCGI_HEADER
        && let Some(buffer) = user::buffer()
    {
        // Apache reads the header by itself.
        fastcgi(flow, buffer.ptr, 0, ret as u32);
    }
    flow.received = flow.received.wrapping_add(ret as u32);
    flow.last_receive_ns = now;
}

/// The same in TLS, of which nothing can be read but where records begin.
#[inline(always)]
fn answer_in_tls(flow: &mut Flow, read: u32, now: u64) {
    const NONE: user::Buffer = user::Buffer { ptr: 0, len: 0 };
    let buffer = user::buffer().unwrap_or(NONE);
    let header = |at| user::record_at(buffer, u64::from(read), at);
    if !records::answers(flow, read, header) {
        if flow.received > 0 {
            flow.last_receive_ns = now;
        }
        return;
    }
    let waited = now.saturating_sub(flow.request_ns);
    if flow.received == 0 && flow.request_ns != 0 && waited > STALL_NS {
        emit::stalled(flow, waited, now);
    }
    flow.received = flow.received.wrapping_add(read);
    flow.last_receive_ns = now;
}

/// `Status: NNN` of a FastCGI answer, behind its record's header or at the beginning of what is read after it;
/// without one it is 200.
#[inline(always)]
fn fastcgi(flow: &mut Flow, answer: u64, header: u32, read: u32) {
    const STDOUT: u8 = 6;
    const LINE: [u8; RESPONSE] = *b"HTTP/1.1 200    ";
    /// Of the line, what is looked at.
    const NAMED: u32 = 11;
    let [version, kind, ..] = flow.response;
    // Bytes that nginx keeps for itself are of a connection that has spoken it before.
    let asked = flow.head_size == 0 || flow.head[0] == 1;
    if version != 1 || kind != STDOUT || !asked || read < header + NAMED {
        return;
    }
    let mut line = [0; RESPONSE];
    if user::read_user(answer + u64::from(header), RESPONSE as u64, &mut line) == 0 {
        return;
    }
    flow.response = LINE;
    flow.response_size = RESPONSE as u16;
    let [a, b, c, d, e, f, g, h, status @ ..] = line;
    // As a number: the kernel half has no memcmp.
    if u64::from_ne_bytes([a, b, c, d, e, f, g, h]) == u64::from_ne_bytes(*b"Status: ") {
        [flow.response[9], flow.response[10], flow.response[11]] =
            [status[0], status[1], status[2]];
    }
}

/// Keeps that this upstream speaks HTTP, if it was asked in it: uWSGI's own protocol and FastCGI are
/// answered with a status line, too, or nearly so.
#[inline(always)]
fn spoke(flow: &mut Flow) {
    flow::take_read(flow);
    let mut first = [flow.head[0]];
    if flow.head_size == 0 {
        user::read_user(flow.head_ptr, 1, &mut first);
    }
    if first[0].is_ascii_uppercase()
        && let Some((slot, who)) = agent_ebpf::spoken(flow)
        && let Some(slot) = SPOKEN.get_ptr_mut(slot)
    {
        // SAFETY: a map value; whoever writes last is kept.
        unsafe { *slot = who };
    }
}

/// Who goes on with other requests when an upstream answers may begin an attempt for any of them: what
/// the thread reads from a client before it sleeps next says no more of what it does.
#[inline(always)]
fn several(cookie: u64) {
    let Some((thread, _, _)) = flow::thread() else {
        return;
    };
    if thread.lazy != 0 {
        // It has gone on: what it begins now is no other try of what failed before.
        thread.failed_cookie = 0;
        thread.refused_cookie = 0;
        return;
    }
    thread.reads = 2;
    thread.read_switches = kernel::switches();
    thread.answered_cookie = cookie;
}

/// Whether these are the first bytes of a protocol of one request and one response: HTTP/1 (but for
/// 101, after which either side speaks when it likes) or FastCGI.
#[inline(always)]
fn speaks_in_turns(response: &[u8; RESPONSE]) -> bool {
    let status = status(response);
    (status != 0 && status != 101) || (response[0] == 1 && response[1] < 12)
}

/// End of file or an error from the upstream.
#[inline(always)]
fn ended(flow: &mut Flow, sk: u64, thread: &mut Thread, ret: i32, now: u64) {
    if ret == 0 {
        flow.flags |= flow_flag::EOF;
    }
    let told = flow.flags & flow_flag::ENDED != 0;
    if !told && !flow::outstanding(flow) {
        // A head that never became complete: who answers before it closes is to be looked at now.
        emit::suspect(flow, sk, thread);
        return;
    }
    if !told {
        let how = if ret == 0 {
            end::PEER_CLOSED
        } else {
            end::RESET
        };
        emit::attempt_ended(sk, flow, how, -ret, now);
    }
    emit::noticed(flow, thread);
}
