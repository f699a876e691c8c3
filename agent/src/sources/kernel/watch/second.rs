//! The slower work of every second: losses, long waits, queues.

use super::*;

impl Watch {
    /// Tells what was lost since it was told last; what cannot be told stays to be told. Runs that the
    /// kernel left out are looked for no more often than `misses_every`.
    pub(in crate::sources::kernel) fn tell_losses(&mut self, misses_every: Duration) {
        let mut totals = [0; counter::LOSSES.len()];
        {
            let Some(map) = self.probes.ebpf.map("COUNTERS") else {
                return;
            };
            let Ok(map) = PerCpuArray::<_, u64>::try_from(map) else {
                return;
            };
            for (i, total) in totals.iter_mut().enumerate() {
                *total = map
                    .get(&(i as u32), 0)
                    .map_or(0, |values| values.iter().sum());
            }
        }
        for (i, (stage, reason)) in counter::LOSSES.iter().enumerate() {
            let count = totals[i].saturating_sub(self.told[i]);
            if count > 0 && self.tell_loss(stage, reason, count) {
                self.told[i] = totals[i];
            }
        }
        if self.looked_for_misses.elapsed() >= misses_every {
            self.looked_for_misses = Instant::now();
            let counts = self.probes.misses.counts();
            let counts: Vec<(String, u64)> = counts.map(|(name, n)| (name.to_owned(), n)).collect();
            self.missed.resize(counts.len(), 0);
            for (i, (probe, missed)) in counts.into_iter().enumerate() {
                let new = missed.saturating_sub(self.missed[i]);
                if new > 0 && self.tell_loss_of(Some(probe), "probes", "recursion", new) {
                    self.missed[i] = missed;
                    self.leftovers.suspect(Instant::now());
                }
            }
        }
        if self.unsent > 0 && self.tell_loss("channel", "full", self.unsent) {
            self.unsent = 0;
        }
        if self.no_room > 0 && self.tell_loss("listeners", "full", self.no_room) {
            self.no_room = 0;
        }
        if self.unguarded > 0 && self.tell_loss("servers", "full", self.unguarded) {
            self.unguarded = 0;
        }
    }

    fn tell_loss(&mut self, stage: &str, reason: &str, count: u64) -> bool {
        self.tell_loss_of(None, stage, reason, count)
    }

    fn tell_loss_of(
        &mut self,
        probe: Option<String>,
        stage: &str,
        reason: &str,
        count: u64,
    ) -> bool {
        self.try_send(Signal {
            at: clock::now(),
            source: Source::Kernel,
            fact: Fact::SignalsLost {
                stage: stage.into(),
                reason: reason.into(),
                count,
                probe,
            },
        })
    }

    /// Who works on requests that have waited for long, and what their threads do.
    pub(super) fn sample_waits(&mut self) {
        let now = clock::now();
        let ebpf = &mut self.probes.ebpf;
        let mut waits = Vec::new();
        self.flows.each(ebpf, SAMPLED_FLOWS, |_, flow| {
            if waits.len() < SAMPLED_FLOWS
                && flow.role == role::UPSTREAM
                && flow.request_ns != 0
                && flow.received == 0
                && flow.flags & flow_flag::ENDED == 0
                && now.saturating_sub(flow.request_ns) > LONG_NS
            {
                waits.push(flow);
            }
        });
        for flow in waits.iter_mut().filter(|flow| flow.peer_sk != 0) {
            if let Some(peer) = self.peers.get(ebpf, flow.peer_sk)
                && peer.cookie == flow.cookie
            {
                flow.read = peer.read;
            }
        }
        let of_this_request =
            |flow: &Flow| flow.read.tgid != 0 && flow.read.ns + flow.idle_ns > flow.request_ns;
        let waits: Vec<_> = waits
            .iter()
            .filter(|flow| of_this_request(flow))
            .map(|flow| (flow.read.tgid, flow.read.tid, flow.cookie))
            .collect();
        for (pid, thread, flow) in waits {
            self.describe(pid);
            self.sample(pid, thread, flow);
        }
    }

    /// Queue lengths, limits and peaks of the listeners that proxies call.
    pub(super) fn tell_queues(&mut self) {
        let peaks = self.take_peaks();
        if self.proxies.is_empty() || !self.queues.wanted(&peaks) {
            return;
        }
        let Ok(file) = self.probes.listening_sockets() else {
            return;
        };
        let Ok(list) = sockets::read(file) else {
            return;
        };
        let _ = self.take_listeners(list);
        let now = clock::now();
        for listener in self.queues.due(&self.listeners, &peaks) {
            self.send(now, Fact::ListenerSeen(listener));
        }
    }

    /// The longest queues that connects have met since they were asked for last, by listener: of TCP
    /// those that were not empty, of Unix all.
    fn take_peaks(&mut self) -> StdMap<u64, u32> {
        /// Not one that is gone meanwhile.
        const EXIST: u64 = 2;
        let mut peaks: StdMap<u64, u32> = StdMap::new();
        if let Ok(mut map) = map::<UnixKey, ListenerValue>(&mut self.probes.ebpf, "UNIX_LISTENERS")
        {
            let used: Vec<_> = map.iter().filter_map(Result::ok).collect();
            for (key, value) in used {
                // One listener may have several names.
                let peak = peaks.entry(value.cookie).or_insert(0);
                *peak = value.peak.max(*peak);
                if value.peak > 0 {
                    let _ = map.insert(key, ListenerValue { peak: 0, ..value }, EXIST);
                }
            }
        }
        if let Ok(mut map) = map::<ListenerKey, ListenerValue>(&mut self.probes.ebpf, "LISTENERS") {
            let used: Vec<_> = map.iter().filter_map(Result::ok).collect();
            for (key, value) in used.into_iter().filter(|(_, value)| value.peak > 0) {
                peaks.insert(value.cookie, value.peak);
                let _ = map.insert(key, ListenerValue { peak: 0, ..value }, EXIST);
            }
        }
        peaks
    }
}
