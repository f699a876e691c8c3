//! `sock:inet_sock_set_state`: the life and end of TCP connections.
//!
//! `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, 4.16.
//! Transitions made by a packet run in whatever task was interrupted: there `current` says nothing.

use agent_ebpf::{
    Ends, Flow, JOIN_SLOTS, Join, ListenerKey, ListenerValue, Peer, counter, end, flow_flag, kind,
    peer_reset, role, tail,
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    emit, field, flow,
    kernel::{
        self, AF_INET6, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LISTEN,
        TCP_SYN_RECV, TCP_SYN_SENT,
    },
    late,
    maps::{CONNECTIONS, JOIN, LISTENERS, TELL_END, UPSTREAM_ENDS, count},
    member, offset,
};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if offset!(untyped) == 1 && (new == TCP_SYN_SENT || new == TCP_ESTABLISHED) {
        // Where it is used nothing can make one, only read it.
        kernel::cookie(sk);
    }
    match (old, new) {
        (_, TCP_SYN_SENT) => connecting(sk),
        (TCP_SYN_SENT, TCP_ESTABLISHED) => connected(sk),
        (TCP_SYN_RECV, TCP_ESTABLISHED) => accepted(sk),
        (_, TCP_LISTEN) => listening(sk),
        (TCP_LISTEN, TCP_CLOSE) => gone(sk),
        (TCP_ESTABLISHED, TCP_CLOSE_WAIT) => fin_received(&ctx, sk),
        (_, TCP_FIN_WAIT1 | TCP_CLOSE) | (TCP_CLOSE_WAIT, _) => closing(&ctx, sk, old, new),
        _ => {}
    }
    0
}

/// connect() by a watched thread: the attempt begins.
#[inline(always)]
fn connecting(sk: *const u8) {
    let Some((thread, tid, tgid)) = flow::watched() else {
        return;
    };
    let Some(flow) = flow::create(sk, role::UPSTREAM, tgid, tid) else {
        return;
    };
    let now = kernel::now();
    flow.begun_ns = now;
    flow.flags |= flow_flag::CONNECTING;
    flow::link(flow, sk as u64, thread, now);
    // A listener on this host: remember it, and what it has dropped so far.
    let (remote, local) = (flow.ends.remote, flow.ends.local);
    let loopback = flow.ends.family != AF_INET6 && remote[0] == 127;
    let loopback6 = flow.ends.family == AF_INET6 && remote == LOOPBACK6;
    if loopback || loopback6 || remote == local {
        let key = ListenerKey {
            netns: flow.ends.netns,
            family: flow.ends.family,
            port: flow.ends.remote_port,
            address: flow.ends.remote,
        };
        remember_listener(flow, key);
    }
}

pub(super) const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Who listens there.
#[inline(always)]
pub(super) fn listener_at(mut key: ListenerKey) -> Option<&'static mut ListenerValue> {
    let mut found = LISTENERS.get_ptr_mut(key);
    if found.is_none() {
        key.address = [0; 16];
        found = LISTENERS.get_ptr_mut(key);
    }
    if found.is_none() {
        // A dual-stack wildcard also takes IPv4.
        key.family = AF_INET6;
        found = LISTENERS.get_ptr_mut(key);
    }
    // SAFETY: a map value; `peak` may lose a race, by one connection.
    let listener = unsafe { &mut *found? };
    kernel::is(listener.sk, listener.cookie).then_some(listener)
}

#[inline(always)]
fn remember_listener(flow: &mut Flow, key: ListenerKey) {
    let Some(listener) = listener_at(key) else {
        return;
    };
    flow.listener_sk = listener.sk;
    flow.listener_cookie = listener.cookie;
    flow.listener_drops = field!(listener.sk, sk_drops, u32);
    let length = field!(listener.sk, sk_ack_backlog, u32);
    if length > listener.peak {
        listener.peak = length;
    }
}

/// The key under which one end of a new connection waits for the other: unchanged by address
/// translation and network namespaces.
#[inline(always)]
fn join_key(ours: u32, theirs: u32) -> u64 {
    (u64::from(ours) << 32) | u64::from(theirs)
}

