//! The open sockets of the host, as the kernel half's iterator lists them, and what follows from them. Pure.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use agent_ebpf::{Flow, ListenerKey, Socket, flow_flag, role};
use anyhow::{Context as _, Result};
use zerocopy::{FromBytes as _, FromZeros as _};

const AF_UNIX: u16 = 1;
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// Reads the iterator's output to its end.
pub fn read(mut from: impl Read) -> Result<Vec<Socket>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)
        .context("read the open sockets")?;
    let size = size_of::<Socket>();
    Ok(bytes
        .chunks_exact(size)
        .filter_map(|b| Socket::read_from_bytes(b).ok())
        .collect())
}

/// The listening sockets, each once, with the first process that holds it and all that do.
pub fn listeners(sockets: &[Socket]) -> Vec<(Socket, Vec<u32>)> {
    let mut found: HashMap<u64, (Socket, Vec<u32>)> = HashMap::new();
    for socket in sockets.iter().filter(|s| s.state == LISTEN) {
        let holders = &mut found
            .entry(socket.sk)
            .or_insert_with(|| (*socket, Vec::new()))
            .1;
        if !holders.contains(&socket.tgid) {
            holders.push(socket.tgid);
        }
    }
    let mut listeners: Vec<_> = found.into_values().collect();
    for (_, holders) in &mut listeners {
        holders.sort_unstable();
    }
    listeners.sort_by_key(|(socket, _)| socket.cookie);
    listeners
}

/// The key of a TCP listener in the kernel half's map; `None` for Unix.
pub fn listener_key(socket: &Socket) -> Option<ListenerKey> {
    let ends = &socket.ends;
    (ends.family != AF_UNIX).then_some(ListenerKey {
        netns: ends.netns,
        family: ends.family,
        port: ends.local_port,
        address: ends.local,
    })
}

/// Connections that watched processes had before the agent came, with the upstream's end where it
/// is on this host: by sequence numbers, which address translation and namespaces leave alone. They
/// were idle at `now` for ticks of this length.
pub fn older_flows(
    sockets: &[Socket],
    proxies: &HashSet<u32>,
    now: u64,
    tick_ns: u64,
) -> Vec<(u64, Flow)> {
    let listening: HashSet<(u32, u16)> = sockets
        .iter()
        .filter(|s| s.state == LISTEN && s.ends.family != AF_UNIX)
        .map(|s| (s.ends.netns, s.ends.local_port))
        .collect();
    let by_sequence: HashMap<(u32, u32), &Socket> = sockets
        .iter()
        .filter(|s| {
            s.ends.family != AF_UNIX && s.state == ESTABLISHED && !proxies.contains(&s.tgid)
        })
        .map(|s| ((s.write_seq, s.rcv_nxt), s))
        .collect();
    let mut flows = HashMap::new();
    for socket in sockets.iter().filter(|s| proxies.contains(&s.tgid)) {
        let tcp = socket.ends.family != AF_UNIX;
        if tcp && socket.state != ESTABLISHED && socket.state != CLOSE_WAIT {
            continue;
        }
        // A Unix socket without a name of its own whose other end has one called connect().
        let called =
            !tcp && socket.own_path == 0 && socket.peer_sk != 0 && socket.ends.path_len > 0;
        if !tcp && (socket.state != ESTABLISHED || !called) {
            continue;
        }
        let mut flow = Flow::new_zeroed();
        flow.cookie = socket.cookie;
        flow.tgid = socket.tgid;
        flow.tid = socket.tgid;
        flow.ends = socket.ends;
        flow.flags = flow_flag::OLDER;
        if socket.idle_ticks != u32::MAX {
            flow.begun_ns = now.saturating_sub(u64::from(socket.idle_ticks) * tick_ns);
        }
        flow.role = if tcp && listening.contains(&(socket.ends.netns, socket.ends.local_port)) {
            role::DOWNSTREAM
        } else {
            role::UPSTREAM
        };
        if flow.role == role::UPSTREAM
            && tcp
            && let Some(peer) = by_sequence.get(&(socket.rcv_nxt, socket.write_seq))
        {
            flow.peer_sk = peer.sk;
            flow.peer_cookie = peer.cookie;
            flow.peer_netns = peer.ends.netns;
            flow.peer_family = peer.ends.family;
            flow.peer_port = peer.ends.local_port;
            flow.peer_address = peer.ends.local;
        }
        flows.insert(socket.sk, flow);
    }
    flows.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(tgid: u32, sk: u64, state: u8, local: u16, remote: u16, seq: (u32, u32)) -> Socket {
        let mut s = Socket::new_zeroed();
        (s.tgid, s.sk, s.cookie, s.state) = (tgid, sk, sk + 1000, state);
        (s.ends.family, s.ends.local_port, s.ends.remote_port) = (2, local, remote);
        (s.write_seq, s.rcv_nxt) = seq;
        s
    }

    #[test]
    fn a_pool_older_than_the_agent_is_joined_by_sequence_numbers() {
        let sockets = [
            tcp(1, 10, LISTEN, 80, 0, (0, 0)),
            tcp(1, 11, ESTABLISHED, 80, 5000, (7, 8)),
            tcp(1, 12, ESTABLISHED, 4000, 9000, (100, 200)),
            tcp(2, 20, LISTEN, 9000, 0, (0, 0)),
            tcp(2, 21, ESTABLISHED, 9000, 4000, (200, 100)),
        ];
        let mut flows = older_flows(&sockets, &HashSet::from([1]), 0, 1);
        flows.sort_by_key(|(sk, _)| *sk);
        let seen: Vec<_> = flows
            .iter()
            .map(|(sk, f)| (*sk, f.role, f.peer_sk))
            .collect();
        assert_eq!(seen, [(11, role::DOWNSTREAM, 0), (12, role::UPSTREAM, 21)]);
        assert_eq!(listeners(&sockets).len(), 2);
    }

    #[test]
    fn a_pair_of_unix_sockets_between_workers_is_no_upstream() {
        let mut channel = tcp(1, 30, ESTABLISHED, 0, 0, (0, 0));
        channel.ends.family = AF_UNIX;
        channel.peer_sk = 31;
        assert!(older_flows(&[channel], &HashSet::from([1]), 0, 1).is_empty());
    }

    #[test]
    fn how_long_an_older_connection_was_idle_is_told_by_its_kernel_where_it_can() {
        let idle = |ticks| {
            let mut socket = tcp(1, 12, ESTABLISHED, 4000, 9000, (100, 200));
            socket.idle_ticks = ticks;
            let flows = older_flows(&[socket], &HashSet::from([1]), 10_000, 4);
            flows[0].1.begun_ns
        };
        assert_eq!(idle(0), 10_000);
        assert_eq!(idle(250), 9_000);
        assert_eq!(idle(u32::MAX), 0);
        // Its kernel's clock has gone on meanwhile, or was not for this socket.
        assert_eq!(idle(3_000), 0);
    }
}
