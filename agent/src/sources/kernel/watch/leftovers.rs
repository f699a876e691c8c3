//! What no probe saw the end of: where the kernel left out runs of probes, what was kept of connections and
//! threads that are gone is looked for, and forgotten.

use std::collections::HashSet;
use std::path::Path;

use agent_ebpf::Socket;

use crate::cli::detail;

use super::strangers::unwatch;
use super::*;

/// A socket that no process holds any more may have its last acknowledgement or a reset to come.
const OVER_NS: u64 = 5_000_000_000;
/// The list of all open sockets takes a tenth of a second where there are very many.
const EVERY: Duration = Duration::from_secs(10);

/// When to look next, since it is known that there may be something, and when that was done last.
#[derive(Default)]
pub(super) struct Leftovers {
    due: Option<Instant>,
    looked: Option<Instant>,
}

impl Leftovers {
    /// Runs of probes were left out. What they left is quiet for long when the next look comes.
    pub(super) fn suspect(&mut self, now: Instant) {
        let soon = now + Duration::from_nanos(OVER_NS);
        let again = self.looked.map_or(soon, |at| soon.max(at + EVERY));
        self.due.get_or_insert(again);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }

    fn looked(&mut self, now: Instant) {
        *self = Leftovers {
            due: None,
            looked: Some(now),
        };
    }
}

/// A connection that is kept.
struct Kept {
    sk: u64,
    cookie: u64,
    tgid: u32,
    /// When it last did anything.
    last: u64,
}

impl Watch {
    pub(super) fn forget_leftovers(&mut self) {
        let now = Instant::now();
        if !self.leftovers.is_due(now) {
            return;
        }
        self.leftovers.looked(now);
        // First: what begins meanwhile is not among them.
        let mut ends = Vec::new();
        let ebpf = &mut self.probes.ebpf;
        self.peers
            .each(ebpf, usize::MAX, |sk, peer| ends.push((sk, peer)));
        let mut kept = Vec::new();
        self.flows.each(ebpf, usize::MAX, |sk, flow| {
            kept.push(Kept {
                sk,
                cookie: flow.cookie,
                tgid: flow.tgid,
                last: last(&flow),
            });
        });
        let Ok(open) = self.probes.open_sockets().and_then(sockets::read) else {
            self.leftovers.suspect(now);
            return;
        };
        let now = clock::now();
        for gone in over(&kept, &open, now) {
            let ebpf = &mut self.probes.ebpf;
            let still = self.flows.get(ebpf, gone.sk);
            if still.is_some_and(|flow| flow.cookie == gone.cookie) {
                self.flows.remove(ebpf, gone.sk);
            }
        }
        for (sk, peer) in over_ends(&ends, &kept, now) {
            let ebpf = &mut self.probes.ebpf;
            let still = self.peers.get(ebpf, *sk);
            if still.is_some_and(|now| (now.sk, now.cookie) == (peer.sk, peer.cookie)) {
                self.peers.remove(ebpf, *sk);
            }
        }
        if let Err(error) = self.forget_threads() {
            detail!("threads that are gone: {error:#}");
        }
    }

    /// Another program's thread may get the number of one that is gone.
    fn forget_threads(&mut self) -> Result<()> {
        // Numbers of a PID namespace of our own are not the kernel's.
        if !in_first_pid_namespace() {
            return Ok(());
        }
        let ebpf = &mut self.probes.ebpf;
        let is_gone = |id: &u32| !Path::new(&format!("/proc/{id}")).exists();
        let threads: HashMap<_, u32, Thread> = map(ebpf, "THREADS")?;
        let gone: Vec<u32> = threads
            .keys()
            .filter_map(Result::ok)
            .filter(is_gone)
            .collect();
        unwatch(ebpf, &gone)?;
        let mut servers: HashMap<_, u32, u32> = map(ebpf, "SERVERS")?;
        let ended: Vec<u32> = servers
            .keys()
            .filter_map(Result::ok)
            .filter(is_gone)
            .collect();
        for pid in &ended {
            let _ = servers.remove(pid);
        }
        Ok(())
    }
}

/// By the number that the kernel gives the first one's inode (`PROC_PID_INIT_INO`).
fn in_first_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|at| at == Path::new("pid:[4026531836]"))
}

fn last(flow: &Flow) -> u64 {
    [
        flow.begun_ns,
        flow.connected_ns,
        flow.request_ns,
        flow.last_receive_ns,
        flow.last_send_ns,
        flow.fin_ns,
        flow.reset_ns,
    ]
    .into_iter()
    .max()
    .unwrap_or(0)
}

