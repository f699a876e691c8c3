//! `iter/task_file` (5.8; typed sockets from 5.11): every open socket of every process, in every network namespace.
//!
//! The agent reads it at its start, and when a listener appears, to know pools older than itself.

use agent_ebpf::Socket;
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_jiffies64, bpf_seq_write, bpf_sock_from_file},
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::{
    field,
    kernel::{self, AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM},
    maps::LISTENERS_ONLY,
    offset,
    probes::socket_behind,
};

/// `struct bpf_iter__task_file`: pointers, each padded to eight bytes.
#[repr(C)]
struct Context {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    pad: u32,
    file: *const u8,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn task_file(ctx: *mut core::ffi::c_void) -> i32 {
    let context = Iterator(ctx);
    let ctx = context.as_ptr().cast::<Context>();
    // SAFETY: the iterator's context; the verifier types its fields.
    let (meta, task, file) = unsafe { ((*ctx).meta, (*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    // Before the ways part: each of them would cost a verifier the whole of this.
    let mut out = Socket::new_zeroed();
    let mut cookie = 0;
    let (socket, sk) = if crate::offset!(skc_cookie) == u32::MAX {
        let socket = socket_behind(file as u64);
        (socket, field!(socket, socket_sk, u64))
    } else {
        // SAFETY: a typed file.
        let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) } as *const u8;
        if socket.is_null() {
            return 0;
        }
        // A direct load keeps the pointer's type, which the cookie's helper wants.
        let typed = crate::member!(socket, socket_sk, *const u8);
        if typed.is_null() {
            return 0;
        }
        cookie = kernel::cookie(typed);
        (socket as u64, typed as u64)
    };
    if sk == 0 {
        return 0;
    }
    let family = kernel::family(sk);
    let kind = field!(sk, sk_type, u16);
    if kind != SOCK_STREAM || (family != AF_INET && family != AF_INET6 && family != AF_UNIX) {
        return 0;
    }
    let listens = i32::from(field!(sk, skc_state, u8)) == kernel::TCP_LISTEN;
    if !listens && LISTENERS_ONLY.get(0).is_some_and(|only| *only != 0) {
        return 0;
    }
    out.tgid = field!(task as u64, task_tgid, u32);
    let net = field!(sk, skc_net, u64);
    if offset!(net_somaxconn) != u32::MAX {
        out.somaxconn = field!(net, net_somaxconn, u32);
    }
    out.max_syn_backlog = u32::MAX;
    if offset!(net_max_syn_backlog) != u32::MAX && offset!(net_syncookies) != u32::MAX {
        out.max_syn_backlog = field!(net, net_max_syn_backlog, u32);
        // One byte from 5.13 on, the lowest of four before.
        out.syncookies = u32::from(field!(net, net_syncookies, u8));
    }
    out.sk = sk;
    out.kind = kind;
    out.state = field!(sk, skc_state, u8);
    kernel::ends(sk, &mut out.ends);
    if family == AF_UNIX {
        out.peer_sk = field!(sk, unix_peer, u64);
        out.own_path = u8::from(field!(sk, unix_addr, u64) != 0);
        out.queue_length = field!(sk, sk_receive_queue_len, u32);
    } else {
        out.snd_una = field!(sk, snd_una, u32);
        out.write_seq = field!(sk, write_seq, u32);
        out.rcv_nxt = field!(sk, rcv_nxt, u32);
        out.copied_seq = field!(sk, copied_seq, u32);
        out.queue_length = field!(sk, sk_ack_backlog, u32);
    }
    out.idle_ticks = idle_ticks(sk, family);
    out.queue_limit = field!(sk, sk_max_ack_backlog, u32);
    out.inode = crate::kernel::read::<u64>(
        socket + u64::from(crate::offset!(socket_inode)),
        crate::offset!(inode_ino),
    );
    // Without cookies the inode, which a socket keeps, tells it from others at every reading.
    out.cookie = if cookie == 0 {
        out.inode | 1 << 62
    } else {
        cookie
    };
    let bytes = out.as_bytes();
    // SAFETY: the iterator's own output.
    unsafe {
        bpf_seq_write(
            (*meta).seq.cast(),
            bytes.as_ptr().cast(),
            bytes.len() as u32,
        )
    };
    0
}

/// The kernel's own times of the last data are all there is of a connection older than the agent.
#[inline(always)]
fn idle_ticks(sk: u64, family: u16) -> u32 {
    if family == AF_UNIX || offset!(lsndtime) == u32::MAX || offset!(lrcvtime) == u32::MAX {
        return u32::MAX;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_jiffies64() } as u32;
    let sent = now.wrapping_sub(field!(sk, lsndtime, u32));
    let received = now.wrapping_sub(field!(sk, lrcvtime, u32));
    if sent < received { sent } else { received }
}

struct Iterator(*mut core::ffi::c_void);

impl aya_ebpf::EbpfContext for Iterator {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.0
    }
}
