//! The hooks, and the fact each gives: the one list that loading, `check` and metrics read.

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A BTF-typed tracepoint: needs CAP_BPF and CAP_PERFMON.
    BtfTracepoint,
    /// A tracepoint through tracefs, which also needs CAP_DAC_READ_SEARCH (the folder is 0700).
    Tracepoint { category: &'static str },
    /// A BPF iterator, read on demand.
    Iterator,
}

/// One program of the kernel half.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program, named after the kernel function or tracepoint it sits on.
    pub name: &'static str,
    pub kind: Kind,
    /// The fact that it alone gives.
    pub fact: &'static str,
    /// What is not seen without it, for people.
    pub gives: &'static str,
    /// Without it the program's main job cannot be done.
    pub core: bool,
}

const fn btf(name: &'static str, fact: &'static str, core: bool, gives: &'static str) -> Hook {
    Hook {
        name,
        kind: Kind::BtfTracepoint,
        fact,
        gives,
        core,
    }
}

const fn tracefs(
    category: &'static str,
    name: &'static str,
    fact: &'static str,
    core: bool,
    gives: &'static str,
) -> Hook {
    Hook {
        name,
        kind: Kind::Tracepoint { category },
        fact,
        gives,
        core,
    }
}

/// In the order in which they are attached: state first, then what uses it.
pub const HOOKS: &[Hook] = &[
    btf(
        "sched_process_exec",
        "proxy_starts",
        false,
        "proxies started later",
    ),
    btf(
        "sched_process_fork",
        "worker_starts",
        false,
        "workers and threads started later",
    ),
    btf(
        "sched_process_exit",
        "process_exits",
        false,
        "deaths of upstream processes",
    ),
    btf(
        "signal_generate",
        "signals",
        false,
        "who killed or stopped an upstream process",
    ),
    tracefs("oom", "mark_victim", "oom_kills", false, "kills for memory"),
    btf(
        "inet_sock_set_state",
        "tcp_connections",
        true,
        "connects, FINs, closes and listeners of TCP",
    ),
    btf(
        "tcp_receive_reset",
        "resets_received",
        false,
        "resets from upstreams",
    ),
    btf(
        "tcp_send_reset",
        "resets_sent",
        false,
        "resets by upstreams on this host",
    ),
    btf(
        "kfree_skb",
        "filter_drops",
        false,
        "packets that a filter on this host drops",
    ),
    btf(
        "sock_recv_length",
        "reads",
        true,
        "responses of upstreams, and what upstreams read",
    ),
    btf(
        "sock_send_length",
        "writes",
        true,
        "requests to upstreams, and responses of the proxy",
    ),
    tracefs(
        "syscalls",
        "sys_exit_connect",
        "connect_errors",
        true,
        "errors of connect(), all of Unix sockets among them",
    ),
    tracefs(
        "syscalls",
        "sys_enter_close",
        "closes",
        false,
        "the proxy's timeouts on Unix sockets, and which response followed which close",
    ),
    tracefs(
        "syscalls",
        "sys_exit_listen",
        "unix_listens",
        false,
        "Unix listeners started later",
    ),
    Hook {
        name: "task_file",
        kind: Kind::Iterator,
        fact: "open_sockets",
        gives: "connections and listeners older than the agent",
        core: false,
    },
];
