//! `sched:sched_process_exec`: a program was executed; proxies are watched from their first instruction.
//!
//! `void sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, 3.4.

use agent_ebpf::{COMM, Proxy, SLOTS, WATCHED_BLOCK, counter, kind, name};
use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{
    emit, flow,
    maps::{PROXY_NAMES, SLOT_THREADS, THREADS, WATCHED, ZERO_THREAD, count},
};

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    let Ok(comm) = bpf_get_current_comm() else {
        return 0;
    };
    let id = bpf_get_current_pid_tgid();
    let Some(kind) = PROXY_NAMES.get_ptr(comm) else {
        // A watched process became something else: a proxy's helper, or a shell's child.
        if flow::watched().is_some() {
            unwatch(id as u32);
        }
        return 0;
    };
    // SAFETY: a map value, written before the probe was attached.
    let lazy = u32::from(unsafe { *kind } == name::KEEPS_REQUESTS);
    let tgid = (id >> 32) as u32;
    watch(id as u32, tgid, lazy);
    started(tgid, comm);
    0
}

/// Tells the agent of a proxy's process.
#[inline(always)]
pub fn started(pid: u32, comm: [u8; COMM]) {
    if let Some(mut entry) = emit::reserve::<Proxy>() {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        entry.write(Proxy {
            header: emit::header(kind::PROXY, now),
            comm,
            pid,
            pad: 0,
        });
        entry.submit(0);
    }
}

/// Watches a thread.
#[inline(always)]
pub fn watch(tid: u32, tgid: u32, lazy: u32) {
    let Some(zero) = ZERO_THREAD.get(0) else {
        return;
    };
    if THREADS.insert(tid, zero, 0).is_err() {
        count(counter::THREADS_FULL);
        return;
    }
    if let Some(thread) = THREADS.get_ptr_mut(tid) {
        // SAFETY: just inserted.
        unsafe {
            (*thread).tgid = tgid;
            (*thread).lazy = lazy;
        }
    }
    if let Some(slot) = SLOT_THREADS.get_ptr_mut(tid % SLOTS) {
        // SAFETY: a map value; two threads that start at once share the slot's last owner, and the
        // other one is looked up in the hash map.
        unsafe {
            if (*slot).owner == 0 {
                emit::copy(slot, zero);
                (*slot).tgid = tgid;
                (*slot).lazy = lazy;
                (*slot).owner = tid;
            }
        }
    }
    mark(tid, 1);
}

/// Sets the thread's byte in the filter.
#[inline(always)]
fn mark(tid: u32, value: u8) {
    if let Some(block) = WATCHED.get_ptr_mut(tid / WATCHED_BLOCK as u32) {
        // SAFETY: a map value; the byte is this thread's own.
        unsafe { (*block)[tid as usize % WATCHED_BLOCK] = value };
    }
}

/// Forgets a thread.
#[inline(always)]
pub fn unwatch(tid: u32) {
    let _ = THREADS.remove(tid);
    if let Some(slot) = SLOT_THREADS.get_ptr_mut(tid % SLOTS) {
        // SAFETY: a map value.
        unsafe {
            if (*slot).owner == tid {
                (*slot).owner = 0;
            }
        }
    }
    mark(tid, 0);
}
