//! Offsets of the kernel's structure members, from the running kernel's BTF.

use agent_ebpf::Layout;

use super::btf::Btf;
use super::hooks::{self, Kind};
use super::tracefs;

/// A member that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Before 5.12 no probe can have a socket's cookie made: what stands in for a missing member then.
pub const COOKIES: &str = "bpf_get_socket_cookie() for probes";

/// Where sends or receives are seen by system calls alone, and the inodes of sockets cannot be read: the same.
pub const TYPES: &str = "hook that hands over typed sockets for sends and receives";

/// What a socket is told by where it comes without a type.
const INODES: [&str; 2] = ["inode.i_ino", "socket_alloc.vfs_inode"];

/// What tells how long ago either side has sent anything, and whether it ever has.
pub const OF_FAR_ENDS: [&str; 5] = [
    "tcp_sock.bytes_acked",
    "tcp_sock.lsndtime",
    "tcp_sock.bytes_sent",
    "tcp_sock.bytes_received",
    "inet_connection_sock.icsk_ack.lrcvtime",
];

/// The kernel stack of a thread, on x86-64 and on arm64 with pages of 4 KiB.
const THREAD_SIZE: u32 = 16 << 10;

/// The fact that a missing member takes away; `None` for one that others make up for.
pub fn fact_of(member: &str) -> Option<&'static str> {
    Some(match member.split('.').next()? {
        "unix_sock" if member.ends_with("listener") => return None,
        "tcp_sock" if OF_FAR_ENDS.contains(&member) => return None,
        "net" if member.contains(".sysctl_") => return None,
        "inet_connection_sock" | "request_sock" => return None,
        COOKIES | TYPES => "socket_identity",
        "sk_buff" => "filter_drops",
        "task_struct" | "signal_struct" => "process_exits",
        "kernel_siginfo" => "signals",
        "files_struct" | "fdtable" | "file" | "socket" => "closes",
        "nsproxy" | "mnt_namespace" | "unix_sock" | "unix_address" => "connect_errors",
        "inode" | "socket_alloc" => "open_sockets",
        _ => "tcp_connections",
    })
}

macro_rules! layout {
    ($btf:expr, $missing:expr, { $($field:ident = $structure:literal . $path:literal),* $(,)? }) => {
        Layout {
            $($field: $btf.offset($structure, $path).unwrap_or_else(|| {
                $missing.push(concat!($structure, ".", $path));
                ABSENT
            }),)*
            closes_seen: 0,
            close_fd: ABSENT,
            connect_ret: ABSENT,
            listen_ret: ABSENT,
            victim_pid: ABSENT,
            untyped: 0,
            second_ticks: 0,
            tls_status: 0,
            task_nvcsw_untyped: $btf.offset("task_struct", "nvcsw").unwrap_or(ABSENT),
            stack_regs: ABSENT,
            mark_victim_task: u32::from($btf.arguments("btf_trace_mark_victim") == Some(2)),
            reset_reasons: u32::from($btf.arguments("btf_trace_tcp_send_reset") == Some(3)),
            tcp_recvmsg_flags: tcp_recvmsg($btf).0,
            tcp_recvmsg_arguments: tcp_recvmsg($btf).1,
            // `state` before 5.14.
            task_state: $btf
                .offset("task_struct", "__state")
                .or_else(|| $btf.offset("task_struct", "state"))
                .unwrap_or(ABSENT),
            netfilter_drop: $btf
                .enumerator("skb_drop_reason", "SKB_DROP_REASON_NETFILTER_DROP")
                .unwrap_or(ABSENT),
        }
    };
}

