//! Records to the agent: reserve, fill, submit; a full buffer is counted.

use agent_ebpf::{
    ANSWER, Attempt, Closed, Flow, HEAD, Header, Idle, REQUEST, Response, Retried, Stall, Thread,
    counter, end, flow_flag, kind, order, records,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_user_buf,
        generated::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    },
    maps::ring_buf::RingBufEntry,
};

use crate::{
    flow, kernel,
    maps::{EVENTS, count},
    offset, sample,
};

/// Reserves a record, or counts its loss.
///
/// The result is asked for once and by nobody but the caller: verifiers before 6.2 forget, at a second
/// look, that it is there, and take the record for leaked.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    match EVENTS.reserve::<T>(0) {
        None => {
            count(counter::RING_FULL);
            None
        }
        entry => entry,
    }
}

#[inline(always)]
pub fn header(kind: u16, at: u64) -> Header {
    let id = bpf_get_current_pid_tgid();
    Header {
        kind,
        pad: 0,
        tid: id as u32,
        at,
        tgid: (id >> 32) as u32,
        pad2: 0,
    }
}

/// Copies a value of any size without using the stack.
#[inline(always)]
pub fn copy<T>(to: *mut T, from: *const T) {
    // SAFETY: the helper checks both; `to` lies in a reserved record or a map value.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, from.cast()) };
}

/// An upstream attempt ended without an answer. Told once per attempt.
#[inline(always)]
pub fn attempt_ended(sk: u64, flow: &mut Flow, how: u8, errno: i32, now: u64) {
    attempt_told(sk, flow, (how, errno), false, now);
}

/// The same; of one whose answer the proxy did not take (`refused`) with what that begins with.
#[inline(always)]
pub fn attempt_told(sk: u64, flow: &mut Flow, (how, errno): (u8, i32), refused: bool, now: u64) {
    if flow.flags & flow_flag::ENDED != 0 {
        return;
    }
    flow.flags |= flow_flag::ENDED;
    flow::take_read(flow);
    if flow::is_ours(flow) {
        flow::read_head(flow);
    }
    if let Some(downstream) = flow::of(flow.link_sk, flow.link_cookie) {
        // A subrequest may outlive its request; the next one is not to blame. Requests within TLS or
        // HTTP/2 cannot be counted.
        if downstream.ordinal == flow.link_ordinal || downstream.flags & flow_flag::OPAQUE != 0 {
            downstream.flags |= flow_flag::FAILED;
        }
    }
    let Some(mut entry) = reserve::<Attempt>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = header(kind::ATTEMPT, now);
        copy(&raw mut (*out).flow, flow);
        kernel::clear(&raw mut (*out).sample);
        sample::take(sk, flow, &mut (*out).sample);
        (*out).downstream_read_ns = downstream_read(flow.link_cookie);
        (*out).errno = errno;
        (*out).end = how;
        (*out).pad = 0;
        downstream(out, flow.link_sk, flow.link_cookie);
        (*out).answer_len = 0;
        (*out).pad2 = 0;
        if refused
            && flow.answer_ptr != 0
            && bpf_probe_read_user_buf(flow.answer_ptr as *const u8, &mut (*out).answer).is_ok()
        {
            (*out).answer_len = ANSWER as u32;
        }
    }
    entry.submit(0);
}

/// When the current thread read this downstream, if it read no other since.
#[inline(always)]
pub fn downstream_read(cookie: u64) -> u64 {
    match flow::watched() {
        Some((thread, _, _)) if thread.downstream_cookie == cookie => thread.read_ns,
        _ => 0,
    }
}

