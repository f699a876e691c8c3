//! Called by `inet_sock_set_state`: the end of a connection that a process of this host took from elsewhere.
//!
//! Told where it looks failed from here, or was the serving side's to choose, and only where it is wanted
//! (`LAYOUT.second_ticks`). Nothing is kept of such connections: all is read from the socket as it ends.

use agent_ebpf::{Ends, FarEnd, kind};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    emit, field,
    kernel::{self, AF_INET6, TCP_CLOSE, TCP_CLOSE_WAIT},
    maps::EVENTS,
    offset,
    probes::{
        exiting,
        inet_sock_set_state::{LOOPBACK6, held_by_process, key_of, listener_at},
    },
    sample, slots,
};

/// So many are told in a second, and a few more where several processors count at once.
const PER_SECOND: u64 = 256;

/// The second in which `TOLD` counts.
static mut SECOND: u64 = 0;
static mut TOLD: u64 = 0;
static mut LEFT_OUT: u64 = 0;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tell_far_end(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let new: i32 = ctx.arg(2);
    if kernel::direct::tcp(sk).is_some() {
        tell(sk, new);
    }
    0
}

#[inline(always)]
fn tell(sk: *const u8, new: i32) {
    let at = sk as u64;
    // An error ends it from outside: a reset received, a timer. Its own close leaves none.
    let fin = new == TCP_CLOSE_WAIT;
    let by_caller = fin || new == TCP_CLOSE && field!(at, sk_err, i32) != 0;
    // A FIN takes a sequence number.
    let unread = field!(at, rcv_nxt, u32)
        .wrapping_sub(field!(at, copied_seq, u32))
        .wrapping_sub(u32::from(fin));
    let received = field!(at, bytes_received, u64).wrapping_sub(u64::from(fin));
    let sent = field!(at, bytes_sent, u64);
    let ticks = kernel::ticks();
    let since_received = ticks.wrapping_sub(field!(at, lrcvtime, u32));
    let since_sent = ticks.wrapping_sub(field!(at, lsndtime, u32));
    // Within one tick nothing tells which was last.
    let unanswered = received != 0 && (sent == 0 || since_received < since_sent);
    let idle_ticks = if since_received < since_sent {
        since_received
    } else {
        since_sent
    };
    let failed = unanswered || unread != 0;
    let second = offset!(second_ticks);
    let dies = !by_caller && exiting();
    let wanted = if by_caller {
        // Sooner it is a farewell: of TLS, of a database's client.
        failed && since_received >= second
    } else {
        // Sooner it is the end of an answer, not of an idle connection.
        dies || failed || idle_ticks >= second / 2
    };
    // Most connections are done with by now.
    if !wanted {
        return;
    }
    let mut ends: Ends = kernel::zero();
    kernel::ends(at, &mut ends);
    if is_called_from_here(&ends) {
        return;
    }
    // What dies may have closed its listener before, and a client dies like a server: who listened is
    // the agent's to say.
    if !dies && listener_at(key_of(&ends)).is_none() {
        return;
    }
    let now = kernel::now();
    if !may_tell(now) {
        leave_out();
        return;
    }
    // Not `emit::reserve`: what is lost here is nothing that a verdict is made of.
    let Some(mut entry) = EVENTS.reserve::<FarEnd>(0) else {
        leave_out();
        return;
    };
    let cookie = field!(at, skc_cookie, u64);
    let exit_code = match dies {
        true => field!(kernel::task(), task_exit_code, u32),
        false => 0,
    };
    let caller_isn = sample::peer_isn(at);
    // Whoever is connected to does not count its SYN.
    let acked = field!(at, bytes_acked, u32);
    let own_isn = field!(at, snd_una, u32).wrapping_sub(acked).wrapping_sub(1);
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written. `LEFT_OUT` is a static.
    unsafe {
        (*out).header = emit::header(kind::FAR_END, now);
        (*out).ends = ends;
        (*out).cookie = cookie;
        (*out).left_out = (&raw const LEFT_OUT).read_volatile();
        (*out).unread = unread;
        (*out).idle_ticks = idle_ticks;
        (*out).waited_ticks = since_received;
        (*out).exit_code = exit_code;
        (*out).caller_isn = caller_isn;
        (*out).own_isn = own_isn;
        (*out).accepted = u8::from(held_by_process(sk));
        (*out).unanswered = u8::from(unanswered);
        (*out).by_caller = u8::from(by_caller);
        (*out).reset = u8::from(new == TCP_CLOSE);
        (*out).exiting = u8::from(dies);
        (*out).pad = [0; 3];
    }
    entry.submit(0);
}

/// The caller is a process of this host that is no watched proxy, and in the same network namespace.
#[inline(always)]
fn is_called_from_here(ends: &Ends) -> bool {
    let loopback = ends.family != AF_INET6 && ends.remote[0] == 127;
    loopback || ends.remote == LOOPBACK6 || ends.remote == ends.local
}

/// Whether one more is within what is told in a second.
#[inline(always)]
fn may_tell(now: u64) -> bool {
    let second = now / 1_000_000_000;
    // SAFETY: statics of this program; two that count at once may count one.
    unsafe {
        let (since, told) = (&raw mut SECOND, &raw mut TOLD);
        if since.read_volatile() != second {
            since.write_volatile(second);
            told.write_volatile(0);
        }
        let count = told.read_volatile();
        told.write_volatile(count + 1);
        count < PER_SECOND
    }
}

#[inline(always)]
fn leave_out() {
    // SAFETY: a static of this program, which is added to atomically.
    unsafe { slots::add(&mut *(&raw mut LEFT_OUT), 1) };
}
