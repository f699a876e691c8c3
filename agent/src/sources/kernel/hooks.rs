//! The facts that the kernel half gives, and for each the ladder of hooks that can give it: the one list
//! that choosing, loading, `check` and metrics read.

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A BTF-typed tracepoint: needs CAP_BPF and CAP_PERFMON.
    BtfTracepoint,
    /// The way out of a kernel function, through a trampoline.
    FunctionExit,
    /// A tracepoint through tracefs, which also needs CAP_DAC_READ_SEARCH (the folder is 0700).
    Tracepoint { category: &'static str },
    /// A BPF iterator, read on demand.
    Iterator,
}

/// One program of the kernel half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program, named after the kernel function or tracepoint it sits on.
    pub name: &'static str,
    pub kind: Kind,
    /// The first kernel that has it as this program needs it.
    pub since: &'static str,
}

impl Hook {
    /// The name of the type or function in BTF that it cannot be attached without.
    pub fn in_btf(&self) -> Option<String> {
        match self.kind {
            Kind::BtfTracepoint => Some(format!("btf_trace_{}", self.name)),
            Kind::FunctionExit => Some(self.name.to_owned()),
            Kind::Iterator => Some(format!("bpf_iter_{}", self.name)),
            Kind::Tracepoint { .. } => None,
        }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::BtfTracepoint => write!(f, "tp_btf/{}", self.name),
            Kind::FunctionExit => write!(f, "fexit/{}", self.name),
            Kind::Tracepoint { category } => write!(f, "tracepoint/{category}/{}", self.name),
            Kind::Iterator => write!(f, "iter/{}", self.name),
        }
    }
}

/// Programs that give a fact together.
pub type Rung = [Hook];

/// A rung as `check` and metrics name it.
pub fn name(rung: &Rung) -> String {
    let names: Vec<_> = rung.iter().map(Hook::to_string).collect();
    names.join("+")
}

/// One fact, and the rungs that can give it, cheapest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Ladder {
    pub fact: &'static str,
    /// What is not seen without it, for people.
    pub gives: &'static str,
    /// Without it the program's main job cannot be done.
    pub core: bool,
    pub rungs: &'static [&'static Rung],
}

const fn btf(name: &'static str, since: &'static str) -> Hook {
    let kind = Kind::BtfTracepoint;
    Hook { name, kind, since }
}

const fn exit(name: &'static str, since: &'static str) -> Hook {
    let kind = Kind::FunctionExit;
    Hook { name, kind, since }
}

const fn tracefs(category: &'static str, name: &'static str) -> Hook {
    let kind = Kind::Tracepoint { category };
    let since = "4.7";
    Hook { name, kind, since }
}

/// In the order in which they are attached: state first, then what uses it.
pub const LADDERS: &[Ladder] = &[
    Ladder {
        fact: "proxy_starts",
        gives: "proxies started later",
        core: false,
        rungs: &[&[btf("sched_process_exec", "5.5")]],
    },
    Ladder {
        fact: "worker_starts",
        gives: "workers and threads started later",
        core: false,
        rungs: &[&[btf("sched_process_fork", "5.5")]],
    },
    Ladder {
        fact: "process_exits",
        gives: "deaths of upstream processes",
        core: false,
        rungs: &[&[btf("sched_process_exit", "5.5")]],
    },
    Ladder {
        fact: "signals",
        gives: "who killed or stopped an upstream process",
        core: false,
        rungs: &[&[btf("signal_generate", "5.5")]],
    },
    Ladder {
        fact: "oom_kills",
        gives: "kills for memory",
        core: false,
        rungs: &[&[tracefs("oom", "mark_victim")]],
    },
    Ladder {
        fact: "tcp_connections",
        gives: "connects, FINs, closes and listeners of TCP",
        core: true,
        rungs: &[&[btf("inet_sock_set_state", "5.9")]],
    },
    Ladder {
        fact: "resets_received",
        gives: "resets from upstreams",
        core: false,
        rungs: &[&[btf("tcp_receive_reset", "5.5")]],
    },
    Ladder {
        fact: "resets_sent",
        gives: "resets by upstreams on this host",
        core: false,
        rungs: &[&[btf("tcp_send_reset", "5.5")]],
    },
    Ladder {
        fact: "filter_drops",
        gives: "packets that a filter on this host drops",
        core: false,
        rungs: &[&[btf("kfree_skb", "5.17")]],
    },
    Ladder {
        fact: "reads",
        gives: "responses of upstreams, and what upstreams read",
        core: true,
        rungs: &[
            &[btf("sock_recv_length", "6.3")],
            &[
                exit("tcp_recvmsg", "5.5"),
                exit("unix_stream_recvmsg", "5.5"),
            ],
        ],
    },
    Ladder {
        fact: "writes",
        gives: "requests to upstreams, and responses of the proxy",
        core: true,
        rungs: &[
            &[btf("sock_send_length", "6.3")],
            &[
                exit("tcp_sendmsg", "5.5"),
                exit("unix_stream_sendmsg", "5.5"),
            ],
        ],
    },
    Ladder {
        fact: "connect_errors",
        gives: "errors of connect(), all of Unix sockets among them",
        core: true,
        rungs: &[&[tracefs("syscalls", "sys_exit_connect")]],
    },
    Ladder {
        fact: "closes",
        gives: "the proxy's timeouts on Unix sockets, and which response followed which close",
        core: false,
        rungs: &[&[tracefs("syscalls", "sys_enter_close")]],
    },
    Ladder {
        fact: "unix_listens",
        gives: "Unix listeners started later",
        core: false,
        rungs: &[&[tracefs("syscalls", "sys_exit_listen")]],
    },
    Ladder {
        fact: "open_sockets",
        gives: "connections and listeners older than the agent",
        core: false,
        rungs: &[&[Hook {
            name: "task_file",
            kind: Kind::Iterator,
            since: "5.8",
        }]],
    },
];

/// Every hook of every ladder.
pub fn all() -> impl Iterator<Item = &'static Hook> {
    LADDERS
        .iter()
        .flat_map(|ladder| ladder.rungs.iter().copied().flatten())
}