/// The layout, and the members that were not found.
pub fn read(btf: &Btf) -> (Layout, Vec<&'static str>) {
    let mut missing = Vec::new();
    let mut layout = layout!(btf, missing, {
        skc_family = "sock_common"."skc_family",
        skc_state = "sock_common"."skc_state",
        skc_daddr = "sock_common"."skc_daddr",
        skc_rcv_saddr = "sock_common"."skc_rcv_saddr",
        skc_v6_daddr = "sock_common"."skc_v6_daddr",
        skc_v6_rcv_saddr = "sock_common"."skc_v6_rcv_saddr",
        skc_dport = "sock_common"."skc_dport",
        skc_num = "sock_common"."skc_num",
        skc_cookie = "sock_common"."skc_cookie",
        skc_net = "sock_common"."skc_net",
        net_inum = "net"."ns.inum",
        net_somaxconn = "net"."core.sysctl_somaxconn",
        net_max_syn_backlog = "net"."ipv4.sysctl_max_syn_backlog",
        net_syncookies = "net"."ipv4.sysctl_tcp_syncookies",
        sk_socket = "sock"."sk_socket",
        sk_type = "sock"."sk_type",
        sk_err = "sock"."sk_err",
        sk_drops = "sock"."sk_drops",
        sk_shutdown = "sock"."sk_shutdown",
        sk_ack_backlog = "sock"."sk_ack_backlog",
        sk_max_ack_backlog = "sock"."sk_max_ack_backlog",
        sk_receive_queue_len = "sock"."sk_receive_queue.qlen",
        inet_sport = "inet_sock"."inet_sport",
        accept_head = "inet_connection_sock"."icsk_accept_queue.rskq_accept_head",
        request_next = "request_sock"."dl_next",
        request_sk = "request_sock"."sk",
        snd_una = "tcp_sock"."snd_una",
        write_seq = "tcp_sock"."write_seq",
        copied_seq = "tcp_sock"."copied_seq",
        rcv_nxt = "tcp_sock"."rcv_nxt",
        snd_wnd = "tcp_sock"."snd_wnd",
        srtt_us = "tcp_sock"."srtt_us",
        lsndtime = "tcp_sock"."lsndtime",
        lrcvtime = "inet_connection_sock"."icsk_ack.lrcvtime",
        total_retrans = "tcp_sock"."total_retrans",
        bytes_sent = "tcp_sock"."bytes_sent",
        bytes_received = "tcp_sock"."bytes_received",
        bytes_acked = "tcp_sock"."bytes_acked",
        unix_addr = "unix_sock"."addr",
        unix_peer = "unix_sock"."peer",
        unix_listener = "unix_sock"."listener",
        unix_address_len = "unix_address"."len",
        unix_address_name = "unix_address"."name",
        socket_file = "socket"."file",
        socket_sk = "socket"."sk",
        file_private_data = "file"."private_data",
        task_pid = "task_struct"."pid",
        task_tgid = "task_struct"."tgid",
        task_real_parent = "task_struct"."real_parent",
        task_exit_code = "task_struct"."exit_code",
        task_signal = "task_struct"."signal",
        task_files = "task_struct"."files",
        task_flags = "task_struct"."flags",
        task_nvcsw = "task_struct"."nvcsw",
        task_stack = "task_struct"."stack",
        task_sum_exec_runtime = "task_struct"."se.sum_exec_runtime",
        task_nsproxy = "task_struct"."nsproxy",
        nsproxy_mnt_ns = "nsproxy"."mnt_ns",
        mnt_namespace_inum = "mnt_namespace"."ns.inum",
        signal_live = "signal_struct"."live",
        files_fdt = "files_struct"."fdt",
        fdtable_fd = "fdtable"."fd",
        fdtable_max_fds = "fdtable"."max_fds",
        siginfo_si_code = "kernel_siginfo"."si_code",
        skb_head = "sk_buff"."head",
        skb_network_header = "sk_buff"."network_header",
        inode_ino = "inode"."i_ino",
        socket_inode = "socket_alloc"."vfs_inode",
    });
    let helper = |name| btf.enumerator("bpf_func_id", name).is_some();
    if !helper("BPF_FUNC_get_current_task_btf") {
        layout.task_nvcsw = ABSENT;
    }
    if !helper("BPF_FUNC_task_pt_regs") {
        layout.stack_regs = THREAD_SIZE.saturating_sub(btf.size("pt_regs").unwrap_or(0));
    }
    // The helper is older, but for other programs.
    if !btf.names("bpf_get_socket_ptr_cookie") {
        layout.skc_cookie = ABSENT;
        missing.push(COOKIES);
    }
    (layout, missing)
}

/// Where the fields of tracepoints' records are: to be read when tracefs is mounted.
pub fn read_formats(layout: &mut Layout) {
    for hook in hooks::all() {
        let Kind::Tracepoint { category, field } = hook.kind else {
            continue;
        };
        let place = match hook.name {
            "sys_enter_close" => &mut layout.close_fd,
            "sys_exit_connect" => &mut layout.connect_ret,
            "sys_exit_listen" => &mut layout.listen_ret,
            "mark_victim" => &mut layout.victim_pid,
            _ => continue,
        };
        let offset = tracefs::offset(&format!("{category}/{}", hook.name), field);
        *place = offset.unwrap_or(ABSENT);
    }
}

/// What is lacking besides, where sends or receives are seen without types.
pub fn lacking_untyped<T: AsRef<str>>(
    missing: impl IntoIterator<Item = T>,
) -> Option<&'static str> {
    let mut without_inodes = false;
    for member in missing {
        if [COOKIES, TYPES].contains(&member.as_ref()) {
            return None;
        }
        without_inodes |= INODES.contains(&member.as_ref());
    }
    without_inodes.then_some(TYPES)
}

/// Sends or receives are seen without types: cookies are made before, or, where that is not enough, not used.
pub fn without_types(layout: &mut Layout, missing: &mut Vec<&'static str>) {
    layout.untyped = 1;
    if let Some(lacking) = lacking_untyped(missing.iter()) {
        layout.skc_cookie = ABSENT;
        missing.push(lacking);
    }
}

/// The kernel's names for why it sends a reset, each at its number, without what they all begin with.
pub fn reset_reasons(btf: &Btf) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in btf.enumerators("sk_rst_reason") {
        let name = String::from_utf8_lossy(name);
        if value as usize == names.len() {
            names.push(name.trim_start_matches("SK_RST_REASON_").to_owned());
        }
    }
    names
}

/// Which argument of `tcp_recvmsg` has the flags (before 5.19 another one stands ahead of them), and how
/// many there are (7.3 has none behind them).
fn tcp_recvmsg(btf: &Btf) -> (u32, u32) {
    let parameters = btf.parameters("tcp_recvmsg").unwrap_or_default();
    let flags = parameters.iter().position(|name| name == "flags");
    (
        flags.map_or(3, |index| index as u32),
        parameters.len() as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_every_member() {
        let Ok(btf) = Btf::of_kernel() else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        let (layout, missing) = read(&btf);
        eprintln!("{layout:?}");
        assert!(
            missing.iter().all(|m| *m == "unix_sock.listener"),
            "{missing:?}"
        );
    }
}
