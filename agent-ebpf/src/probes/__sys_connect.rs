//! `__sys_connect`, on its way out: as `syscalls:sys_exit_connect`, but no other system call pays for it,
//! and no tracefs is needed.
//!
//! `int __sys_connect(int fd, struct sockaddr __user *uservaddr, int addrlen)`, 4.17.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::probes::sys_exit_connect::connected;

#[fexit(function = "__sys_connect")]
pub fn __sys_connect(ctx: FExitContext) -> i32 {
    connected(i64::from(ctx.arg::<i32>(3))) as i32
}
