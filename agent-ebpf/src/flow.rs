//! The state kept per connection of a proxy: creation, request boundaries, and links between the two sides.

use agent_ebpf::{
    Flow, HEAD, RESPONSE, Read, SLOTS, Thread, WATCHED_BLOCK, counter, flow_flag, order, role, tls,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task};

use crate::{
    emit, field,
    kernel::{self, AF_UNIX, Socket, ends},
    maps::{CONNECTIONS, SLOT_THREADS, THREADS, UPSTREAM_ENDS, WATCHED, ZERO_FLOW, count},
    user::{self, Buffer},
};

/// Whether the current thread belongs to a watched proxy: the filter that comes first in every hook.
#[inline(always)]
pub fn is_watched() -> bool {
    let tid = bpf_get_current_pid_tgid() as u32;
    match WATCHED.get(tid / WATCHED_BLOCK as u32) {
        Some(block) => block[tid as usize % WATCHED_BLOCK] != 0,
        None => THREADS.get_ptr(tid).is_some(),
    }
}

/// The state of the current thread, and its ids.
#[inline(always)]
pub fn thread() -> Option<(&'static mut Thread, u32, u32)> {
    let id = bpf_get_current_pid_tgid();
    let tid = id as u32;
    let slot = SLOT_THREADS.get_ptr_mut(tid % SLOTS)?;
    // SAFETY: a map value; another owner only makes us look elsewhere.
    let thread = if unsafe { (*slot).owner } == tid {
        slot
    } else {
        THREADS.get_ptr_mut(tid)?
    };
    // SAFETY: the value is written by this thread's hooks only.
    Some((unsafe { &mut *thread }, tid, (id >> 32) as u32))
}

/// The state of the current thread, if it is watched.
#[inline(always)]
pub fn watched() -> Option<(&'static mut Thread, u32, u32)> {
    if is_watched() { thread() } else { None }
}

#[inline(always)]
pub fn find(sk: u64) -> Option<&'static mut Flow> {
    // SAFETY: writers of one flow are serialised by its socket's lock, but for counters that may tear.
    CONNECTIONS.get(sk).map(|flow| unsafe { &mut *flow })
}

/// The flow of a socket at hand, if it was made for this socket and not for one before it at the
/// same address. One without identity is of a Unix socket that has not been used yet.
#[inline(always)]
pub fn same(sk: *const u8) -> Option<&'static mut Flow> {
    find(kernel::address(sk)).filter(|flow| flow.cookie == 0 || kernel::direct::is(sk, flow.cookie))
}

/// The flow of this socket, if it is still the same socket.
#[inline(always)]
pub fn of(sk: u64, cookie: u64) -> Option<&'static mut Flow> {
    // Nothing is linked: a free slot has this address as well.
    if sk == 0 {
        return None;
    }
    find(sk).filter(|flow| flow.cookie == cookie)
}

/// Inserts a flow for a socket that a watched thread uses for the first time; none for one without identity,
/// which could not be told from the next one at its address.
#[inline(always)]
pub fn create(sk: impl Socket, role: u8, tgid: u32, tid: u32) -> Option<&'static mut Flow> {
    let cookie = sk.cookie();
    if cookie == 0 {
        return None;
    }
    let flow = empty(sk.address(), role, tgid, tid)?;
    flow.cookie = cookie;
    if sk.family() == AF_UNIX {
        ends(sk.raw(), &mut flow.ends);
    } else {
        sk.tcp_ends(&mut flow.ends);
    }
    Some(flow)
}

/// As `create`, where only the address is known: the identity follows at the first send or receive.
#[inline(always)]
pub fn create_raw(sk: u64, role: u8, tgid: u32, tid: u32) -> Option<&'static mut Flow> {
    let flow = empty(sk, role, tgid, tid)?;
    ends(sk, &mut flow.ends);
    Some(flow)
}

#[inline(always)]
fn empty(sk: u64, role: u8, tgid: u32, tid: u32) -> Option<&'static mut Flow> {
    let zero = ZERO_FLOW.get(0)?;
    let Some(flow) = CONNECTIONS.insert(sk, zero) else {
        count(counter::FLOWS_FULL);
        return None;
    };
    // SAFETY: a map value of this socket, or a leftover of one that was freed unseen.
    let flow = unsafe { &mut *flow };
    clear(flow);
    flow.role = role;
    flow.tgid = tgid;
    flow.tid = tid;
    Some(flow)
}

/// All zero but for the bytes of names and requests, whose lengths say that there are none.
#[inline(always)]
fn clear(flow: &mut Flow) {
    const WORD: usize = size_of::<u64>();
    let whole = core::mem::offset_of!(Flow, head) / WORD;
    let words = (&raw mut *flow).cast::<u64>();
    for i in 0..whole {
        // SAFETY: within the flow. Volatile: the compiler would call its own byte by byte `memset`.
        unsafe { words.add(i).write_volatile(0) };
    }
    forget_answer(flow);
    flow.ends.path_len = 0;
    flow.ends.remote = [0; 16];
    flow.ends.local = [0; 16];
    kernel::clear(&raw mut flow.read);
}

