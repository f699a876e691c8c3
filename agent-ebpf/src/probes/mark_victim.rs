//! `oom:mark_victim`: the kernel chose a process to kill for memory, on the host or in a cgroup.
//!
//! Format: `pid` at 8, the same from 5.10 to 7.2 (the BTF prototype is not).

use agent_ebpf::{Oom, kind};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::tracepoint, programs::TracePointContext,
};

use crate::emit;

#[tracepoint(category = "oom", name = "mark_victim")]
pub fn mark_victim(ctx: TracePointContext) -> u32 {
    // SAFETY: the tracepoint's own record.
    let Ok(pid) = (unsafe { ctx.read_at::<u32>(8) }) else {
        return 0;
    };
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