/// Initial sequence numbers are random: their low bits spread well.
#[inline(always)]
fn join_slot(key: u64) -> u32 {
    (key ^ (key >> 32)) as u32 % JOIN_SLOTS
}

#[inline(always)]
fn connected(sk: *const u8) {
    let Some(flow) = flow::same(sk) else { return };
    flow.connected_ns = kernel::now();
    flow.flags &= !flow_flag::CONNECTING;
    // Only now is the source address chosen on every path.
    kernel::direct::own_end(sk, &mut flow.ends);
    let Some(tcp) = kernel::direct::tcp(sk) else {
        return;
    };
    let key = join_key(member!(tcp, snd_una, u32), member!(tcp, rcv_nxt, u32));
    if let Some(slot) = JOIN.get_ptr_mut(join_slot(key)) {
        // SAFETY: a map value. Who falls out is joined already, or its other end is elsewhere.
        let newest = unsafe { &mut (*slot).newest };
        let [a, b, c, _] = *newest;
        let sk = sk as u64;
        *newest = [Join { key, sk }, a, b, c];
    }
}

/// The upstream's end of a connection became established: join it to the proxy's end.
#[inline(always)]
fn accepted(sk: *const u8) {
    let Some(tcp) = kernel::direct::tcp(sk) else {
        return;
    };
    let key = join_key(member!(tcp, rcv_nxt, u32), member!(tcp, snd_una, u32));
    let Some(slot) = JOIN.get_ptr(join_slot(key)) else {
        return;
    };
    // SAFETY: a map value; what is torn has another key, or finds no flow of this connection.
    let [a, b, c, d] = unsafe { (*slot).newest };
    let proxys = if a.key == key {
        a.sk
    } else if b.key == key {
        b.sk
    } else if c.key == key {
        c.sk
    } else if d.key == key {
        d.sk
    } else {
        return;
    };
    let Some(flow) = flow::find(proxys) else {
        return;
    };
    flow.peer_sk = sk as u64;
    flow.peer_cookie = kernel::cookie(sk);
    flow.peer_netns = kernel::direct::netns(sk);
    flow.peer_family = kernel::direct::family(sk);
    flow.peer_port = kernel::direct::own_port(sk);
    kernel::direct::own_address(sk, flow.peer_family, &mut flow.peer_address);
    if flow.listener_cookie == 0 {
        // In another network namespace of this host. Who let the connection in is told, nothing of a
        // queue: it is past that.
        let key = ListenerKey {
            netns: flow.peer_netns,
            family: flow.peer_family,
            port: flow.peer_port,
            address: flow.peer_address,
        };
        if let Some(listener) = listener_at(key) {
            flow.listener_cookie = listener.cookie;
        }
    }
    let peer = Peer {
        sk: proxys,
        cookie: flow.cookie,
        read: kernel::zero(),
    };
    match UPSTREAM_ENDS.insert(kernel::address(sk), &peer) {
        // SAFETY: a map value.
        Some(new) => unsafe { *new = peer },
        None => count(counter::PEERS_FULL),
    }
}

/// The other side's FIN was processed; the acknowledgement it carried has been applied.
#[inline(always)]
fn fin_received(ctx: &BtfTracePointContext, sk: *const u8) {
    let Some(flow) = flow::same(sk) else {
        if offset!(second_ticks) != 0 && UPSTREAM_ENDS.get(kernel::address(sk)).is_none() {
            far_end(ctx);
        }
        return;
    };
    let Some(tcp) = kernel::direct::tcp(sk) else {
        return;
    };
    flow.fin_ns = kernel::now();
    flow.fin_una = member!(tcp, snd_una, u32);
    flow.fin_write_seq = member!(tcp, write_seq, u32);
    if flow.role == role::UPSTREAM && !flow::outstanding(flow) {
        emit::idle_closed(flow, true, false, flow.fin_ns);
    }
}

