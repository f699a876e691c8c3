//! `sock:sock_send_length`: bytes sent by a proxy; where requests and responses begin.
//!
//! `void sock_send_length(struct sock *sk, int ret, int flags)`, 6.3. Runs after the send.

use agent_ebpf::{Flow, RESPONSE, Thread, end, flow_flag, order, records, role, tls};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    emit, field, flow,
    kernel::{self, AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, Socket, TCP_CLOSE},
    maps::CONNECTIONS,
    offset,
    probes::{
        inet_sock_set_state::{key_of, listener_at},
        ssl_write,
    },
    user::{self, Buffer},
};

const EAGAIN: i32 = -11;
const EINTR: i32 = -4;

/// A result that ends nothing: the call is made again (`-512` to `-516` are the kernel's own restarts).
#[inline(always)]
pub fn interrupted(ret: i32) -> bool {
    ret == EAGAIN || ret == EINTR || (-516..=-512).contains(&ret)
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    sent(ctx.arg::<*const u8>(0), ctx.arg(1))
}

/// A send on this socket has ended with this result.
#[inline(always)]
pub fn sent(sk: impl Socket, ret: i32) -> i32 {
    if !flow::is_watched() {
        return 0;
    }
    if interrupted(ret) {
        if offset!(tls_status) != 0 {
            ssl_write::put_off(sk);
        }
        return 0;
    }
    let flow = match flow::find(sk.address()) {
        Some(flow) if flow.cookie == 0 || sk.is(flow.cookie) => flow,
        _ => match first_send(sk) {
            Some(flow) => flow,
            None => return 0,
        },
    };
    if flow.role == role::DOWNSTREAM {
        let awaited = flow_flag::AWAITED | flow_flag::FAILED;
        if ret > 0 && flow.flags & awaited != 0 {
            response(flow);
        }
        if offset!(tls_status) != 0 {
            ssl_write::sent(flow);
        }
        if let Some((thread, _, _)) = flow::thread()
            && thread.lazy == 0
        {
            thread.sent_ns = kernel::now();
        }
        return 0;
    }
    let Some((thread, _, _)) = flow::thread() else {
        return 0;
    };
    let now = kernel::now();
    if flow.cookie == 0 {
        flow.cookie = sk.cookie();
        if flow.flags & flow_flag::OLDER == 0 {
            flow::link(flow, sk.raw(), thread, now);
        }
    }
    request(flow, sk, thread, ret, now);
    0
}

/// A socket not seen before that a proxy writes to first is an upstream connection, or a client that asked
/// nothing and is told that it took too long: where its listener is not known here, the agent, which knows
/// all, tells them apart.
#[inline(always)]
fn first_send(sk: impl Socket) -> Option<&'static mut Flow> {
    if !stream(sk.raw()) {
        return None;
    }
    let tcp = sk.family() != AF_UNIX;
    // A client that is gone: what was known of it went with its connection, before this hook.
    if tcp && field!(sk.raw(), skc_state, u8) == TCP_CLOSE as u8 {
        return None;
    }
    let id = bpf_get_current_pid_tgid();
    let flow = flow::create(sk, role::UPSTREAM, (id >> 32) as u32, id as u32)?;
    if tcp && listener_at(key_of(&flow.ends)).is_some() {
        // Taken from a listener here: a client.
        CONNECTIONS.remove(sk.address());
        return None;
    }
    flow.flags |= flow_flag::OLDER;
    Some(flow)
}

/// A TCP connection, or a Unix one whose other end has a name (not a pair between processes).
#[inline(always)]
pub fn stream(sk: u64) -> bool {
    if field!(sk, sk_type, u16) != SOCK_STREAM {
        return false;
    }
    match kernel::family(sk) {
        AF_INET | AF_INET6 => true,
        AF_UNIX => {
            let peer = field!(sk, unix_peer, u64);
            peer != 0 && field!(peer, unix_addr, u64) != 0
        }
        _ => false,
    }
}

#[inline(always)]
fn request(flow: &mut Flow, sk: impl Socket, thread: &mut Thread, ret: i32, now: u64) {
    let tcp = flow.ends.family != AF_UNIX;
    let idle = flow.request_ns == 0 || flow.received > 0 || flow.flags & flow_flag::ENDED != 0;
    let begins = if flow::is_sealed(flow) {
        begins_in_tls(flow, idle)
    } else {
        idle && flow.flags & flow_flag::UPGRADED == 0 && !only_continue(flow)
    };
    if begins {
        flow::begin_request(flow, sk.raw(), thread, now);
        keep_request(flow, thread);
        if tcp && let Some((write_seq, retransmits)) = sk.sent_so_far() {
            let written = if ret > 0 { ret as u32 } else { 0 };
            flow.request_seq = write_seq.wrapping_sub(written);
            flow.retransmits_before = retransmits;
        }
        if ret > 0 && flow.flags & flow_flag::CONNECTING != 0 {
            // The transition was missed: what is sent to is connected.
            flow.flags &= !flow_flag::CONNECTING;
            flow.connected_ns = now;
        }
    }
    if ret > 0 && flow.reset_ns != 0 && flow.reset_ns <= now {
        // A reset socket takes no bytes: on loopback the answer to this write came before its end.
        flow.reset_ns = now;
    }
    if ret > 0 {
        flow.sent = flow.sent.saturating_add(ret as u32);
        flow.last_send_ns = now;
    } else if ret < 0 && (begins || !flow::is_farewell(flow)) {
        flow.send_errno = -ret;
        emit::attempt_ended(sk.raw(), flow, end::SEND_FAILED, -ret, now);
        emit::noticed(flow, thread);
    }
}