/// An attempt that begins later than this after the read may have been begun by a timer, of whatever
/// request,
const PROMPTLY_NS: u64 = 2_000_000;
/// unless the thread has not slept since: it was only kept from its CPU.
const CROWDED_NS: u64 = 100_000_000;

/// The attempt that begins now follows from what the thread has just read.
#[inline(always)]
fn follows_read(thread: &Thread, now: u64) -> bool {
    let since = now - thread.read_ns;
    since < PROMPTLY_NS || (since < CROWDED_NS && thread.read_switches == kernel::switches())
}

/// Whether the client of the attempt that was closed last waits still.
#[inline(always)]
fn is_suspect(thread: &Thread) -> bool {
    of(thread.failed_link_sk, thread.failed_link_cookie)
        .is_some_and(|downstream| downstream.flags & flow_flag::SUSPECT != 0)
}

/// Ties an attempt that begins now to the downstream its thread works for.
#[inline(always)]
pub fn link(flow: &mut Flow, sk: u64, thread: &mut Thread, now: u64) {
    // nginx does all there is to do for what it has read before it reads on. Threads of other proxies
    // read from several clients first: there only one that read a single one is clear.
    let in_turn = thread.lazy != 0;
    let mut guess = false;
    let refused = thread.refused_cookie;
    thread.refused_cookie = 0;
    if in_turn && thread.failed_cookie == 0 && refused != 0 && is_suspect(thread) {
        flow.link_sk = thread.failed_link_sk;
        flow.link_cookie = thread.failed_link_cookie;
        flow.order = order::RETRY;
        flow.retry_of = refused;
    } else if in_turn && thread.failed_cookie != 0 {
        flow.link_sk = thread.failed_link_sk;
        flow.link_cookie = thread.failed_link_cookie;
        flow.order = order::RETRY;
        flow.retry_of = thread.failed_cookie;
        emit::retried(thread.failed_cookie);
        thread.failed_cookie = 0;
    } else {
        thread.failed_cookie = 0;
        flow.retry_of = 0;
        flow.link_sk = thread.downstream_sk;
        flow.link_cookie = thread.downstream_cookie;
        flow.order = match (thread.downstream_cookie, thread.begun) {
            (0, _) => order::NONE,
            (_, 0) if (in_turn || thread.reads == 1) && follows_read(thread, now) => {
                order::AFTER_READ
            }
            _ => order::UNCLEAR,
        };
        thread.begun = thread.begun.saturating_add(1);
        guess = !in_turn && flow.order == order::UNCLEAR;
    }
    if let Some(downstream) = of(flow.link_sk, flow.link_cookie) {
        let flags = downstream.flags;
        if guess && flags & flow_flag::OPAQUE == 0 {
            // What was sent will tell better than a guess that would hide what is known.
            untie(flow);
            return;
        }
        if flags & (flow_flag::AWAITED | flow_flag::OPAQUE) == 0 && downstream.ordinal > 0 {
            // What was read is answered: a request that was read with it, or another client's.
            downstream.ordinal += 1;
            downstream.head_ptr = 0;
            downstream.head_size = 0;
            downstream.flags &= !flow_flag::FAILED;
            flow.order = order::UNCLEAR;
        }
        flow.link_ordinal = downstream.ordinal;
        flow.flags &= !flow_flag::OPAQUE;
        flow.flags |= downstream.flags & flow_flag::OPAQUE;
        downstream.link_sk = sk;
        downstream.link_cookie = flow.cookie;
        downstream.flags |= flow_flag::AWAITED;
    }
}

/// An upstream request's first bytes were written (or refused) now.
#[inline(always)]
pub fn begin_request(flow: &mut Flow, sk: u64, thread: &mut Thread, now: u64) {
    let mut last = if flow.last_receive_ns > flow.last_send_ns {
        flow.last_receive_ns
    } else {
        flow.last_send_ns
    };
    if last == 0 {
        last = flow.begun_ns;
    }
    flow.ordinal += 1;
    flow.idle_ns = if last == 0 {
        0
    } else {
        now.saturating_sub(last)
    };
    let reused = flow.ordinal > 1 || flow.flags & flow_flag::OLDER != 0;
    if reused {
        if flow.idle_ns > flow.longest_reuse_ns {
            flow.longest_reuse_ns = flow.idle_ns;
        }
        // A pooled connection: the attempt begins with its write.
        flow.begun_ns = now;
        link(flow, sk, thread, now);
    }
    flow.request_ns = now;
    flow.sent = 0;
    flow.received = 0;
    flow.send_errno = 0;
    flow.flags &= !(flow_flag::ENDED | flow_flag::EOF);
    forget_answer(flow);
}

/// Nothing has been received.
#[inline(always)]
pub fn forget_answer(flow: &mut Flow) {
    const { assert!(core::mem::offset_of!(Flow, response).is_multiple_of(8)) };
    kernel::clear((&raw mut flow.response).cast::<[u64; RESPONSE / 8]>());
    flow.response_size = 0;
}

