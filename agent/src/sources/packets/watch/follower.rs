//! What becomes of each frame: it is followed, kept, or both; and whose the proxies' addresses are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Packets;
use super::super::decode::{Decoded, decode};
use super::super::raw::RawFrame;
use super::super::ring::Ring;
use super::super::serving::{Own, Owners};
use super::places::{HELD_BACK, Places, own_namespace};
use super::{Namespaces, Tally, Untold};
use crate::clock::{self, Clock};
use crate::https;
use crate::signal::{Fact, Nanos, Signal, Source};
use crate::sources::{cluster, process};

pub(super) struct Follower {
    packets: Option<Packets>,
    ring: Option<Arc<Ring>>,
    pub(super) signals: Vec<Signal>,
    tally: Tally,
    /// As much of it as was handed over.
    told: Tally,
    owners: process::Owners,
    homes: process::Homes,
    /// Processes of proxies that were told of.
    running: BTreeSet<u32>,
    /// Those of them of which it was told who they are.
    described: BTreeSet<u32>,
    /// Those of them of whose pods the Kubernetes API has not told yet.
    untold: BTreeSet<u32>,
}

impl Follower {
    /// `packets`: to follow connections; without it frames are only kept.
    pub(super) fn new(
        packets: Option<Packets>,
        ring: Option<Arc<Ring>>,
        cluster: &cluster::Pods,
    ) -> Follower {
        Follower {
            packets,
            ring,
            signals: Vec::new(),
            tally: Tally::default(),
            told: Tally::default(),
            owners: process::Owners::default(),
            homes: process::Homes::with(cluster),
            running: BTreeSet::new(),
            described: BTreeSet::new(),
            untold: BTreeSet::new(),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, raw: &RawFrame<'_>, space: u32) {
        self.tally.frames += 1;
        let decoded = decode(raw);
        if let Some(ring) = &self.ring {
            ring.push(raw, space, &decoded);
        }
        if let Decoded::NotUnderstood(reason) = decoded {
            self.tally.not_understood[reason as usize] += 1;
        }
        let Some(packets) = &mut self.packets else {
            return;
        };
        packets.set_namespace(space);
        match decoded {
            Decoded::Segment(segment) => packets.segment(&segment, &mut self.signals),
            Decoded::Unreachable(error) => packets.unreachable(&error, &mut self.signals),
            Decoded::Other | Decoded::NotUnderstood(_) => {}
        }
    }

    /// Takes note of the proxies that run, and of what they serve.
    pub(super) fn look(&mut self, found: &Namespaces, places: &Places) {
        let spaces: BTreeMap<u64, u32> = places.spaces().collect();
        if let Some(ring) = &self.ring {
            for (netns, space) in &spaces {
                ring.interface_is_in(*space, *netns);
            }
        }
        if self.packets.is_none() {
            return;
        }
        let running: BTreeSet<u32> = found.values().flatten().copied().collect();
        let before = std::mem::replace(&mut self.running, running.clone());
        for pid in running.difference(&before) {
            let pid = *pid;
            if let Some(name) = process::name(pid) {
                self.tell(Fact::ProxyStarted { pid, name });
                // A worker's home is its master's, who alone may be found by what it serves.
                self.describe(pid);
            }
        }
        for pid in before.difference(&running) {
            self.described.remove(pid);
            self.untold.remove(pid);
            self.tell(Fact::ProxyGone { pid: *pid });
        }
        if self.homes.has_news() {
            for pid in std::mem::take(&mut self.untold) {
                self.described.remove(&pid);
                self.describe(pid);
            }
        }
        // Our own server is captured like any other, and answers 503 until we are ready.
        let (own, mut asked) = (std::process::id(), found.clone());
        if let Some(namespace) = own_namespace() {
            asked.entry(namespace).or_default().push(own);
        }
        let served = self.owners.served(&asked);
        let owners = served.values().flat_map(|served| &served.listeners);
        let owners = owners.filter_map(|(_, pid)| pid.filter(|pid| *pid != own));
        for pid in owners.collect::<BTreeSet<_>>() {
            self.describe(pid);
        }
        let by_space = served.into_iter();
        let by_space = by_space.filter_map(|(netns, s)| Some((*spaces.get(&netns)?, s)));
        if let Some(packets) = &mut self.packets {
            let space = own_namespace().and_then(|netns| spaces.get(&netns).copied());
            packets.set_owners(Owners::new(by_space.collect()).with_own(Own {
                pid: own,
                space,
                ports: &https::PORTS,
            }));
        }
    }

    fn describe(&mut self, pid: u32) {
        if self.described.contains(&pid) {
            return;
        }
        if let Some(seen) = process::read(pid, &mut self.homes) {
            let mut process = seen.process;
            self.described.insert(pid);
            if seen.untold {
                self.untold.insert(pid);
            }
            // Packets are on the wall clock.
            process.started = Clock::of_host().unix(process.started);
            self.tell(Fact::ProcessSeen(process));
        }
    }

    /// Told as old as the packets that may come now: no decision is hurried.
    fn tell(&mut self, fact: Fact) {
        self.signals.push(Signal {
            at: clock::unix_now().saturating_sub(HELD_BACK),
            source: Source::Packets,
            fact,
        });
    }

    pub(super) fn tick(&mut self, now: Nanos) {
        if let Some(packets) = &mut self.packets {
            packets.tick(now, &mut self.signals);
        }
    }

    pub(super) fn lost(&mut self, reason: &str, count: u64, out: &mut Vec<Signal>) {
        match &mut self.packets {
            _ if count == 0 => {}
            Some(packets) => {
                packets.lost_until(clock::unix_now(), "packets", reason, count, out);
            }
            None => self.tally.lost += count,
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(packets) = &mut self.packets {
            packets.finish(&mut self.signals);
        }
    }

    /// Adds what was counted since the last time.
    pub(super) fn hand_over(&mut self, untold: &Untold) {
        let now = self.so_far();
        let before = std::mem::replace(&mut self.told, now);
        let mut untold = untold.lock();
        untold.counts.gaps += now.counts.gaps - before.counts.gaps;
        let counts = now.not_understood.iter().zip(before.not_understood);
        for (count, (now, before)) in untold.not_understood.iter_mut().zip(counts) {
            *count += now - before;
        }
    }

    fn so_far(&self) -> Tally {
        let counts = self.packets.as_ref().map(Packets::counts);
        Tally {
            counts: counts.unwrap_or_default(),
            ..self.tally
        }
    }

    pub(super) fn end(self) -> Tally {
        self.so_far()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::sources::packets::decode::Reason;
    use crate::sources::packets::raw::LinkType;
    use crate::sources::packets::segment::Frame;
    use crate::sources::packets::serving::bit;

    #[test]
    fn what_we_serve_ourselves_is_known_with_and_without_proxies() {
        let (own, mut places) = (own_namespace().unwrap(), Places::new("lo"));
        let refused = places.look(&Namespaces::new(), Instant::now());
        if let Some(why) = refused.first() {
            println!("skipped: {why}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for found in [Namespaces::new(), Namespaces::from([(own, vec![1])])] {
            let packets = Packets::new(&[]);
            let mut follower = Follower::new(Some(packets), None, &cluster::Pods::default());
            follower.look(&found, &places);
            let owners = &follower.packets.as_ref().unwrap().owners;
            assert!(owners.is_own(address, bit(0)), "{found:?}");
            // What we ask is ours from the moment on at which its port is noted.
            let (from, now) = ("127.0.0.1:9".parse().unwrap(), clock::unix_now());
            assert!(!owners.is_own_connect(from, 0, 0));
            https::PORTS.note(9, now);
            assert!(owners.is_own_connect(from, 0, now));
        }
    }

    #[test]
    fn what_is_not_understood_is_handed_over_once_while_it_is_counted() {
        let mut follower = Follower::new(Some(Packets::new(&[])), None, &cluster::Pods::default());
        let untold = Untold::default();
        let unknown = RawFrame {
            at: 1,
            frame: Frame {
                number: 1,
                interface: 0,
            },
            link_type: LinkType(0xffff),
            original_length: 3,
            data: b"abc",
        };
        for expected in [2, 0, 1] {
            for _ in 0..expected {
                follower.take(&unknown, 0);
            }
            follower.hand_over(&untold);
            let taken = untold.take().not_understood[Reason::LinkType as usize];
            assert_eq!(taken, expected);
        }
        assert_eq!(follower.end().not_understood.iter().sum::<u64>(), 3);
    }
}
