//! `syscalls:sys_exit_connect`: the errors that only connect()'s result tells (all of Unix sockets,
//! EADDRNOTAVAIL, ENETUNREACH), and the birth of Unix connections.
//!
//! Of its record `ret`. Any kernel with `CONFIG_FTRACE_SYSCALLS`.

use agent_ebpf::{Attempt, PATH, UnixKey, end, flow_flag, kind, role, sampled};
use aya_ebpf::{
    helpers::{bpf_probe_read_user, bpf_probe_read_user_buf, generated::bpf_ktime_get_ns},
    macros::tracepoint,
    programs::TracePointContext,
};

use crate::{
    emit, field, flow,
    kernel::{self, AF_INET, AF_INET6, AF_UNIX},
    maps::UNIX_LISTENERS,
    offset,
    probes::socket_of,
    sample,
    user::argument,
};

const EINPROGRESS: i64 = -115;
const EALREADY: i64 = -114;
const EISCONN: i64 = -106;
const EAGAIN: i64 = -11;
const EADDRNOTAVAIL: i64 = -99;
const ENETUNREACH: i64 = -101;
const EHOSTUNREACH: i64 = -113;
const EPERM: i64 = -1;
const EACCES: i64 = -13;

#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn sys_exit_connect(ctx: TracePointContext) -> u32 {
    let at = offset!(connect_ret) as usize;
    // SAFETY: the tracepoint's own record.
    match unsafe { ctx.read_at::<i64>(at) } {
        Ok(ret) => connected(ret),
        Err(_) => 0,
    }
}