/// A failed attempt is tried again.
#[inline(always)]
pub fn retried(failed: u64) {
    let Some(mut entry) = reserve::<Retried>() else {
        return;
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    entry.write(Retried {
        header: header(kind::RETRIED, now),
        failed,
    });
    entry.submit(0);
}

/// The downstream's side of an attempt's record.
///
/// # Safety
/// `out` is a reserved record.
#[inline(always)]
pub unsafe fn downstream(out: *mut Attempt, sk: u64, cookie: u64) {
    // SAFETY: as above.
    unsafe {
        (*out).downstream_state = sample::downstream_state(sk, cookie);
        match flow::of(sk, cookie) {
            Some(downstream) => {
                if flow::is_ours(downstream) && downstream.flags & flow_flag::OPAQUE == 0 {
                    flow::read_head(downstream);
                }
                copy(&raw mut (*out).downstream_ends, &raw const downstream.ends);
                copy(&raw mut (*out).downstream_head, &raw const downstream.head);
            }
            None => {
                (*out).downstream_ends.family = 0;
                (*out).downstream_head[0] = 0;
                if (*out).downstream_state == agent_ebpf::downstream::RESET {
                    // The client's reset ended the flow; its socket is still the proxy's.
                    (*out).downstream_ends.family = kernel::family(sk);
                    (*out).downstream_ends.local_port = 0;
                    (*out).downstream_ends.path_len = 0;
                    kernel::remote_end(sk, &mut (*out).downstream_ends);
                }
            }
        }
    }
}

/// The attempt's end was seen by the proxy's own thread: what it does next belongs to the same exchange.
#[inline(always)]
pub fn noticed(flow: &Flow, thread: &mut Thread) {
    thread.failed_cookie = flow.cookie;
    thread.failed_link_sk = flow.link_sk;
    thread.failed_link_cookie = flow.link_cookie;
    may_fail(flow, thread);
}

/// What this attempt's client is told next may be a failure's status.
#[inline(always)]
pub fn may_fail(flow: &Flow, thread: &Thread) {
    if offset!(tls_status) == 0 {
        return;
    }
    if let Some(downstream) = flow::of(flow.link_sk, flow.link_cookie)
        // One without identity may be another one each time.
        && (flow.cookie == 0 || downstream.noticed_cookie != flow.cookie)
    {
        downstream.noticed_cookie = flow.cookie;
        // It may have been made for another client.
        let surely = thread.lazy != 0 || flow.order == order::AFTER_READ;
        downstream.noticed += if surely { 1 } else { 2 };
    }
}

/// An upstream connection ends whose answer has begun, before the client is answered: should the proxy
/// reject this response after all, the record of its answer needs the attempt.
#[inline(always)]
pub fn suspect(flow: &Flow, sk: u64, thread: &mut Thread) {
    if flow.received > 0
        && let Some(downstream) = flow::of(flow.link_sk, flow.link_cookie)
        && downstream.flags & flow_flag::AWAITED != 0
    {
        downstream.flags |= flow_flag::SUSPECT;
        thread.stash_sk = sk;
        copy(&raw mut thread.stash, flow);
        if thread.lazy != 0 {
            // What is begun next is another try, unless the client is answered first.
            thread.failed_cookie = 0;
            thread.refused_cookie = flow.cookie;
            thread.failed_link_sk = flow.link_sk;
            thread.failed_link_cookie = flow.link_cookie;
        }
    }
}

/// Whether the order of things ties an attempt to the wrong downstream: what was kept of the two requests
/// differs in its method, or in a path's beginning.
#[inline(always)]
fn asks_otherwise(attempt: &Flow, downstream: &Flow) -> bool {
    const COMPARED: u32 = 16;
    let kept = (attempt.head_size >= COMPARED) & (downstream.head_size >= COMPARED);
    let http = attempt.head[0].is_ascii_uppercase() & downstream.head[0].is_ascii_uppercase();
    let [a, b, ..] = words(&attempt.head);
    let [c, d, ..] = words(&downstream.head);
    kept & http & (((a ^ c) | (b ^ d)) != 0)
}

#[inline(always)]
fn words(head: &[u8; HEAD]) -> [u64; HEAD / 8] {
    // SAFETY: any bytes are a number; the read is made for any alignment.
    unsafe { head.as_ptr().cast::<[u64; HEAD / 8]>().read_unaligned() }
}

/// The proxy began to answer `flow` (a downstream), with what is known of its latest attempt; `sealed` in
/// TLS, of which `adjacent` alone is known.
#[inline(always)]
pub fn response_sent(
    flow: &mut Flow,
    (status, sealed): (u16, bool),
    adjacent: u64,
    thread: &mut Thread,
    now: u64,
) {
    if flow.flags & flow_flag::OPAQUE == 0 {
        flow::read_head(flow);
    }
    let Some(mut entry) = reserve::<Response>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = header(kind::RESPONSE, now);
        copy(&raw mut (*out).flow, flow);
        (*out).status = status;
        (*out).adjacent = adjacent;
        kernel::clear(&raw mut (*out).sample);
        (*out).has_attempt = 0;
        (*out).attempt_end = end::ANSWERED;
        if status == 0 || sealed {
            // Not plain HTTP/1: the latest attempt may be another stream's.
        } else if let Some(attempt) = flow::of(flow.link_sk, flow.link_cookie)
            && attempt.link_cookie == flow.cookie
            && (thread.lazy != 0 || !asks_otherwise(attempt, flow))
        {
            // One that has ended was told by a record of its own.
            (*out).has_attempt = u8::from(attempt.flags & flow_flag::ENDED == 0);
            flow::take_read(attempt);
            flow::read_head(attempt);
            copy(&raw mut (*out).attempt, attempt);
            sample::take(flow.link_sk, attempt, &mut (*out).sample);
            let connecting = attempt.flags & flow_flag::CONNECTING != 0;
            let disagrees = (thread.lazy == 0) & records::is_within_handshake(attempt);
            if (*out).has_attempt != 0 && (connecting || disagrees || flow::outstanding(attempt)) {
                (*out).attempt_end = match (connecting, attempt.flags & flow_flag::CONNECT_FAILED) {
                    (false, _) => end::WAITING,
                    (true, 0) => end::CONNECT_GIVEN_UP,
                    (true, _) => end::CONNECT_FAILED,
                };
                // Told with this; its close belongs to no other response.
                attempt.flags |= flow_flag::ENDED;
                flow::untie(attempt);
            }
        } else if flow.link_cookie != 0
            && thread.stash_sk == flow.link_sk
            && thread.stash.cookie == flow.link_cookie
        {
            (*out).has_attempt = 1;
            flow::read_head(&mut thread.stash);
            copy(&raw mut (*out).attempt, &raw const thread.stash);
        }
        // The request as it still lies in the proxy's memory: the Host header is looked for only now.
        (*out).request_len = 0;
        if flow.head_ptr != 0
            && flow.flags & flow_flag::OPAQUE == 0
            && bpf_probe_read_user_buf(flow.head_ptr as *const u8, &mut (*out).request).is_ok()
        {
            (*out).request_len = REQUEST as u32;
        }
    }
    entry.submit(0);
}