/// The first request takes the handshake's place.
#[inline(always)]
fn begins_in_tls(flow: &mut Flow, idle: bool) -> bool {
    let asked = flow.tls & tls::ASKED != 0;
    if asked && (!idle || (records::is_doubtful(flow) && !was_answered(flow))) {
        return false;
    }
    let Some(buffer) = user::buffer() else {
        return false;
    };
    if !records::asks(flow, |at| user::record_at(buffer, buffer.len, at)) {
        return false;
    }
    if !asked {
        flow.ordinal = flow.ordinal.wrapping_sub(1);
    }
    records::asked(flow);
    true
}

/// What came may be session tickets, and what is sent now the rest of a request: only a client in the clear
/// shows that it has had its answer.
#[inline(always)]
fn was_answered(flow: &Flow) -> bool {
    match flow::of(flow.link_sk, flow.link_cookie) {
        Some(downstream) => {
            let answered = downstream.flags & flow_flag::AWAITED == 0;
            downstream.flags & flow_flag::OPAQUE == 0
                && (answered || downstream.ordinal != flow.link_ordinal)
        }
        // Its client is gone: this is for another one.
        None => flow.link_cookie != 0,
    }
}

/// `HTTP/1.1 100 Continue` and an empty line.
const CONTINUE: u32 = 25;

/// Whether all that was received is `100 Continue`, which is no answer yet, and then forgotten: what is
/// sent next is the body that it asked for.
#[inline(always)]
pub fn only_continue(flow: &mut Flow) -> bool {
    // As whole words: the verifier would follow a parser's every branch, with all that comes after.
    let [h, t, p, s, _, _, _, _, a, b, c, d, ..] = flow.response;
    let http = u32::from_ne_bytes([h, t, p, s]) ^ u32::from_ne_bytes(*b"HTTP");
    let status = u32::from_ne_bytes([a, b, c, d]) ^ u32::from_ne_bytes(*b" 100");
    if http | status | (flow.received ^ CONTINUE) != 0 {
        return false;
    }
    flow.received = 0;
    flow::forget_answer(flow);
    true
}

/// What a connection carries is told by its first bytes, as long as they are there.
#[inline(always)]
fn keep_request(flow: &mut Flow, thread: &Thread) {
    const RECORDS: core::ops::RangeInclusive<u8> = 20..=23;
    if flow.flags & flow_flag::SEALED != 0 {
        return;
    }
    let first = flow.ordinal == 1;
    flow::keep_head(flow, thread.lazy != 0 && !first);
    flow::complete_head(flow);
    let [p, r, i, space, ..] = flow.head;
    let http2 = u32::from_ne_bytes([p, r, i, space]) == u32::from_ne_bytes(*b"PRI ");
    if first & http2 & (flow.head_size != 0) {
        // What follows may be frames of any stream, or of none.
        flow.flags |= flow_flag::UPGRADED;
    }
    if first && flow.head_size != 0 && RECORDS.contains(&flow.head[0]) && flow.head[1] == 3 {
        flow.flags |= flow_flag::SEALED;
        let turns = user::buffer()
            .is_some_and(|hello| !records::offers_more(hello.len, |at| user::hello_at(hello, at)));
        let passed_through = flow::of(flow.link_sk, flow.link_cookie)
            .is_some_and(|client| records::is_same_hello(&flow.head, &client.head));
        // Of a connection that is older than the agent it is not known what was agreed.
        if !records::is_hello(flow.head[0]) || passed_through {
            flow.tls |= tls::SEVERAL;
        } else if !turns {
            flow.tls |= tls::MORE;
        }
    }
}