/// One side closes by its own will, is reset, or is done.
#[inline(always)]
fn closing(ctx: &BtfTracePointContext, sk: *const u8, old: i32, new: i32) {
    let mut proxys = false;
    if let Some(flow) = flow::same(sk) {
        proxys = true;
        let upstream = flow.role == role::UPSTREAM;
        let ended = upstream && proxy_closes(flow, sk, old, new);
        if ended || new == TCP_CLOSE && upstream && flow.flags & flow_flag::ENDED != 0 {
            // SAFETY: a program of the same hook. It does not come back, unless there is none.
            unsafe { TELL_END.tail_call(ctx, tail::END) };
        }
        if !upstream && old == TCP_ESTABLISHED {
            late::left(flow, sk as u64, new);
        }
        if new == TCP_CLOSE {
            closed(flow, sk, false);
        }
        if upstream {
            return;
        }
        // A proxy that is itself the upstream of another.
    }
    let Some(peer) = UPSTREAM_ENDS.get(kernel::address(sk)) else {
        if offset!(second_ticks) != 0 && !proxys && old == TCP_ESTABLISHED {
            far_end(ctx);
        }
        return;
    };
    // SAFETY: a map value, written once.
    let peer = unsafe { *peer };
    if let Some(flow) = flow::of(peer.sk, peer.cookie) {
        flow::take_read(flow);
        if old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT {
            upstream_closes(sk, flow, new);
        }
    }
    if new == TCP_CLOSE {
        UPSTREAM_ENDS.remove(kernel::address(sk));
    }
}

/// Neither a proxy's connection nor one whose proxy is here. Nothing is left to do: this does not come
/// back, unless the program is not there.
#[inline(always)]
fn far_end(ctx: &BtfTracePointContext) {
    // SAFETY: a program of the same hook.
    unsafe { TELL_END.tail_call(ctx, tail::FAR_END) };
}

/// Tells the end that `closing` has found.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tell_end(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let new: i32 = ctx.arg(2);
    let Some(flow) = flow::same(sk) else { return 0 };
    if flow.ending != 0 {
        let (how, errno) = (flow.ending as u8, i32::from(flow.ending_errno));
        flow.ending = 0;
        emit::attempt_ended(kernel::address(sk), flow, how, errno, kernel::now());
    }
    if new == TCP_CLOSE {
        let told = flow.flags & flow_flag::ENDED != 0;
        if told {
            emit::flow_closed(kernel::address(sk), flow, kernel::now());
        }
        closed(flow, sk, told);
    }
    0
}

/// A process still has a descriptor of it: it was accepted, or not closed yet.
#[inline(always)]
pub(super) fn held_by_process(sk: *const u8) -> bool {
    member!(sk, sk_socket, u64) != 0
}

/// Whether the attempt ends with this; the flow is told how.
#[inline(always)]
fn proxy_closes(flow: &mut Flow, sk: *const u8, old: i32, new: i32) -> bool {
    if flow::is_ours(flow) && crate::probes::exiting() {
        // The proxy's process dies: nobody gave anything up, and nobody answers.
        flow.flags |= flow_flag::ENDED | flow_flag::CLOSED;
        return false;
    }
    // The proxy still holds the socket, and its close is seen: it ends the attempt in its own thread,
    // where its memory can be read and the next response belongs to it.
    let held = new == TCP_CLOSE && offset!(closes_seen) == 1 && held_by_process(sk);
    if old == TCP_SYN_SENT {
        // The port was chosen after the connect began.
        kernel::own_end(sk as u64, &mut flow.ends);
        // In the proxy's own context with no error it is its timer, or EADDRNOTAVAIL in connect():
        // while the socket is held, connect()'s own result or the close tells.
        let errno = member!(sk, sk_err, i32);
        let how = if errno == 0 {
            end::CONNECT_GIVEN_UP
        } else {
            flow.flags |= flow_flag::CONNECT_FAILED;
            flow.send_errno = errno;
            end::CONNECT_FAILED
        };
        return !held && ends(flow, how, errno);
    }
    if !flow::outstanding(flow) {
        if old == TCP_ESTABLISHED && flow.flags & flow_flag::ENDED == 0 {
            let reset = flow.reset_ns != 0;
            emit::idle_closed(flow, new == TCP_CLOSE && reset, reset, kernel::now());
        }
        return false;
    }
    if held {
        return false;
    }
    let how = if new == TCP_CLOSE && flow.reset_ns != 0 {
        end::RESET
    } else if new == TCP_CLOSE && old != TCP_ESTABLISHED && old != TCP_CLOSE_WAIT {
        // The end of a connection that the proxy had closed before.
        return false;
    } else if flow::was_left(flow) {
        end::PEER_CLOSED
    } else {
        end::GIVEN_UP
    };
    ends(flow, how, member!(sk, sk_err, i32))
}

