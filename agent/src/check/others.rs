//! Facts that no hook gives, and what each needs.

use caps::Capability;

use super::{Host, Line, Needs};
use crate::privileges;
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

pub(super) fn lines(host: &Host<'_>) -> [Line; 5] {
    let processes = lacking(host, privileges::PROCESSES);
    let logs = lacking(host, &[privileges::PROCESSES, privileges::FILES].concat());
    let namespaces = [privileges::NAMESPACES, privileges::PROCESSES].concat();
    let elsewhere = host.packets.clone().or(lacking(host, &namespaces));
    [
        identity(host),
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

fn lacking(host: &Host<'_>, rights: &[Capability]) -> Option<String> {
    let lacking = privileges::lacking(host.held, rights);
    let names: Vec<_> = lacking.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => None,
        [name] => Some(format!("{name} is missing")),
        names => Some(format!("{} are missing", names.join(" and "))),
    }
}

/// Without it nothing is proven: what is told of a socket may be of the one before it at its address.
fn identity(host: &Host<'_>) -> Line {
    let reason = match &host.loaded {
        Ok((_, missing)) => missing
            .iter()
            .find(|name| layout::fact_of(name) == Some(IDENTITY))
            .map(|name| format!("this kernel has no {name}")),
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
