//! The facts that the kernel half gives, and for each the ladder of hooks that can give it: the one list
//! that choosing, loading, `check` and metrics read.

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A BTF-typed tracepoint: needs CAP_BPF and CAP_PERFMON.
    BtfTracepoint,
    /// The way into a kernel function, or out of it, through a trampoline.
    FunctionEntry,
    FunctionExit,
    /// A tracepoint through tracefs, which also needs CAP_DAC_READ_SEARCH (the folder is 0700).
    Tracepoint {
        category: &'static str,
        /// What the program reads of its record, where its `format` says that it is.
        field: &'static str,
    },
    /// A BPF iterator, read on demand.
    Iterator,
}

/// One program of the kernel half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The kernel function or tracepoint it sits on.
    pub name: &'static str,
    /// The program, which has the same name unless another sits on a tracepoint of that name.
    pub program: &'static str,
    pub kind: Kind,
    /// The first kernel that has it as this program needs it.
    pub since: &'static str,
    /// Where it is, if not on every kind of machine (`uname -m`).
    pub machine: Option<&'static str>,
}

impl Hook {
    /// The kernel function that its trampoline is put into.
    pub fn function(&self) -> Option<&'static str> {
        matches!(self.kind, Kind::FunctionEntry | Kind::FunctionExit).then_some(self.name)
    }

    /// The name of the type or function in BTF that it cannot be attached without.
    pub fn in_btf(&self) -> Option<String> {
        match self.kind {
            Kind::BtfTracepoint => Some(format!("btf_trace_{}", self.name)),
            Kind::FunctionEntry | Kind::FunctionExit => Some(self.name.to_owned()),
            Kind::Iterator => Some(format!("bpf_iter_{}", self.name)),
            Kind::Tracepoint { .. } => None,
        }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::BtfTracepoint => write!(f, "tp_btf/{}", self.name),
            Kind::FunctionEntry => write!(f, "fentry/{}", self.name),
            Kind::FunctionExit => write!(f, "fexit/{}", self.name),
            Kind::Tracepoint { category, .. } => write!(f, "tracepoint/{category}/{}", self.name),
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

impl Ladder {
    /// The rungs that there are on this kind of machine (`uname -m`).
    pub fn rungs_on(&self, machine: &str) -> impl Iterator<Item = &'static Rung> {
        let here = move |hook: &Hook| hook.machine.is_none_or(|other| other == machine);
        let rungs = self.rungs.iter().copied();
        rungs.filter(move |rung| rung.iter().all(here))
    }
}

const fn hook(kind: Kind, name: &'static str, since: &'static str) -> Hook {
    Hook {
        name,
        program: name,
        kind,
        since,
        machine: None,
    }
}

const fn btf(name: &'static str, since: &'static str) -> Hook {
    hook(Kind::BtfTracepoint, name, since)
}

const fn exit(name: &'static str) -> Hook {
    hook(Kind::FunctionExit, name, "5.5")
}

const fn tracefs(category: &'static str, name: &'static str, field: &'static str) -> Hook {
    hook(Kind::Tracepoint { category, field }, name, "4.7")
}

/// close() as the system call's table names it there.
const fn close(name: &'static str, machine: &'static str) -> Hook {
    Hook {
        machine: Some(machine),
        ..hook(Kind::FunctionEntry, name, "5.5")
    }
}

/// What every system call of the host pays for: last, but it needs neither fexit nor tracefs.
const fn call(name: &'static str, program: &'static str) -> Hook {
    Hook {
        program,
        ..btf(name, "5.5")
    }
}

/// Hands over no socket that has a type, so that its programs can have no cookie made.
pub const UNTYPED: &str = "sys_exit";

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
        rungs: &[
            &[Hook {
                program: "mark_victim_typed",
                ..btf("mark_victim", "5.5")
            }],
            &[tracefs("oom", "mark_victim", "pid")],
        ],
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
            &[exit("tcp_recvmsg"), exit("unix_stream_recvmsg")],
            &[call(UNTYPED, "call_receives")],
        ],
    },
    Ladder {
        fact: "writes",
        gives: "requests to upstreams, and responses of the proxy",
        core: true,
        rungs: &[
            &[btf("sock_send_length", "6.3")],
            &[exit("tcp_sendmsg"), exit("unix_stream_sendmsg")],
            &[call(UNTYPED, "call_sends")],
        ],
    },
    Ladder {
        fact: "connect_errors",
        gives: "errors of connect(), all of Unix sockets among them",
        core: true,
        // A tracepoint of one system call makes all of them slower.
        rungs: &[
            &[exit("__sys_connect")],
            &[tracefs("syscalls", "sys_exit_connect", "ret")],
            &[call("sys_exit", "call_connects")],
        ],
    },
    Ladder {
        fact: "closes",
        gives: "the proxy's timeouts on Unix sockets, and which response followed which close",
        core: false,
        rungs: &[
            &[close("__x64_sys_close", "x86_64")],
            &[close("__arm64_sys_close", "aarch64")],
            &[tracefs("syscalls", "sys_enter_close", "fd")],
            &[call("sys_enter", "call_closes")],
        ],
    },
    Ladder {
        fact: "unix_listens",
        gives: "Unix listeners started later",
        core: false,
        rungs: &[
            &[exit("__sys_listen")],
            &[tracefs("syscalls", "sys_exit_listen", "ret")],
            &[call("sys_exit", "call_listens")],
        ],
    },
    Ladder {
        fact: "open_sockets",
        gives: "connections and listeners older than the agent",
        core: false,
        rungs: &[&[hook(Kind::Iterator, "task_file", "5.8")]],
    },
];

/// Every hook of every ladder.
pub fn all() -> impl Iterator<Item = &'static Hook> {
    LADDERS
        .iter()
        .flat_map(|ladder| ladder.rungs.iter().copied().flatten())
}