#[inline(always)]
fn ends(flow: &mut Flow, how: u8, errno: i32) -> bool {
    flow.ending = u16::from(how);
    flow.ending_errno = errno as u16;
    true
}

/// The upstream's process closes its end: had it accepted, had it read?
#[inline(always)]
fn upstream_closes(sk: *const u8, flow: &mut Flow, new: i32) {
    // An error ends it from outside: a reset received, a timer. Its own close leaves none.
    if new == TCP_CLOSE && member!(sk, sk_err, i32) != 0 {
        return;
    }
    if flow.flags & flow_flag::PEER_CLOSED != 0 {
        return;
    }
    flow.peer_close_ns = kernel::now();
    flow.peer_close_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if held_by_process(sk) {
        flow.flags |= flow_flag::PEER_CLOSED_ACCEPTED;
    }
    let copied = field!(sk as u64, copied_seq, u32);
    flow.peer_close_copied = copied;
    flow.peer_close_unread = field!(sk as u64, rcv_nxt, u32).wrapping_sub(copied);
    if new == TCP_CLOSE {
        flow.flags |= flow_flag::PEER_SENT_RESET;
        flow.peer_reset = match flow.peer_close_unread {
            0 => peer_reset::ABORT,
            _ => peer_reset::UNREAD,
        };
    }
    // Last: who copies the flow meanwhile, on another CPU, sees no half of it.
    flow.flags |= flow_flag::PEER_CLOSED;
}

/// The proxy's socket is done.
#[inline(always)]
fn closed(flow: &mut Flow, sk: *const u8, told: bool) {
    // The proxy still holds the socket: which thread closes it tells whose response follows, and a
    // send that is under way will still look for the flow.
    let held = flow.role == role::UPSTREAM && offset!(closes_seen) == 1;
    let closing = flow.flags & flow_flag::CLOSING != 0;
    if (told || held) && !closing && held_by_process(sk) {
        return;
    }
    CONNECTIONS.remove(kernel::address(sk));
}

#[inline(always)]
fn listener_key(sk: u64) -> ListenerKey {
    let mut ends = kernel::zero();
    kernel::ends(sk, &mut ends);
    key_of(&ends)
}

/// Under which a listener at this end would be.
#[inline(always)]
pub(super) fn key_of(ends: &Ends) -> ListenerKey {
    ListenerKey {
        netns: ends.netns,
        family: ends.family,
        port: ends.local_port,
        address: ends.local,
    }
}

#[inline(always)]
fn listening(sk: *const u8) {
    let cookie = kernel::cookie(sk);
    let value = ListenerValue {
        sk: sk as u64,
        cookie,
        peak: 0,
        overflows: 0,
    };
    let key = listener_key(sk as u64);
    if LISTENERS.insert(key, value, 0).is_err() {
        count(counter::LISTENERS_FULL);
    }
    crate::probes::serve((bpf_get_current_pid_tgid() >> 32) as u32);
    tell(sk as u64, cookie, &key, 0);
}

#[inline(always)]
fn gone(sk: *const u8) {
    let key = listener_key(sk as u64);
    // Another may have begun to listen at the same address, and have its place.
    // SAFETY: a map value.
    let found = LISTENERS
        .get_ptr(key)
        .map_or(0, |found| unsafe { (*found).cookie });
    if found != 0 && kernel::is(sk as u64, found) {
        let _ = LISTENERS.remove(key);
    }
    tell(sk as u64, found, &key, 1);
}

#[inline(always)]
fn tell(sk: u64, cookie: u64, key: &ListenerKey, gone: u32) {
    let Some(mut entry) = emit::reserve::<agent_ebpf::Listen>() else {
        return;
    };
    entry.write(agent_ebpf::Listen {
        header: emit::header(kind::LISTEN, kernel::now()),
        sk,
        cookie,
        family: key.family,
        port: key.port,
        gone,
    });
    entry.submit(0);
}
