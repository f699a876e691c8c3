//! Connections whose end no probe saw: where the kernel left out runs of probes, what was kept of connections
//! that are gone is looked for, and forgotten.

use std::collections::HashSet;

use agent_ebpf::Socket;

use super::*;

/// A socket that no process holds any more may have its last acknowledgement or a reset to come.
const OVER_NS: u64 = 5_000_000_000;
/// The list of all open sockets takes a tenth of a second where there are very many.
const EVERY: Duration = Duration::from_secs(10);

/// When to look next, and since when it is known that there may be something.
#[derive(Default)]
pub(super) struct Leftovers {
    due: Option<Instant>,
    looked: Option<Instant>,
}

impl Leftovers {
    /// Runs of probes were left out.
    pub(super) fn suspect(&mut self, now: Instant) {
        let soon = now + Duration::from_nanos(OVER_NS);
        let again = self.looked.map(|at| at + EVERY);
        self.due = Some(again.map_or(soon, |again| again.max(soon)));
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            *self = Leftovers {
                due: None,
                looked: Some(now),
            };
        }
        due
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
        if !self.leftovers.is_due(Instant::now()) {
            return;
        }
        // First: what begins meanwhile is not among them.
        let mut kept = Vec::new();
        self.flows
            .each(&mut self.probes.ebpf, usize::MAX, |sk, flow| {
                kept.push(Kept {
                    sk,
                    cookie: flow.cookie,
                    tgid: flow.tgid,
                    last: last(&flow),
                });
            });
        let Ok(open) = self.probes.open_sockets().and_then(sockets::read) else {
            return;
        };
        for gone in over(&kept, &open, clock::now()) {
            let ebpf = &mut self.probes.ebpf;
            let still = self.flows.get(ebpf, gone.sk);
            if still.is_some_and(|flow| flow.cookie == gone.cookie) {
                self.flows.remove(ebpf, gone.sk);
            }
        }
    }
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
    let open: HashSet<(u64, u64)> = open.iter().map(|s| (s.sk, s.cookie)).collect();
    kept.iter().filter(move |one| {
        one.cookie != 0
            && one.last != 0
            && now.saturating_sub(one.last) > OVER_NS
            && listed.contains(&one.tgid)
            && !open.contains(&(one.sk, one.cookie))
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
        assert!(!leftovers.is_due(after(6)));
        leftovers.suspect(after(6));
        assert!(!leftovers.is_due(after(14)));
        assert!(leftovers.is_due(after(15)));
    }
}
