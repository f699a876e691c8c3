//! Ends of connections from elsewhere: decoded, and whose they were.
//!
//! Verdicts know nothing of this: no process that is read here is told to anybody else.

use agent_ebpf::FarEnd;

use super::*;
use crate::signal::{ClosedBy, Home, InitialSequenceNumbers, Process, Software, UpstreamEnd};
use crate::sources::process::Seen;

/// Processes that are kept, and for how long one is taken for the same without a look.
const KEPT: usize = 2048;
const TRUSTED: Duration = Duration::from_secs(10);

/// Who serves: read ahead, for what dies has no memory left to read.
#[derive(Debug, Default)]
pub(super) struct Servers {
    by_pid: StdMap<u32, (Seen, Instant)>,
    /// Of the ends that the kernel half has left out, those that are told; and what was left out here.
    told: u64,
    left_out: u64,
}

impl Watch {
    pub(super) fn far_end(&mut self, far: &FarEnd) {
        let mut end = decoded(far, clock::tick_ns());
        let listener = self.listeners.tcp(far.ends.netns, &end.upstream);
        // A client dies as a server does. And a caller on this host is no node's proxy.
        let Some(listener) = listener.map(|known| known.pid) else {
            return;
        };
        if end.caller.is_loopback() {
            return;
        }
        let closer = match end.by {
            ClosedBy::Upstream => far.header.tgid,
            ClosedBy::Proxy => listener,
        };
        end.server = self.server(closer, listener);
        let new = far.left_out.saturating_sub(self.servers.told);
        end.left_out = new + self.servers.left_out;
        let signal = Signal {
            at: far.header.at,
            source: Source::Kernel,
            fact: Fact::UpstreamEnded(Box::new(end)),
        };
        if self.try_send(signal) {
            (self.servers.told, self.servers.left_out) = (far.left_out, 0);
        } else {
            self.servers.left_out += 1;
        }
    }

    /// Reads ahead who listens, and their workers.
    pub(super) fn read_servers(&mut self) {
        if !self.selection.asked.far_ends {
            return;
        }
        let tcp = self.listeners.iter().filter(|k| !k.address.is_unix());
        let owners: HashSet<u32> = tcp.map(|known| known.pid).collect();
        for pid in owners {
            self.read_server(pid);
            let supervises = self.servers.by_pid.get(&pid);
            if supervises.is_some_and(|(seen, _)| seen.process.software.supervises()) {
                for worker in process::children(pid) {
                    self.read_server(worker);
                }
            }
        }
    }

    fn read_server(&mut self, pid: u32) {
        let now = Instant::now();
        let kept = self.servers.by_pid.get(&pid);
        if kept.is_some_and(|(seen, asked)| now < *asked + TRUSTED && !seen.unnamed && !seen.untold)
        {
            return;
        }
        let Some(seen) = process::read(pid, &mut self.homes) else {
            return;
        };
        if self.servers.by_pid.len() >= KEPT {
            let by_pid = &mut self.servers.by_pid;
            by_pid.retain(|pid, (seen, _)| process::incarnation(*pid) == Some(seen.incarnation));
        }
        if self.servers.by_pid.len() < KEPT || self.servers.by_pid.contains_key(&pid) {
            self.servers.by_pid.insert(pid, (seen, now));
        }
    }

    /// Who closed it; what cannot be read of a worker that dies is its listener's owner's.
    fn server(&mut self, closer: u32, listener: u32) -> Option<Process> {
        for pid in [closer, listener] {
            self.read_server(pid);
        }
        let known = |pid: u32| Some(self.servers.by_pid.get(&pid)?.0.process.clone());
        worker(closer, known(closer), known(listener))
    }
}

fn worker(pid: u32, own: Option<Process>, listeners: Option<Process>) -> Option<Process> {
    let Some(mut own) = own else {
        return listeners.map(|process| Process { pid, ..process });
    };
    if let Some(listeners) = listeners {
        if own.software == Software::Other {
            own.software = listeners.software;
        }
        if own.home == Home::default() {
            own.home = listeners.home;
        }
    }
    Some(own)
}

fn decoded(far: &FarEnd, tick_ns: u64) -> UpstreamEnd {
    let ends = &far.ends;
    let ticks = |count: u32| u64::from(count) * tick_ns;
    let died = far.exiting != 0;
    UpstreamEnd {
        flow: far.cookie,
        upstream: decode::inet(ends.family, &ends.local, ends.local_port),
        caller: decode::inet(ends.family, &ends.remote, ends.remote_port),
        by: match far.by_caller {
            0 => ClosedBy::Upstream,
            _ => ClosedBy::Proxy,
        },
        reset: far.reset != 0,
        accepted: far.accepted != 0,
        unread: u64::from(far.unread),
        unanswered: far.unanswered != 0,
        idle_ns: ticks(far.idle_ticks),
        waited_ns: ticks(far.waited_ticks),
        exit_signal: died.then_some((far.exit_code & 0x7f) as u8),
        exit_status: died.then_some((far.exit_code >> 8 & 0xff) as u8),
        isn: InitialSequenceNumbers {
            client: far.caller_isn,
            server: far.own_isn,
        },
        server: None,
        left_out: 0,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn an_end_is_told_from_the_servers_side() {
        let mut far = FarEnd::new_zeroed();
        far.ends.family = 2;
        (far.ends.local_port, far.ends.remote_port) = (9000, 40_112);
        far.ends.local[..4].copy_from_slice(&[10, 60, 1, 2]);
        far.ends.remote[..4].copy_from_slice(&[10, 60, 1, 1]);
        (far.accepted, far.unanswered, far.exiting) = (1, 1, 1);
        far.exit_code = 3 << 8 | 9;
        (far.idle_ticks, far.waited_ticks) = (2, 250);
        let end = decoded(&far, 4_000_000);
        assert_eq!(end.upstream.0, "10.60.1.2:9000");
        assert_eq!(end.caller.0, "10.60.1.1:40112");
        assert_eq!((end.idle_ns, end.waited_ns), (8_000_000, 1_000_000_000));
        assert_eq!((end.exit_signal, end.exit_status), (Some(9), Some(3)));
        assert_eq!(end.by, ClosedBy::Upstream);
        // Nobody died.
        (far.exiting, far.by_caller) = (0, 1);
        let end = decoded(&far, 1);
        assert_eq!((end.exit_signal, end.exit_status), (None, None));
        assert_eq!(end.by, ClosedBy::Proxy);
    }

    #[test]
    fn what_dies_is_known_by_who_listened() {
        let process = |pid: u32, name: &str, software: Software, container: Option<&str>| Process {
            pid,
            parent: 1,
            name: name.to_owned(),
            software,
            settings: Vec::new(),
            started: 0,
            netns: 1,
            sagemaker: false,
            home: Home {
                container: container.map(str::to_owned),
                ..Home::default()
            },
        };
        let master = process(7, "gunicorn", Software::Gunicorn, Some("orders"));
        // Too late to read.
        let gone = worker(9, None, Some(master.clone())).unwrap();
        assert_eq!((gone.pid, gone.name.as_str()), (9, "gunicorn"));
        // Its own name, all else its master's.
        let dying = process(9, "worker", Software::Other, None);
        let known = worker(9, Some(dying), Some(master.clone())).unwrap();
        assert_eq!((known.pid, known.name.as_str()), (9, "worker"));
        assert_eq!(known.software, Software::Gunicorn);
        assert_eq!(known.home, master.home);
        assert_eq!(worker(9, None, None), None);
    }
}
