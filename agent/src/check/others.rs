//! Facts that no hook gives, and what each needs.

use caps::Capability;

use super::{Host, Line, Needs};
use crate::privileges::{self, Held};
use crate::sources::kernel::layout;

/// Whether a probe can tell a socket from the next one at its address.
const IDENTITY: &str = "socket_identity";
const PROCESSES: &str = "processes";
const LOGS: &str = "logs";
const PACKETS: &str = "packets";
const NAMESPACES: &str = "namespaces";

pub(super) const FACTS: [&str; 5] = [IDENTITY, PROCESSES, LOGS, PACKETS, NAMESPACES];

/// Why packets are not captured, where that is known without trying.
pub(super) const NOT_CAPTURED: &str = "CAP_NET_RAW is missing";

/// A fact, and why it cannot be seen.
pub(crate) type Sight = (&'static str, Option<String>);

/// Processes of other users.
pub(crate) fn processes(held: &Held) -> Sight {
    (PROCESSES, lacking(held, privileges::PROCESSES))
}

/// Logs of other users' proxies.
pub(crate) fn logs(held: &Held) -> Sight {
    (LOGS, lacking(held, &privileges::of_log_source()))
}

/// Packets in network namespaces other than this one.
pub(crate) fn namespaces(held: &Held) -> Sight {
    let rights = [privileges::NAMESPACES, privileges::PROCESSES].concat();
    (NAMESPACES, lacking(held, &rights))
}

/// Whether a socket is told from the next one at its address, by what the kernel lacks.
pub(crate) fn identity<'a>(missing: impl IntoIterator<Item = &'a str>) -> Sight {
    let mut missing = missing.into_iter();
    let lacks = missing.find(|name| layout::fact_of(name) == Some(IDENTITY));
    let why = lacks.map(|name| format!("this kernel has no {name}"));
    (IDENTITY, why)
}

pub(super) fn lines(host: &Host<'_>) -> [Line; 5] {
    let (_, processes) = processes(host.held);
    let (_, logs) = logs(host.held);
    let elsewhere = host.packets.clone().or(namespaces(host.held).1);
    [
        identity_line(host),
        Line {
            hook: "/proc/PID".to_owned(),
            gives: "other users' processes: what a slow one waits for, its name, settings and queues",
            remedy: processes.is_some().then_some("root or CAP_SYS_PTRACE"),
            needs: kept(privileges::PROCESSES),
            ..seen(PROCESSES, processes)
        },
        Line {
            hook: "/proc/PID/fd".to_owned(),
            gives: "other users' logs, found and followed",
            remedy: logs
                .is_some()
                .then_some("root or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"),
            needs: kept(&privileges::of_log_source()),
            ..seen(LOGS, logs)
        },
        Line {
            hook: "libpcap/any".to_owned(),
            gives: "TCP upstreams from packets alone: --source packets",
            remedy: host
                .packets
                .is_some()
                .then_some("root or CAP_NET_RAW: `setcap cap_net_raw=ep` on the program"),
            needs: kept(privileges::PACKETS),
            ..seen(PACKETS, host.packets.clone())
        },
        Line {
            hook: "setns".to_owned(),
            gives: "packets in other network namespaces",
            remedy: elsewhere
                .is_some()
                .then_some("root or CAP_NET_RAW, CAP_SYS_ADMIN and CAP_SYS_PTRACE"),
            needs: kept(&privileges::of_packet_source()),
            ..seen(NAMESPACES, elsewhere)
        },
    ]
}

fn seen(fact: &'static str, reason: Option<String>) -> Line {
    Line {
        fact,
        visible: reason.is_none(),
        hook: String::new(),
        core: false,
        gives: "",
        reason,
        remedy: None,
        needs: kept(&[]),
    }
}

/// What is needed from the start to the end.
fn kept(rights: &[Capability]) -> Needs {
    Needs::new(rights, rights)
}

fn lacking(held: &Held, rights: &[Capability]) -> Option<String> {
    let lacking = privileges::lacking(held, rights);
    let names: Vec<_> = lacking.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => None,
        [name] => Some(format!("{name} is missing")),
        names => Some(format!("{} are missing", names.join(" and "))),
    }
}

/// Without it nothing is proven: what is told of a socket may be of the one before it at its address.
fn identity_line(host: &Host<'_>) -> Line {
    let reason = match &host.loaded {
        Ok((_, missing)) => identity(missing.iter().map(String::as_str)).1,
        Err(why) => Some(why.clone()),
    };
    Line {
        hook: "bpf_get_socket_cookie".to_owned(),
        gives: "a socket told from the next one at its address: without it nothing is proven",
        remedy: reason.is_some().then_some("a kernel of 5.12 or later"),
        needs: super::probes_need(host.version, false),
        ..seen(IDENTITY, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(names: &[&str]) -> Held {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_missing_right_hides_only_what_needs_it() {
        let readable = held(&["CAP_SYS_PTRACE"]);
        assert_eq!(processes(&readable), (PROCESSES, None));
        let why = "CAP_DAC_READ_SEARCH is missing".to_owned();
        assert_eq!(logs(&readable), (LOGS, Some(why)));
        let why = "CAP_SYS_ADMIN is missing".to_owned();
        assert_eq!(namespaces(&readable), (NAMESPACES, Some(why)));
        let why = "CAP_SYS_PTRACE is missing".to_owned();
        assert_eq!(processes(&held(&["CAP_BPF"])), (PROCESSES, Some(why)));
    }

    #[test]
    fn sockets_are_told_apart_where_the_kernel_can() {
        assert_eq!(identity(["task_struct.nvcsw"]), (IDENTITY, None));
        let (_, why) = identity([layout::COOKIES]);
        assert!(why.unwrap().contains(layout::COOKIES));
    }
}
