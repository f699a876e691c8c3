//! The probes, one file per kernel function or tracepoint.

mod __sys_connect;
mod __sys_listen;
mod far_end;
mod inet_sock_set_state;
mod kfree_skb;
mod mark_victim;
mod raw_syscalls;
mod sched_process_exec;
mod sched_process_exit;
mod sched_process_fork;
mod signal_generate;
mod sock_recv_length;
mod sock_send_length;
mod ssl_write;
mod sys_close;
mod sys_enter_close;
mod sys_exit_connect;
mod sys_exit_listen;
mod task_file;
mod tcp_receive_reset;
mod tcp_recvmsg;
mod tcp_send_reset;
mod tcp_sendmsg;
mod unix_stream_recvmsg;
mod unix_stream_sendmsg;

use agent_ebpf::counter;

use crate::{
    field, kernel,
    maps::{SERVERS, count},
    member, offset,
};

/// Marks a process as one that serves an upstream, and its parent as its supervisor.
#[inline(always)]
pub fn serve(tgid: u32) {
    if SERVERS.get_ptr(tgid).is_some() {
        return;
    }
    add_server(tgid);
    let parent = field!(
        field!(kernel::task(), task_real_parent, u64),
        task_tgid,
        u32
    );
    if parent > 1 && SERVERS.get_ptr(parent).is_none() {
        add_server(parent);
    }
}

/// Its end and the signals to it are told from now on.
#[inline(always)]
pub fn add_server(server: u32) {
    if SERVERS.insert(server, 1u32, 0).is_err() {
        count(counter::SERVERS_FULL);
    }
}

/// The current task is on its way out, and closes what it still holds.
#[inline(always)]
pub fn exiting() -> bool {
    const PF_EXITING: u32 = 4;
    field!(kernel::task(), task_flags, u32) & PF_EXITING != 0
}

/// The socket behind a descriptor of the current task, 0 if it is not one.
#[inline(always)]
pub fn socket_of(fd: u32) -> u64 {
    let file = if offset!(task_nvcsw) == u32::MAX {
        let table = field!(field!(kernel::task(), task_files, u64), files_fdt, u64);
        if fd >= field!(table, fdtable_max_fds, u32) {
            return 0;
        }
        kernel::read::<u64>(field!(table, fdtable_fd, u64), fd * 8)
    } else {
        // SAFETY: a typed pointer to the current task.
        let task = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf() } as *const u8;
        let files = member!(task, task_files, *const u8);
        let table = member!(files, files_fdt, *const u8);
        if fd >= member!(table, fdtable_max_fds, u32) {
            return 0;
        }
        kernel::read::<u64>(member!(table, fdtable_fd, u64), fd * 8)
    };
    match socket_behind(file) {
        0 => 0,
        socket => field!(socket, socket_sk, u64),
    }
}

/// The `struct socket` of a file, 0 if it is none of a socket.
#[inline(always)]
pub fn socket_behind(file: u64) -> u64 {
    if file == 0 {
        return 0;
    }
    let socket = field!(file, file_private_data, u64);
    // Only a socket's private data points back at its file.
    if socket == 0 || field!(socket, socket_file, u64) != file {
        return 0;
    }
    socket
}
