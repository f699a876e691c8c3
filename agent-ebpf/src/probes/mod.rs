//! The probes, one file per kernel function or tracepoint.

mod inet_sock_set_state;
mod kfree_skb;
mod mark_victim;
mod sched_process_exec;
mod sched_process_exit;
mod sched_process_fork;
mod signal_generate;
mod sock_recv_length;
mod sock_send_length;
mod sys_enter_close;
mod sys_exit_connect;
mod sys_exit_listen;
mod task_file;
mod tcp_receive_reset;
mod tcp_send_reset;

use crate::{field, maps::SERVERS, member};

/// Marks a process as one that serves an upstream, and its parent as its supervisor.
#[inline(always)]
pub fn serve(tgid: u32) {
    if SERVERS.get_ptr(tgid).is_some() {
        return;
    }
    let _ = SERVERS.insert(tgid, 1u32, 0);
    // SAFETY: a typed pointer to the current task.
    let task = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf() } as u64;
    let parent = field!(field!(task, task_real_parent, u64), task_tgid, u32);
    if parent > 1 && SERVERS.get_ptr(parent).is_none() {
        let _ = SERVERS.insert(parent, 1u32, 0);
    }
}

/// The current task is on its way out, and closes what it still holds.
#[inline(always)]
pub fn exiting() -> bool {
    const PF_EXITING: u32 = 4;
    // SAFETY: a typed pointer to the current task.
    let task = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf() } as u64;
    field!(task, task_flags, u32) & PF_EXITING != 0
}

/// The socket behind a descriptor of the current task, 0 if it is not one.
#[inline(always)]
pub fn socket_of(fd: u32) -> u64 {
    // SAFETY: a typed pointer to the current task.
    let task = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf() } as *const u8;
    let files = member!(task, task_files, *const u8);
    let table = member!(files, files_fdt, *const u8);
    if fd >= member!(table, fdtable_max_fds, u32) {
        return 0;
    }
    let file = crate::kernel::read::<u64>(member!(table, fdtable_fd, u64), fd * 8);
    if file == 0 {
        return 0;
    }
    let socket = field!(file, file_private_data, u64);
    // Only a socket's private data points back at its file.
    if socket == 0 || field!(socket, socket_file, u64) != file {
        return 0;
    }
    field!(socket, socket_sk, u64)
}
