//! What a recording would have lacked without each hook: the signals and fields that it alone gives,
//! and what the other hooks tell instead.

use std::collections::HashSet;

use why502::signal::{Attempt, End, Fact, FlowId, Peer, Signal};

type Take = fn(&mut Vec<Signal>);

/// Facts by a hook in their ladders, then other sources and facts.
pub(crate) const TAKEN: &[(&str, Take)] = &[
    ("sched_process_exec", |all| {
        all.retain(|s| !matches!(s.fact, Fact::ProxyStarted { .. }));
    }),
    ("sched_process_fork", later_workers),
    ("sched_process_exit", |all| {
        unseen(all, "process_exited", |f| {
            matches!(f, Fact::ProcessExited(_))
        });
    }),
    ("signal_generate", |all| {
        unseen(all, "signal_sent", |f| matches!(f, Fact::SignalSent(_)));
    }),
    ("mark_victim", |all| {
        unseen(all, "oom_killed", |f| matches!(f, Fact::OomKilled { .. }));
    }),
    ("inet_sock_set_state", tcp_states),
    ("tcp_receive_reset", resets_received),
    ("tcp_send_reset", |all| {
        peers(all, |tcp, peer| {
            if let Some(close) = peer.closed.as_mut().filter(|_| tcp) {
                close.reset = false;
            }
        });
    }),
    ("kfree_skb", |all| {
        attempts(all, |a| {
            if let Some(tcp) = &mut a.tcp {
                tcp.filtered = 0;
            }
        });
    }),
    ("sock_recv_length", |all| {
        readers(all);
        refused(all, "reads");
    }),
    ("sock_send_length", |all| {
        refused(all, "writes");
        all.retain(|s| !matches!(s.fact, Fact::ResponseSent(_)));
        attempts(all, |a| {
            a.request = None;
            a.idle_ns = None;
        });
    }),
    ("sys_exit_connect", connects),
    ("sys_enter_close", closes),
    ("sys_exit_listen", |all| {
        all.retain(|s| !matches!(&s.fact, Fact::ListenerSeen(l) if l.address.is_unix() && l.since.is_some()));
    }),
    ("task_file", |all| {
        all.retain(|s| !matches!(s.fact, Fact::ListenerSeen(_)));
        attempts(all, |a| a.queue = None);
    }),
    ("/proc", |all| {
        all.retain(|s| !matches!(s.fact, Fact::ProcessSeen(_) | Fact::ProcessSampled(_)));
    }),
    ("readers", readers),
    ("samples of threads", |all| {
        all.retain(|s| !matches!(s.fact, Fact::ProcessSampled(_)));
    }),
    ("queues", |all| attempts(all, |a| a.queue = None)),
    ("what comes after an attempt", |all| {
        all.retain(|s| !matches!(s.fact, Fact::FlowClosed(_)));
    }),
    ("an upstream on this host", |all| {
        attempts(all, |a| {
            a.peer = None;
            a.queue = None;
        });
        flows_closed(all, |_, peer| *peer = None);
        all.retain(|s| {
            !matches!(
                s.fact,
                Fact::ListenerSeen(_) | Fact::ProcessSampled(_) | Fact::ProcessSeen(_)
            )
        });
        unseen(all, "", |f| {
            matches!(
                f,
                Fact::ProcessExited(_) | Fact::SignalSent(_) | Fact::OomKilled { .. }
            )
        });
    }),
];

/// Removes signals, and the promise that they would have come.
fn unseen(all: &mut Vec<Signal>, kind: &str, unwanted: fn(&Fact) -> bool) {
    all.retain(|s| !unwanted(&s.fact));
    for signal in all {
        if let Fact::SourceStarted { sees, .. } = &mut signal.fact {
            sees.retain(|seen| seen != kind);
        }
    }
}

/// The source knows that it cannot see this.
fn refused(all: &mut [Signal], fact: &str) {
    for signal in all {
        if let Fact::SourceStarted { blind, .. } = &mut signal.fact {
            blind.push(fact.to_owned());
        }
    }
}