/// A flow whose attempt had failed is gone: its last acknowledgement and reset.
#[inline(always)]
pub fn flow_closed(sk: u64, flow: &mut Flow, now: u64) {
    if flow.flags & flow_flag::CLOSED != 0 {
        return;
    }
    flow.flags |= flow_flag::CLOSED;
    flow::take_read(flow);
    let Some(mut entry) = reserve::<Closed>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = header(kind::CLOSED, now);
        copy(&raw mut (*out).flow, flow);
        kernel::clear(&raw mut (*out).sample);
        sample::take(sk, flow, &mut (*out).sample);
    }
    entry.submit(0);
}

/// Closes sooner than this after the last byte are the end of a response, not of an idle connection.
const IDLE_NS: u64 = 100_000_000;

/// A kept-alive connection was closed while no request was on it.
#[inline(always)]
pub fn idle_closed(flow: &Flow, by_upstream: bool, reset: bool, now: u64) {
    let last = if flow.last_receive_ns > flow.last_send_ns {
        flow.last_receive_ns
    } else {
        flow.last_send_ns
    };
    let idle_ns = now.saturating_sub(last);
    // It may wait for its first answer.
    if last == 0 || idle_ns < IDLE_NS || records::is_doubtful(flow) {
        return;
    }
    let Some(mut entry) = reserve::<Idle>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = header(kind::IDLE, now);
        // The owner: a FIN is processed in whatever context was interrupted.
        (*out).header.tgid = flow.tgid;
        (*out).header.tid = flow.tid;
        copy(&raw mut (*out).ends, &raw const flow.ends);
        (*out).cookie = flow.cookie;
        (*out).idle_ns = idle_ns;
        (*out).longest_reuse_ns = flow.longest_reuse_ns;
        (*out).ordinal = flow.ordinal;
        (*out).by_upstream = u8::from(by_upstream);
        (*out).reset = u8::from(reset);
        (*out).pad = 0;
    }
    entry.submit(0);
}

/// The first byte of a response came late.
#[inline(always)]
pub fn stalled(flow: &Flow, waited_ns: u64, now: u64) {
    let Some(mut entry) = reserve::<Stall>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = header(kind::STALL, now);
        copy(&raw mut (*out).ends, &raw const flow.ends);
        (*out).waited_ns = waited_ns;
    }
    entry.submit(0);
}
