//! `oom:mark_victim`: the kernel chose a process to kill for memory, on the host or in a cgroup.
//!
//! `void mark_victim(struct task_struct *task, uid_t uid)`; before 6.8 `void mark_victim(int pid)`. Through
//! tracefs: `pid`.

use agent_ebpf::{Oom, kind};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};

use crate::{emit, field, offset};

#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim_typed(ctx: BtfTracePointContext) -> i32 {
    if offset!(mark_victim_task) == 1 {
        let task: *const u8 = ctx.arg(0);
        tell(field!(task as u64, task_pid, u32)) as i32
    } else {
        tell(ctx.arg::<i32>(0) as u32) as i32
    }
}

#[tracepoint(category = "oom", name = "mark_victim")]
pub fn mark_victim(ctx: TracePointContext) -> u32 {
    let at = offset!(victim_pid) as usize;
    // SAFETY: the tracepoint's own record.
    match unsafe { ctx.read_at::<u32>(at) } {
        Ok(pid) => tell(pid),
        Err(_) => 0,
    }
}

#[inline(always)]
fn tell(pid: u32) -> u32 {
    if let Some(mut entry) = emit::reserve::<Oom>() {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        entry.write(Oom {
            header: emit::header(kind::OOM, now),
            pid,
            pad: 0,
        });
        entry.submit(0);
    }
    0
}