fn attempts(all: &mut [Signal], mut change: impl FnMut(&mut Attempt)) {
    for signal in all {
        match &mut signal.fact {
            Fact::AttemptEnded(attempt) => change(attempt),
            Fact::ResponseSent(response) => {
                if let Some(attempt) = &mut response.last_attempt {
                    change(attempt);
                }
            }
            _ => {}
        }
    }
}

/// Flows over TCP.
fn tcp_flows(all: &[Signal]) -> HashSet<FlowId> {
    let mut all = all.to_vec();
    let mut flows = HashSet::new();
    attempts(&mut all, |a| {
        if !a.upstream.is_unix() {
            flows.insert(a.flow);
        }
    });
    flows
}

/// Of each `FlowClosed`: whether it is TCP's, and the upstream's end.
fn flows_closed(all: &mut [Signal], mut change: impl FnMut(bool, &mut Option<Peer>)) {
    let tcp = tcp_flows(all);
    for signal in all {
        if let Fact::FlowClosed(closed) = &mut signal.fact {
            change(tcp.contains(&closed.flow), &mut closed.peer);
        }
    }
}

/// Of each view of an upstream's end: whether it is TCP's, and it.
fn peers(all: &mut [Signal], change: fn(bool, &mut Peer)) {
    attempts(all, |a| {
        let tcp = !a.upstream.is_unix();
        if let Some(peer) = &mut a.peer {
            change(tcp, peer);
        }
    });
    flows_closed(all, |tcp, peer| {
        if let Some(peer) = peer {
            change(tcp, peer);
        }
    });
}

/// Removes the attempts' ends that are not told, and the responses' ties to them.
fn untold(all: &mut Vec<Signal>, unwanted: fn(&Attempt) -> bool) -> Vec<Attempt> {
    let mut gone = Vec::new();
    all.retain(|s| match &s.fact {
        Fact::AttemptEnded(a) if unwanted(a) => {
            gone.push((**a).clone());
            false
        }
        _ => true,
    });
    let flows: HashSet<FlowId> = gone.iter().map(|a| a.flow).collect();
    for signal in all.iter_mut() {
        if let Fact::ResponseSent(response) = &mut signal.fact {
            response.adjacent = response.adjacent.filter(|flow| !flows.contains(flow));
        }
    }
    all.retain(|s| !matches!(&s.fact, Fact::AttemptRetried { flow } if flows.contains(flow)));
    gone
}

/// Workers of proxies that were started later are not watched.
fn later_workers(all: &mut Vec<Signal>) {
    let start = all.iter().find_map(|s| match s.fact {
        Fact::SourceStarted { .. } => Some(s.at),
        _ => None,
    });
    let later: HashSet<u32> = all
        .iter()
        .filter_map(|s| match &s.fact {
            Fact::ProcessSeen(p) if Some(p.started) > start => Some(p.pid),
            _ => None,
        })
        .collect();
    all.retain(|s| match &s.fact {
        Fact::AttemptEnded(a) => !later.contains(&a.proxy),
        Fact::ResponseSent(r) => !later.contains(&r.proxy),
        Fact::IdleClosed(c) => !later.contains(&c.proxy),
        _ => true,
    });
}

/// TCP is then known from reads and writes alone: a connection seen first when it is written to counts
/// as older than the agent, and neither its FIN nor the upstream's end is known.
fn tcp_states(all: &mut Vec<Signal>) {
    refused(all, "tcp_connections");
    untold(all, |a| {
        // These errnos connect() itself returns.
        let returned = matches!(
            a.end,
            End::ConnectFailed {
                errno: 99 | 101 | 113
            }
        );
        let connect = matches!(a.end, End::ConnectFailed { .. } | End::ConnectGivenUp);
        !a.upstream.is_unix() && connect && !returned
    });
    let tcp = tcp_flows(all);
    all.retain(|s| match &s.fact {
        Fact::FlowClosed(closed) => !tcp.contains(&closed.flow),
        Fact::IdleClosed(close) => close.upstream.is_unix(),
        Fact::ListenerSeen(l) => l.address.is_unix() || l.since.is_none(),
        _ => true,
    });
    attempts(all, |a| {
        if a.upstream.is_unix() {
            return;
        }
        if let Some(tcp) = &mut a.tcp {
            tcp.fin = None;
        }
        if !a.reused {
            a.reused = true;
            a.idle_ns = None;
            a.began = a.request.as_ref().map_or(a.began, |r| r.at);
        }
        a.connected = None;
        a.peer = None;
        a.queue = None;
    });
}

