//! `__x64_sys_close`, `__arm64_sys_close`: as `syscalls:sys_enter_close`, but no other system call pays for
//! it, and no tracefs is needed.
//!
//! `long __x64_sys_close(const struct pt_regs *regs)`, 4.17. What it calls changes its name too often.

use aya_ebpf::{macros::fentry, programs::FEntryContext};

use crate::{probes::sys_enter_close::closing, user::argument};

#[cfg(not(bpf_target_arch = "aarch64"))]
#[fentry(function = "__x64_sys_close")]
pub fn __x64_sys_close(_ctx: FEntryContext) -> i32 {
    closing(argument(0) as u32) as i32
}

#[cfg(bpf_target_arch = "aarch64")]
#[fentry(function = "__arm64_sys_close")]
pub fn __arm64_sys_close(_ctx: FEntryContext) -> i32 {
    closing(argument(0) as u32) as i32
}
