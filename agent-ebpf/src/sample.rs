//! Samples of sockets at the moment something ends: the proxy's own, the upstream's end, the listener.

use agent_ebpf::{Destination, Flow, Sample, downstream, flow_flag, sampled};

use crate::{
    field,
    kernel::{self, AF_UNIX, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LAST_ACK},
    maps::FILTERED,
    offset,
};

/// Fills all that can be read of the proxy's socket, the upstream's end and its listener.
#[inline(always)]
pub fn take(sk: u64, flow: &Flow, out: &mut Sample) {
    if kernel::family(sk) == AF_UNIX {
        unix_peer(sk, out);
    } else {
        tcp(sk, out);
        tcp_peer(flow, out);
        listener(flow, out);
        out.retransmits = out.retransmits.wrapping_sub(flow.retransmits_before);
        out.filter_drops = filtered(sk, flow);
    }
    reader(flow, out);
}

/// What the thread that read the request is doing at this very moment. Its `task_struct` may be
/// freed or another's by now: the thread id tells.
#[inline(always)]
fn reader(flow: &Flow, out: &mut Sample) {
    if flow.read.task == 0
        || offset!(task_state) == u32::MAX
        || field!(flow.read.task, task_pid, u32) != flow.read.tid
    {
        return;
    }
    out.known |= sampled::READER;
    out.reader_state = field!(flow.read.task, task_state, u32);
    out.reader_cpu_ns = field!(flow.read.task, task_sum_exec_runtime, u64);
}

#[inline(always)]
fn tcp(sk: u64, out: &mut Sample) {
    out.known |= sampled::TCP;
    out.state = field!(sk, skc_state, u8);
    out.una = field!(sk, snd_una, u32);
    out.write_seq = field!(sk, write_seq, u32);
    out.retransmits = field!(sk, total_retrans, u32);
    out.window = field!(sk, snd_wnd, u32);
    out.srtt_us = field!(sk, srtt_us, u32) >> 3;
    if offset!(second_ticks) != 0 {
        out.known |= sampled::ISN;
        // Whoever connects counts its SYN among the bytes that were acknowledged.
        out.iss = out.una.wrapping_sub(field!(sk, bytes_acked, u32));
        out.irs = peer_isn(sk);
    }
}

/// The other side's initial sequence number. Its FIN counts as a byte in both.
#[inline(always)]
pub fn peer_isn(sk: u64) -> u32 {
    let received = field!(sk, bytes_received, u32);
    field!(sk, rcv_nxt, u32)
        .wrapping_sub(received)
        .wrapping_sub(1)
}

/// Accepted: the socket has a file. Read: the application has taken the request's first byte.
#[inline(always)]
fn tcp_peer(flow: &Flow, out: &mut Sample) {
    if flow.peer_sk == 0 || flow.flags & flow_flag::PEER_CLOSED != 0 {
        return;
    }
    if !kernel::is(flow.peer_sk, flow.peer_cookie) {
        return;
    }
    out.known |= sampled::PEER;
    out.accepted = u8::from(field!(flow.peer_sk, sk_socket, u64) != 0);
    out.read = u8::from(past(
        field!(flow.peer_sk, copied_seq, u32),
        flow.request_seq,
    ));
}

/// Packets of this connection that a filter on this host dropped.
#[inline(always)]
fn filtered(sk: u64, flow: &Flow) -> u32 {
    let key = Destination {
        address: flow.ends.remote,
        family: flow.ends.family,
        port: flow.ends.remote_port,
        from_port: kernel::local_port(sk),
    };
    let Some(found) = FILTERED.get_ptr(key) else {
        return 0;
    };
    // SAFETY: a map value; a torn count is one packet off.
    let found = unsafe { &*found };
    // Older: of another connection between the same ports.
    found.count as u32 * u32::from(found.last_ns >= flow.begun_ns)
}

/// Whether sequence number `a` is past `b`.
#[inline(always)]
pub fn past(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The queue of the listener that was connected to, and what it dropped since.
#[inline(always)]
fn listener(flow: &Flow, out: &mut Sample) {
    if flow.listener_sk == 0 || !kernel::is(flow.listener_sk, flow.listener_cookie) {
        return;
    }
    out.known |= sampled::QUEUE;
    queue(flow.listener_sk, out);
    out.queue_drops = field!(flow.listener_sk, sk_drops, u32).wrapping_sub(flow.listener_drops);
}

#[inline(always)]
pub fn queue(listener: u64, out: &mut Sample) {
    out.queue_length = if kernel::family(listener) == AF_UNIX {
        field!(listener, sk_receive_queue_len, u32)
    } else {
        field!(listener, sk_ack_backlog, u32)
    };
    out.queue_limit = field!(listener, sk_max_ack_backlog, u32);
}

/// The other end of a connected Unix socket: it stays readable while this end holds it.
#[inline(always)]
fn unix_peer(sk: u64, out: &mut Sample) {
    let peer = field!(sk, unix_peer, u64);
    if peer == 0 {
        return;
    }
    let alive = field!(peer, sk_socket, u64) != 0;
    let dead = field!(peer, sk_shutdown, u8) == 3 && !alive;
    if !dead {
        out.known |= sampled::PEER;
        out.accepted = u8::from(alive);
        out.read = u8::from(field!(peer, sk_receive_queue_len, u32) == 0);
    } else if offset!(unix_listener) != u32::MAX {
        // Closed: whether it had been accepted is still told by the listener it waited at (6.10+).
        out.state = if field!(peer, unix_listener, u64) == 0 {
            1
        } else {
            2
        };
    }
}

/// What became of the downstream: the client may have gone first.
#[inline(always)]
pub fn downstream_state(sk: u64, cookie: u64) -> u8 {
    if cookie == 0 || !kernel::is(sk, cookie) {
        return downstream::UNKNOWN;
    }
    if kernel::family(sk) == AF_UNIX {
        return downstream::UNKNOWN;
    }
    match i32::from(field!(sk, skc_state, u8)) {
        TCP_CLOSE_WAIT | TCP_LAST_ACK => downstream::CLOSED,
        TCP_CLOSE => downstream::RESET,
        TCP_ESTABLISHED => downstream::OPEN,
        // The proxy itself has closed it.
        _ => downstream::UNKNOWN,
    }
}