fn resets_received(all: &mut Vec<Signal>) {
    attempts(all, |a| {
        if let Some(tcp) = &mut a.tcp {
            tcp.reset_at = None;
        }
    });
    for signal in all {
        match &mut signal.fact {
            Fact::FlowClosed(closed) => closed.reset_at = None,
            Fact::IdleClosed(close) => close.reset = false,
            _ => {}
        }
    }
}

/// Who reads an upstream's end (without the proxy's own reads nothing would be left to judge).
fn readers(all: &mut Vec<Signal>) {
    all.retain(|s| !matches!(s.fact, Fact::ProcessSampled(_)));
    attempts(all, |a| {
        let (tcp, reader) = (
            a.tcp.is_some(),
            a.peer.as_ref().and_then(|p| p.reader.clone()),
        );
        let Some(peer) = &mut a.peer else { return };
        peer.reader = None;
        if let (Some(close), Some(reader), false) = (&mut peer.closed, reader, tcp) {
            // The end of a Unix connection is told by its reader alone.
            if close.pid == reader.pid {
                close.pid = 0;
            }
        }
    });
    peers(all, |_, peer| peer.reader = None);
}

/// No result of connect(): nothing of failures on Unix sockets, and their connections seem older than
/// the agent, unless the first read came too soon to be seen.
fn connects(all: &mut Vec<Signal>) {
    refused(all, "connect_errors");
    untold(all, |a| {
        let returned = matches!(
            a.end,
            End::ConnectFailed {
                errno: 99 | 101 | 113 | 1 | 13
            }
        );
        let failed = matches!(a.end, End::ConnectFailed { .. });
        (a.upstream.is_unix() && failed) || returned
    });
    attempts(all, |a| {
        if a.upstream.is_unix() && !a.reused {
            a.reused = true;
            a.idle_ns = None;
            a.began = a.request.as_ref().map_or(a.began, |r| r.at);
        }
    });
}

/// No close of the proxy's own: timeouts on Unix sockets are told with the response only, without the
/// upstream's end, and nothing but reads and writes ties a response to what its thread did before.
fn closes(all: &mut Vec<Signal>) {
    let gone = untold(all, |a| a.upstream.is_unix() && a.end == End::GivenUp);
    let mut silent = HashSet::new();
    attempts(all, |a| {
        let noticed_otherwise =
            matches!(a.end, End::PeerClosed | End::Reset | End::SendFailed { .. })
                || (a.upstream.is_unix() && a.end != End::GivenUp);
        if !noticed_otherwise {
            silent.insert(a.flow);
        }
    });
    for signal in all.iter_mut() {
        let Fact::ResponseSent(response) = &mut signal.fact else {
            continue;
        };
        response.adjacent = response.adjacent.filter(|flow| !silent.contains(flow));
        let waiting = gone.iter().find(|a| {
            let link = a.downstream.as_ref();
            link.is_some_and(|l| l.flow == response.downstream && l.ordinal == response.ordinal)
        });
        if let (Some(attempt), true) = (waiting, response.status.is_some()) {
            let mut attempt = attempt.clone();
            attempt.peer = None;
            response.last_attempt.get_or_insert(Box::new(attempt));
        }
    }
    all.retain(|s| !matches!(&s.fact, Fact::IdleClosed(c) if c.upstream.is_unix()));
}