/// The current thread's connect() has ended with this result.
#[inline(always)]
pub fn connected(ret: i64) -> u32 {
    let Some((thread, tid, tgid)) = flow::watched() else {
        return 0;
    };
    if ret == EINPROGRESS || ret == EALREADY || ret == EISCONN {
        return 0;
    }
    let address = argument(1);
    // SAFETY: the helper checks the address.
    let Ok(family) = (unsafe { bpf_probe_read_user(address as *const u16) }) else {
        return 0;
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if family == AF_UNIX {
        // A datagram socket (a log) is no attempt.
        let sk = socket_of(argument(0) as u32);
        if sk == 0 || field!(sk, sk_type, u16) != kernel::SOCK_STREAM {
            return 0;
        }
        if ret == 0 {
            // The flow must exist before the upstream reads; its identity follows at the first send.
            if let Some(flow) = flow::create_raw(sk, role::UPSTREAM, tgid, tid) {
                flow.begun_ns = now;
                flow.connected_ns = now;
            }
            watch_queue(address, false);
            return 0;
        }
        failed(thread, tgid, tid, family, address, ret, now);
    } else if (family == AF_INET || family == AF_INET6)
        && matches!(
            ret,
            EADDRNOTAVAIL | ENETUNREACH | EHOSTUNREACH | EPERM | EACCES
        )
    {
        // The attempt has begun already: its close ends it, with this errno.
        let sk = socket_of(argument(0) as u32);
        // Nor is one that asks a name server.
        if sk != 0 && field!(sk, sk_type, u16) != kernel::SOCK_STREAM {
            return 0;
        }
        if let Some(flow) = flow::find(sk)
            && flow.flags & flow_flag::CONNECTING != 0
            && flow.tgid == tgid
        {
            flow.flags |= flow_flag::CONNECT_FAILED;
            flow.send_errno = -ret as i32;
            return 0;
        }
        failed(thread, tgid, tid, family, address, ret, now);
    }
    0
}

/// The listener that this process calls by this path, sampled; its peak and overflows kept.
#[inline(always)]
fn watch_queue(address: u64, overflow: bool) -> Option<u64> {
    let mut key = UnixKey {
        mntns: mount_namespace(),
        path: [0; PATH],
    };
    read_path(address, argument(2), &mut key.path);
    let found = UNIX_LISTENERS.get_ptr_mut(key)?;
    // SAFETY: a map value; `peak` may lose a race, by one connection.
    let listener = unsafe { &mut *found };
    if !kernel::is(listener.sk, listener.cookie) {
        return None;
    }
    let length = field!(listener.sk, sk_receive_queue_len, u32);
    if length > listener.peak {
        listener.peak = length;
    }
    if overflow {
        listener.overflows += 1;
    }
    Some(listener.sk)
}

#[inline(always)]
fn mount_namespace() -> u32 {
    let namespace = field!(
        field!(kernel::task(), task_nsproxy, u64),
        nsproxy_mnt_ns,
        u64
    );
    field!(namespace, mnt_namespace_inum, u32)
}

/// Reads `sun_path`; `len` counts the family. Bytes behind the path stay zero.
#[inline(always)]
fn read_path(address: u64, len: u64, out: &mut [u8; PATH]) {
    let len = if len < 2 { 0 } else { len - 2 };
    let len = if len > PATH as u64 { PATH as u64 } else { len };
    // The bound once more, where every verifier sees it: volatile, or the compiler drops it.
    // SAFETY: a local.
    let len = unsafe { core::ptr::read_volatile(&raw const len) } as usize & 127;
    if len > PATH {
        return;
    }
    // SAFETY: `len` is at most PATH.
    let part = unsafe { core::slice::from_raw_parts_mut(out.as_mut_ptr(), len) };
    // SAFETY: the helper checks the address.
    let _ = unsafe { bpf_probe_read_user_buf((address + 2) as *const u8, part) };
}

/// An attempt that never had a connection.
#[inline(always)]
fn failed(
    thread: &mut agent_ebpf::Thread,
    tgid: u32,
    tid: u32,
    family: u16,
    address: u64,
    ret: i64,
    now: u64,
) {
    let Some(mut entry) = emit::reserve::<Attempt>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        if let Some(zero) = crate::maps::ZERO_FLOW.get_ptr(0) {
            emit::copy(&raw mut (*out).flow, zero);
        }
        let flow = &mut (*out).flow;
        (*out).header = emit::header(kind::ATTEMPT, now);
        // No socket outlives this: the time and the thread identify the attempt.
        flow.cookie = now | 1 << 63;
        flow.role = role::UPSTREAM;
        flow.tgid = tgid;
        flow.tid = tid;
        flow.begun_ns = now;
        flow.flags = flow_flag::ENDED;
        flow.ends.family = family;
        kernel::clear(&raw mut (*out).sample);
        if family == AF_UNIX {
            let len = argument(2);
            flow.ends.path_len = if len < 2 {
                0
            } else if len > PATH as u64 + 2 {
                PATH as u16
            } else {
                len as u16 - 2
            };
            read_path(address, len, &mut flow.ends.path);
            if let Some(listener) = watch_queue(address, ret == EAGAIN) {
                (*out).sample.known = sampled::QUEUE;
                sample::queue(listener, &mut (*out).sample);
            }
        } else {
            tcp_address(address, family, flow);
        }
        flow::link(flow, 0, thread, now);
        if let Some(downstream) = flow::of(flow.link_sk, flow.link_cookie) {
            downstream.flags |= flow_flag::FAILED;
        }
        (*out).downstream_read_ns = emit::downstream_read(flow.link_cookie);
        (*out).errno = -ret as i32;
        (*out).end = end::CONNECT_FAILED;
        (*out).pad = 0;
        emit::downstream(out, flow.link_sk, flow.link_cookie);
        emit::noticed(flow, thread);
    }
    entry.submit(0);
}

#[inline(always)]
fn tcp_address(address: u64, family: u16, flow: &mut agent_ebpf::Flow) {
    // SAFETY: the helpers check the address.
    unsafe {
        flow.ends.remote_port =
            u16::from_be(bpf_probe_read_user((address + 2) as *const u16).unwrap_or(0));
        if family == AF_INET6 {
            let _ = bpf_probe_read_user_buf((address + 8) as *const u8, &mut flow.ends.remote);
        } else {
            let v4: [u8; 4] =
                bpf_probe_read_user((address + 4) as *const [u8; 4]).unwrap_or([0; 4]);
            flow.ends.remote[..4].copy_from_slice(&v4);
        }
    }
}