/// Ties an attempt to nobody.
#[inline(always)]
pub fn untie(flow: &mut Flow) {
    const { assert!(core::mem::offset_of!(Flow, link_cookie) == 16) };
    kernel::clear((&raw mut flow.link_sk).cast::<[u64; 2]>());
}

/// Keeps where a request's first bytes are and, unless they will still be there, the bytes.
#[inline(always)]
pub fn keep_head(flow: &mut Flow, lazy: bool) {
    flow.head_size = 0;
    match user::buffer() {
        Some(Buffer { ptr, len }) => {
            flow.head_ptr = ptr;
            flow.head_len = len as u32;
            if !lazy {
                read_head(flow);
            }
        }
        None => flow.head_ptr = 0,
    }
}

/// Of a request whose first word was handed over by itself, puts the others behind it.
#[inline(always)]
pub fn complete_head(flow: &mut Flow) {
    let word = flow.head_size.wrapping_sub(1) < user::LINE - 1;
    if !word || !flow.head[0].is_ascii_uppercase() {
        return;
    }
    // SAFETY: a flow goes on for longer than its head.
    let size = unsafe {
        let head = (&raw mut *flow).cast::<u8>();
        user::gather::<HEAD>(head.add(core::mem::offset_of!(Flow, head)))
    };
    if size != 0 {
        flow.head_size = size;
        flow.head[size as usize & (HEAD - 1)] = 0;
    }
}

/// Reads the request's first bytes from the proxy's memory, if that has not been done.
#[inline(always)]
pub fn read_head(flow: &mut Flow) {
    if flow.head_size == 0 && flow.head_ptr != 0 {
        flow.head_size = user::read_user(flow.head_ptr, u64::from(flow.head_len), &mut flow.head);
    }
}

/// Whether the current task is the flow's process, so that its memory can be read.
#[inline(always)]
pub fn is_ours(flow: &Flow) -> bool {
    flow.tgid == (bpf_get_current_pid_tgid() >> 32) as u32
}

/// An upstream connection in TLS, of which requests and answers take turns.
#[inline(always)]
pub fn is_sealed(flow: &Flow) -> bool {
    flow.flags & flow_flag::SEALED != 0 && flow.tls & tls::SEVERAL == 0
}

/// What is sent now, and begins no request, says goodbye to an upstream in TLS that has answered.
#[inline(always)]
pub fn is_farewell(flow: &Flow) -> bool {
    is_sealed(flow) && flow.tls & tls::ASKED != 0 && !outstanding(flow)
}

/// Whether the upstream has said that it closes.
#[inline(always)]
pub fn was_left(flow: &Flow) -> bool {
    flow.fin_ns != 0 || flow.tls & tls::FAREWELL != 0
}

/// A request is on this upstream connection and no response byte has been read.
#[inline(always)]
pub fn outstanding(flow: &Flow) -> bool {
    flow.request_ns != 0 && flow.received == 0 && flow.flags & flow_flag::ENDED == 0
}

/// The upstream's process reads from its end: note who and when. Of a TCP connection beside the
/// upstream's own socket, so that the proxy's CPU need not fetch its flow back for the next request.
#[inline(always)]
pub fn note_read(sk: impl Socket) {
    if let Some(peer) = UPSTREAM_ENDS.get(sk.address()) {
        // SAFETY: a map value, written here by the one process that reads this socket.
        note(unsafe { &mut (*peer).read });
    } else if sk.family() == AF_UNIX
        && let Some(flow) = find(field!(sk.raw(), unix_peer, u64))
        && flow.role == role::UPSTREAM
    {
        note(&mut flow.read);
    }
}

/// The same by a thread of a watched proxy, which is no server to be marked.
#[inline(always)]
pub fn note_read_by_proxy(sk: u64, tgid: u32, tid: u32, now: u64) {
    if let Some(peer) = UPSTREAM_ENDS.get(sk) {
        // SAFETY: a map value, written here by the one process that reads this socket.
        let read = unsafe { &mut (*peer).read };
        read.ns = now;
        read.tid = tid;
        read.tgid = tgid;
        // SAFETY: no arguments.
        read.task = unsafe { bpf_get_current_task() };
    }
}

#[inline(always)]
fn note(read: &mut Read) {
    let id = bpf_get_current_pid_tgid();
    read.ns = kernel::now();
    if read.tid != id as u32 {
        read.tid = id as u32;
        read.tgid = (id >> 32) as u32;
        // SAFETY: no arguments.
        read.task = unsafe { bpf_get_current_task() };
        crate::probes::serve(read.tgid);
    }
}

/// Takes over who has read at the upstream's end.
#[inline(always)]
pub fn take_read(flow: &mut Flow) {
    if flow.peer_sk == 0 || flow.flags & flow_flag::PEER_CLOSED != 0 {
        return;
    }
    if let Some(peer) = UPSTREAM_ENDS.get(flow.peer_sk) {
        // SAFETY: a map value; a torn copy mixes two reads of one request.
        let peer = unsafe { &*peer };
        if peer.cookie == flow.cookie {
            kernel::copy(&raw mut flow.read, &raw const peer.read);
        }
    }
}
