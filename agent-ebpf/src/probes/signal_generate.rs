//! `signal:signal_generate`: signals to the processes that serve upstreams, and who sent them.
//!
//! `void signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`, 3.4.

use agent_ebpf::{SignalRecord, kind};
use aya_ebpf::{
    helpers::{bpf_get_current_comm, generated::bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{emit, field, maps::SERVERS};

/// Signals that end, stop or steer a server: all but the everyday ones (CHLD, PIPE, URG, WINCH, IO …).
const TOLD: u64 = 1 << 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 14
    | 1 << 15
    | 1 << 18
    | 1 << 19
    | 1 << 24
    | 1 << 25
    | 1 << 26
    | 1 << 27
    | 1 << 31;

/// `SEND_SIG_PRIV`: sent by the kernel itself.
const SEND_SIG_PRIV: u64 = 1;

#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let signal: i32 = ctx.arg(0);
    if !(1..32).contains(&signal) || TOLD & (1 << (signal as u32 & 31)) == 0 {
        return 0;
    }
    let task: *const u8 = ctx.arg(2);
    let task = task as u64;
    let to = field!(task, task_tgid, u32);
    if SERVERS.get_ptr(to).is_none() {
        return 0;
    }
    let info: *const u8 = ctx.arg(1);
    let info = info as u64;
    let by_kernel = match info {
        0 => false,
        SEND_SIG_PRIV => true,
        _ => field!(info, siginfo_si_code, i32) > 0,
    };
    if let Some(mut entry) = emit::reserve::<SignalRecord>() {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        entry.write(SignalRecord {
            header: emit::header(kind::SIGNAL, now),
            comm: bpf_get_current_comm().unwrap_or_default(),
            to,
            to_parent: field!(field!(task, task_real_parent, u64), task_tgid, u32),
            signal: signal as u32,
            by_kernel: u32::from(by_kernel),
        });
        entry.submit(0);
    }
    0
}
