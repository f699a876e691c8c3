//! `sched:sched_process_exit`: a watched thread is gone; the end of a proxy or of an upstream's process is told.
//!
//! `void sched_process_exit(struct task_struct *p, bool group_dead)`; before 6.18 without `group_dead`.

use agent_ebpf::{Exit, kind};
use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{emit, field, flow, kernel, maps::SERVERS, probes::sched_process_exec::unwatch};

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let watched = flow::watched().is_some();
    if watched {
        unwatch(id as u32);
    }
    let serves = SERVERS.get_ptr(tgid).is_some();
    if !watched && !serves {
        return 0;
    }
    let task = kernel::task();
    // Threads left in the group: only the last one's end is the process's.
    if field!(field!(task, task_signal, u64), signal_live, u32) != 0 {
        return 0;
    }
    let _ = SERVERS.remove(tgid);
    if let Some(mut entry) = emit::reserve::<Exit>() {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        entry.write(Exit {
            header: emit::header(kind::EXIT, now),
            parent: field!(field!(task, task_real_parent, u64), task_tgid, u32),
            code: field!(task, task_exit_code, u32),
            comm: bpf_get_current_comm().unwrap_or_default(),
            was_proxy: u32::from(watched),
            pad: 0,
        });
        entry.submit(0);
    }
    0
}
