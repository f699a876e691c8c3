//! `__sys_listen`, on its way out: as `syscalls:sys_exit_listen`, without tracefs.
//!
//! `int __sys_listen(int fd, int backlog)`, 4.17.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::probes::sys_exit_listen::listens;

#[fexit(function = "__sys_listen")]
pub fn __sys_listen(ctx: FExitContext) -> i32 {
    match ctx.arg::<i32>(2) {
        0 => listens() as i32,
        _ => 0,
    }
}