/// The first send after a request was read is the response's beginning.
#[inline(always)]
fn response(flow: &mut Flow) {
    let opaque = flow.flags & flow_flag::OPAQUE != 0;
    if flow.flags & (flow_flag::FAILED | flow_flag::SUSPECT) == 0
        && (opaque || (answered_well(flow) && closes_first()))
    {
        flow.flags &= !flow_flag::AWAITED;
        return;
    }
    let mut status = user::buffer().map_or(0, first_status);
    let sealed = status == 0 && opaque && offset!(tls_status) != 0;
    if sealed {
        status = ssl_write::status(flow);
    }
    if status != 0 && status < 200 && status != 101 {
        // An interim response: the final one is still awaited.
        return;
    }
    if status == 101
        && let Some(attempt) = flow::of(flow.link_sk, flow.link_cookie)
        && attempt.link_cookie == flow.cookie
        && flow::is_sealed(attempt)
    {
        // Both sides may speak when they like from now on.
        records::give_up(attempt);
    }
    let awaited = flow.flags & flow_flag::AWAITED != 0;
    flow.flags &= !(flow_flag::AWAITED | flow_flag::SUSPECT);
    let hidden = status != 0 && status < 500 && hides_failed_connect(flow);
    if status < 500 && flow.flags & flow_flag::FAILED == 0 && !hidden {
        return;
    }
    let Some((thread, _, _)) = flow::thread() else {
        return;
    };
    let noticed = thread.failed_cookie != 0 && thread.failed_link_cookie == flow.cookie;
    let mut adjacent = 0;
    if noticed {
        adjacent = thread.failed_cookie;
        thread.failed_cookie = 0;
    }
    // Bytes that are not HTTP/1 may be any stream's: only adjacency ties them to a failed attempt.
    let own = awaited && status != 0 && !sealed;
    let failed = own && flow.flags & flow_flag::FAILED != 0;
    if failed || noticed {
        flow.flags &= !flow_flag::FAILED;
    }
    if (own && status >= 500) || failed || noticed || hidden {
        let now = kernel::now();
        if status >= 500 {
            thread.refused_ns = now;
        }
        emit::response_sent(flow, (status, sealed), adjacent, thread, now);
    }
}

/// A status line, and room that is never used.
#[repr(C)]
struct Line {
    bytes: [u8; RESPONSE],
    _room: [u8; RESPONSE],
}

/// The status of the response that begins in what is sent now; 0 if it is something else.
#[inline(always)]
fn first_status(buffer: Buffer) -> u16 {
    let mut line = Line {
        bytes: [0; RESPONSE],
        _room: [0; RESPONSE],
    };
    let read = user::read_user(buffer.ptr, buffer.len, &mut line.bytes);
    if read < user::LINE && line.bytes[0] == b'H' {
        // SAFETY: the room is behind it.
        unsafe { user::gather::<RESPONSE>((&raw mut line).cast()) };
    }
    // What was not read is zero, and no digit.
    status(&line.bytes)
}

/// nginx answers from a stale cache entry before it closes the connection that did not come about.
#[inline(always)]
fn hides_failed_connect(flow: &Flow) -> bool {
    const STATE: u16 = flow_flag::CONNECTING | flow_flag::CONNECT_FAILED;
    flow.flags & flow_flag::OPAQUE == 0
        && closes_first()
        && flow::of(flow.link_sk, flow.link_cookie).is_some_and(|attempt| {
            attempt.link_cookie == flow.cookie
                && attempt.link_ordinal == flow.ordinal
                // A mirror's is begun behind the request's own.
                && attempt.order != order::UNCLEAR
                && attempt.flags & (STATE | flow_flag::ENDED) == STATE
        })
}

/// nginx closes an upstream whose answer it rejects before it answers itself. Others do so after.
#[inline(always)]
fn closes_first() -> bool {
    flow::thread().is_some_and(|(thread, _, _)| thread.lazy != 0)
}

/// The attempt for this request has an answer that is no server error: what the proxy sends now is
/// that answer, and need not be read.
#[inline(always)]
fn answered_well(flow: &Flow) -> bool {
    flow::of(flow.link_sk, flow.link_cookie).is_some_and(|attempt| {
        // A pooled connection may work for another client by now.
        attempt.link_cookie == flow.cookie
            && attempt.link_ordinal == flow.ordinal
            && attempt.received > 0
            && attempt.flags & flow_flag::ENDED == 0
            && (200..500).contains(&status(&attempt.response))
    })
}

/// The status of `HTTP/1.x NNN`, 0 if the bytes are something else.
#[inline(always)]
pub fn status(head: &[u8; 16]) -> u16 {
    if head[0] != b'H'
        || head[1] != b'T'
        || head[2] != b'T'
        || head[3] != b'P'
        || head[5] != b'1'
        || head[8] != b' '
    {
        return 0;
    }
    let digit = |b: u8| u16::from(b.wrapping_sub(b'0'));
    let (a, b, c) = (digit(head[9]), digit(head[10]), digit(head[11]));
    if a > 9 || b > 9 || c > 9 {
        0
    } else {
        a * 100 + b * 10 + c
    }
}