/// Those that their process does not hold any more, and that have been quiet for long. Of a process none of
/// whose sockets is listed (it is in another PID namespace) nothing is known.
fn over<'a>(
    kept: &'a [Kept],
    open: &[Socket],
    now: u64,
) -> impl Iterator<Item = &'a Kept> + use<'a> {
    let listed: HashSet<u32> = open.iter().map(|s| s.tgid).collect();
    let mut held: StdMap<u64, Vec<u64>> = StdMap::new();
    for socket in open {
        held.entry(socket.sk).or_default().push(socket.cookie);
    }
    kept.iter().filter(move |one| {
        let is_held = held
            .get(&one.sk)
            .is_some_and(|all| all.iter().any(|cookie| may_be(*cookie, one.cookie)));
        one.cookie != 0
            && one.last != 0
            && now.saturating_sub(one.last) > OVER_NS
            && listed.contains(&one.tgid)
            && !is_held
    })
}

/// Whether a socket at the same address may be the one that is kept. Where probes saw no cookie, they kept
/// an inode or a time in its place, which says nothing beside one.
fn may_be(listed: u64, kept: u64) -> bool {
    let is_cookie = |identity: u64| identity >> 62 == 0;
    listed == kept || !is_cookie(listed) || !is_cookie(kept)
}

/// Upstreams' ends of connections of which nothing is kept any more, and which nobody has read lately.
fn over_ends<'a>(
    ends: &'a [(u64, Peer)],
    kept: &[Kept],
    now: u64,
) -> impl Iterator<Item = &'a (u64, Peer)> + use<'a> {
    let kept: HashSet<(u64, u64)> = kept.iter().map(|one| (one.sk, one.cookie)).collect();
    ends.iter().filter(move |(_, peer)| {
        now.saturating_sub(peer.read.ns) > OVER_NS && !kept.contains(&(peer.sk, peer.cookie))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_holds_is_over_when_it_has_been_quiet() {
        const NOW: u64 = 100 * OVER_NS;
        let kept = |sk, cookie, last| Kept {
            sk,
            cookie,
            tgid: 7,
            last,
        };
        let all = [
            kept(1, 11, 1),
            kept(2, 22, 1),
            // At an address where another one is now.
            kept(3, 33, 1),
            kept(4, 44, NOW - OVER_NS),
            // Nothing is known of it yet.
            kept(5, 0, 1),
            kept(6, 66, 0),
            Kept {
                tgid: 8,
                ..kept(2, 22, 1)
            },
        ];
        let socket = |sk, cookie| {
            let mut socket = Socket::new_zeroed();
            (socket.sk, socket.cookie, socket.tgid) = (sk, cookie, 7);
            socket
        };
        let open = [socket(1, 11), socket(3, 34), socket(9, 99)];
        let gone: Vec<u64> = over(&all, &open, NOW).map(|one| one.sk).collect();
        assert_eq!(gone, [2, 3]);
        // By inodes, or times, where the list has cookies, or has none itself.
        const INODE: u64 = 1 << 62;
        for (listed, known) in [
            (11, INODE | 5),
            (INODE | 5, INODE | 5),
            (INODE | 5, INODE | 77_000),
        ] {
            let open = [socket(1, listed), socket(9, 99)];
            let here = [kept(1, known, 1), kept(2, known, 1)];
            let gone: Vec<u64> = over(&here, &open, NOW).map(|one| one.sk).collect();
            assert_eq!(gone, [2], "{listed:x} {known:x}");
        }
    }

    #[test]
    fn an_upstreams_end_is_over_with_its_connection() {
        const NOW: u64 = 100 * OVER_NS;
        let kept = [Kept {
            sk: 1,
            cookie: 11,
            tgid: 7,
            last: 1,
        }];
        let end = |sk, cookie, read| {
            let mut peer = Peer::new_zeroed();
            (peer.sk, peer.cookie, peer.read.ns) = (sk, cookie, read);
            peer
        };
        let ends = [
            (101, end(1, 11, 1)),
            (102, end(1, 12, 1)),
            (103, end(2, 22, 1)),
            (104, end(2, 22, NOW - OVER_NS)),
        ];
        let over: Vec<u64> = over_ends(&ends, &kept, NOW).map(|(sk, _)| *sk).collect();
        assert_eq!(over, [102, 103]);
    }

    #[test]
    fn it_is_looked_at_a_while_after_and_not_over_and_over() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leftovers = Leftovers::default();
        assert!(!leftovers.is_due(after(100)));
        leftovers.suspect(start);
        assert!(!leftovers.is_due(after(4)));
        assert!(leftovers.is_due(after(5)));
        leftovers.looked(after(5));
        assert!(!leftovers.is_due(after(6)));
        leftovers.suspect(after(6));
        assert!(!leftovers.is_due(after(14)));
        assert!(leftovers.is_due(after(15)));
    }

    #[test]
    fn more_and_more_to_suspect_puts_nothing_off() {
        let start = Instant::now();
        let mut leftovers = Leftovers::default();
        let mut looked = 0;
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            leftovers.suspect(now);
            if leftovers.is_due(now) {
                leftovers.looked(now);
                looked += 1;
            }
        }
        // After 5, 15, … 55 seconds.
        assert_eq!(looked, 6);
    }
}
