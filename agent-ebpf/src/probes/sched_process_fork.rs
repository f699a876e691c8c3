//! `sched:sched_process_fork`: a proxy's new worker or thread is watched, a server's new worker known.
//!
//! `void sched_process_fork(struct task_struct *parent, struct task_struct *child)`, 2.6.

use aya_ebpf::{
    helpers::bpf_get_current_comm, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    field, flow,
    maps::SERVERS,
    probes::{
        add_server,
        sched_process_exec::{started, watch},
    },
};

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const u8 = ctx.arg(0);
    let child: *const u8 = ctx.arg(1);
    let (parent, child) = (parent as u64, child as u64);
    // The parent is the current task.
    if flow::is_watched() {
        let (pid, tgid) = (field!(child, task_pid, u32), field!(child, task_tgid, u32));
        let lazy = flow::thread().map_or(0, |(thread, _, _)| thread.lazy);
        watch(pid, tgid, lazy);
        if pid == tgid {
            started(tgid, bpf_get_current_comm().unwrap_or_default());
        }
    }
    if SERVERS.get_ptr(field!(parent, task_tgid, u32)).is_some() {
        add_server(field!(child, task_tgid, u32));
    }
    0
}
