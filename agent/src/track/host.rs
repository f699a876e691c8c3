//! What is known of this host's processes, listeners and upstreams: bounded memory of past signals. Pure.

mod by_thread;
mod deaths;
mod listeners;
mod losses;
mod passed;
mod patience;
mod pools;
mod processes;
mod refused;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::ServerLines;
use super::seen::is_address;
use super::told::Told;
use crate::signal::{
    Address, Attempt, End, Fact, FlowId, LinkOrder, Listener, Logged, LoggedTry, Nanos, Process,
    ProcessExit, ProcessSample, Response, Said, ServerLine, Signal, SignalSent, Software, Source,
};
use crate::verdict::Spread;
use by_thread::ByThread;
use deaths::Deaths;
use listeners::Listeners;
use losses::Losses;
use passed::Passed;
pub(super) use passed::folder;
use patience::Patience;
use pools::Pools;
pub(crate) use pools::idle_when_closed;
pub use pools::{ClosesEarly, Pool};
use processes::Processes;
pub use refused::Refused;

pub(crate) const MILLISECOND: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// The probe that sees signals sent to processes.
const SENT: &str = "signal_generate";

/// Loading a large model takes minutes.
const STARTING: Nanos = 600 * SECOND;

/// Flows whose server's threads are sampled at once, and samples kept of each.
const SAMPLED_FLOWS: usize = 1024;
const SAMPLES: usize = 128;
/// A flow not sampled for this long is over.
const SAMPLES_KEPT: Nanos = 30 * SECOND;

/// A remembered fact.
#[derive(Clone, Debug, PartialEq)]
pub struct Past<T> {
    pub at: Nanos,
    pub source: Source,
    pub fact: T,
}

/// A failed try, as a proxy's log told it.
#[derive(Clone, Debug)]
pub struct LogFailure {
    pub at: Nanos,
    proxy: Option<Software>,
    pid: u32,
    pub said: Said,
    pub upstream: Address,
    /// The first part of the request's path.
    folder: Option<String>,
}

/// Bounded memory of the facts that are not tied to one exchange.
#[derive(Debug, Default)]
pub struct Host {
    now: Nanos,
    sees: BTreeSet<String>,
    blind: BTreeSet<String>,
    /// The kernel's own source has started.
    asks_kernel: bool,
    losses: Losses,
    /// Those of them that may have been signals sent from process to process.
    sent_lost: Losses,
    processes: Processes,
    deaths: Deaths,
    listeners: Listeners,
    pools: Pools,
    patience: Patience,
    samples: HashMap<FlowId, VecDeque<Past<ProcessSample>>>,
    server_lines: ServerLines,
    /// Tries that proxies' logs call failed, the latest of them.
    log_failures: VecDeque<LogFailure>,
    passed: Passed,
    by_thread: ByThread,
    refused: refused::Connects,
    /// When lines of logs were left out, and how many.
    distrusted: VecDeque<(Nanos, u64)>,
    dropped: BTreeMap<&'static str, u64>,
}

impl Host {
    /// Takes in one signal. Signals may be a little out of order.
    pub fn observe(&mut self, signal: &Signal) {
        self.now = self.now.max(signal.at);
        let past = |at| (at, signal.source);
        match &signal.fact {
            Fact::SourceStarted { sees, blind } => {
                self.asks_kernel |= signal.source == Source::Kernel;
                self.sees.extend(sees.iter().take(64).cloned());
                self.blind.extend(blind.iter().take(64).cloned());
            }
            Fact::ProcessSeen(process) => {
                let lost = self.processes.seen(signal.at, process);
                self.count("processes", lost);
            }
            Fact::ProcessExited(exit) => {
                self.saw("process_exited");
                self.processes.exited(signal.at, exit.pid);
                let lost = self.deaths.exited(keep(past(signal.at), exit));
                self.count("process_exits", lost);
            }
            Fact::SignalSent(sent) => {
                self.saw("signal_sent");
                let lost = self.deaths.sent(keep(past(signal.at), sent));
                self.count("signals_sent", lost);
            }
            Fact::OomKilled { pid } => {
                self.saw("oom_killed");
                let lost = self.deaths.oom_killed(keep(past(signal.at), pid));
                self.count("oom_kills", lost);
            }
            Fact::ProcessSampled(sample) => {
                let sample = keep(past(signal.at), sample);
                self.sampled(sample);
            }
            Fact::ListenerSeen(listener) => {
                let lost = self.listeners.seen(keep(past(signal.at), listener));
                self.count("listeners", lost);
            }
            Fact::IdleClosed(close) => {
                let proxy = self.processes.label(close.proxy);
                let lost = self.pools.idle_closed(&proxy, close, signal.at);
                self.count("pools", lost);
                let used = signal.at.saturating_sub(close.idle_ns);
                if close.requests > 0 {
                    self.upstream_answered(used, close.proxy, &close.upstream);
                }
            }
            Fact::AttemptEnded(attempt) => self.attempt_ended(signal.at, attempt),
            Fact::ResponseSent(response) => {
                if let Some(attempt) = &response.last_attempt {
                    let proxy = self.processes.label(attempt.proxy);
                    let lost = self.pools.attempted(&proxy, attempt, signal.at);
                    self.count("pools", lost);
                    if attempt.end == End::Answered {
                        self.upstream_answered(signal.at, attempt.proxy, &attempt.upstream);
                    }
                }
                for one in &response.in_touch {
                    self.upstream_answered(one.heard, one.proxy, &one.upstream);
                }
            }
            Fact::FirstByteLate(late) => {
                self.upstream_answered(signal.at, late.proxy, &late.upstream);
            }
            Fact::SignalsLost { count, probe, .. } => {
                self.losses.told(signal.at, *count);
                if probe.as_deref().is_none_or(|probe| probe == SENT) {
                    self.sent_lost.told(signal.at, *count);
                }
            }
            Fact::Logged(line) => {
                self.tries_failed(signal.at, line);
                self.passed.told(signal.at, line);
                self.upstreams_answered(signal.at, line);
                let lost = self.by_thread.told(signal.at, line);
                self.count("thread_lines", lost);
            }
            Fact::LinesDistrusted { count } => {
                const KEPT: usize = 1024;
                if self.distrusted.len() >= KEPT {
                    self.distrusted.pop_front();
                }
                self.distrusted.push_back((signal.at, *count));
            }
            Fact::ServerLogged(line) => {
                let lost = self.server_lines.add(signal.at, line);
                self.count("server_lines", lost);
            }
            Fact::FlowClosed(_)
            | Fact::AttemptRetried { .. }
            | Fact::UpstreamEnded(_)
            | Fact::RequestMetClose(_)
            | Fact::ProxyStarted { .. }
            | Fact::ProxyGone { .. }
            | Fact::Tick => {}
        }
    }

    /// Whether facts of this kind would have been reported: a source said so, or one was.
    pub fn sees(&self, kind: &str) -> bool {
        self.sees.contains(kind)
    }

    /// Whether this host refuses its source a fact, by the name that `check` gives it.
    pub fn blind_to(&self, fact: &str) -> bool {
        self.blind.contains(fact)
    }

    /// Whether the kernel is asked about proxies of this kind, and has lost nothing since. One of another
    /// host, or behind a fact that is refused, is not told by it all the same.
    pub(super) fn kernel_told(&self, proxy: Option<Software>, since: Nanos) -> bool {
        let seen = |software| match software {
            // Programs that are named as they like.
            Software::Go | Software::Pingora => {
                self.processes.has(software) || self.processes.has(Software::Other)
            }
            _ => self.processes.has(software),
        };
        let watched = proxy.is_some_and(seen);
        self.asks_kernel && watched && self.lost_since(since) == 0
    }

    /// How many signals were told to be lost at that time or later.
    pub fn lost_since(&self, at: Nanos) -> u64 {
        self.losses.since(at)
    }

    /// The same of those that may have been signals sent to processes.
    pub fn sent_lost_since(&self, at: Nanos) -> u64 {
        self.sent_lost.since(at)
    }

    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(pid)
    }

    /// Which upstream a line of this proxy's tells of: its address, which its configuration may have where the
    /// line has a name.
    pub(super) fn upstream_told(&self, proxy: u32, told: &LoggedTry) -> Option<Address> {
        let upstream = told.upstream.as_ref()?;
        if is_address(upstream) {
            return Some(upstream.clone());
        }
        let named = format!("backend {} server", upstream.0);
        let mut settings = self.process(proxy)?.settings.iter();
        let (_, address) = settings.find(|(name, _)| *name == named)?;
        Some(Address(address.clone()))
    }

    /// Whether its configuration names more than one address of an upstream.
    pub(super) fn has_several_backends(&self, proxy: u32) -> bool {
        let settings = self.process(proxy).map(|p| p.settings.as_slice());
        let mut addresses = (settings.unwrap_or_default().iter())
            .filter(|(name, _)| name.starts_with("backend ") && name.ends_with(" server"))
            .map(|(_, address)| address);
        let first = addresses.next();
        addresses.any(|address| Some(address) != first)
    }

    /// Whether these two are alive and of two proxies of one software that have nothing to do with each other. A
    /// number that a log has from within a container is nobody's here, or somebody else's.
    pub(super) fn are_apart(&self, one: u32, other: u32) -> bool {
        let family = |pid| self.processes.family(pid);
        match (family(one), family(other)) {
            (Some(one), Some(other)) => one.0 == other.0 && one.1 != other.1,
            _ => false,
        }
    }

    /// A process's parent, as it was seen alive or reported when it was signalled or ended.
    pub fn parent_of(&self, pid: u32) -> Option<u32> {
        let parent = self.processes.get(pid).map(|p| p.parent);
        parent
            .filter(|p| *p != 0)
            .or_else(|| self.deaths.parent_of(pid))
    }

    /// The exit of this process nearest to `at`, not further than `within`.
    pub fn exit_near(&self, pid: u32, at: Nanos, within: Nanos) -> Option<&Past<ProcessExit>> {
        self.deaths.exit_near(pid, at, within)
    }

    /// Exits of any process between two moments.
    pub fn exits_between(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = &Past<ProcessExit>> {
        self.deaths.exits_between(from, to)
    }

    /// Signals sent to this process between two moments, in order of time.
    pub fn signals_to(&self, pid: u32, from: Nanos, to: Nanos) -> Vec<&Past<SignalSent>> {
        self.deaths.signals_to(pid, from, to)
    }

    pub fn oom_kill_of(&self, pid: u32, from: Nanos, to: Nanos) -> Option<&Past<u32>> {
        self.deaths.oom_kill_of(pid, from, to)
    }

    /// What the threads of the process that had read this flow's request were seen doing, in order.
    pub fn samples(&self, flow: FlowId) -> impl ExactSizeIterator<Item = &Past<ProcessSample>> {
        const NONE: &VecDeque<Past<ProcessSample>> = &VecDeque::new();
        self.samples.get(&flow).unwrap_or(NONE).iter()
    }

    /// The listener that this attempt called, where it is known to be on this host.
    pub fn listener(&self, attempt: &Attempt) -> Option<&Past<Listener>> {
        if attempt.upstream.is_unix() {
            return self.listeners.only(&attempt.upstream);
        }
        let (address, netns) = self.called(attempt)?;
        self.listeners.tcp(address, netns)
    }

    /// The listener that a proxy calls by this address, where no attempt tells more.
    pub fn listener_of(&self, proxy: u32, upstream: &Address) -> Option<&Past<Listener>> {
        if !upstream.is_loopback() {
            return self.listeners.only(upstream);
        }
        let netns = self.process(proxy).map(|p| p.netns).filter(|n| *n != 0)?;
        self.listeners.tcp(upstream, netns)
    }

    /// Where the listener of a TCP attempt is, if on this host: where the upstream's end was seen, else
    /// in the proxy's own network namespace, if the address is one of that.
    fn called<'a>(&self, attempt: &'a Attempt) -> Option<(&'a Address, u32)> {
        // Recordings of earlier versions name no namespace: a process has one.
        let of = |pid: u32| self.process(pid).map(|p| p.netns).filter(|n| *n != 0);
        let peer = || {
            let peer = attempt.peer.as_ref()?;
            let reader = peer.reader.as_ref().map(|r| r.pid);
            let closer = || peer.closed.as_ref().filter(|c| c.accepted).map(|c| c.pid);
            Some((&attempt.upstream, of(reader.or_else(closer)?)?))
        };
        let own = || {
            let netns = attempt.calls_own_namespace().then(|| of(attempt.proxy))??;
            Some((&attempt.upstream, netns))
        };
        attempt.called().or_else(peer).or_else(own)
    }

    /// Whether the queue of the listener that this attempt called was told to be over its limit
    /// while it waited.
    pub fn was_full_during(&self, attempt: &Attempt) -> bool {
        let full_at = self
            .called(attempt)
            .and_then(|(address, netns)| self.listeners.full_at(address, netns));
        full_at.is_some_and(|at| at >= attempt.began)
    }

    /// Whether nobody listened where this attempt called, on this host.
    pub fn nobody_listens(&self, attempt: &Attempt) -> bool {
        match self.listener(attempt) {
            Some(listener) => listener.fact.gone,
            None => self.sees_listeners() && self.called(attempt).is_some(),
        }
    }

    /// Whether any listener of this host was reported, so that their source works.
    pub fn sees_listeners(&self) -> bool {
        self.listeners.any()
    }

    /// How this upstream's pooled connections have ended, as used by this proxy.
    pub fn pool(&self, proxy: u32, upstream: &Address) -> Option<&Pool> {
        self.pools.get(&self.processes.label(proxy), upstream)
    }

    /// A living process that is told to listen where this attempt called, while nobody listens there.
    pub fn starting(&self, attempt: &Attempt, at: Nanos) -> Option<&Process> {
        let netns = match attempt.upstream.is_unix() {
            true => None,
            false => Some(self.called(attempt)?.1),
        };
        let listens = self
            .listener(attempt)
            .is_some_and(|l| !l.fact.gone && l.fact.since.is_none_or(|since| since <= at));
        let told = || self.processes.told_to_listen(&attempt.upstream, netns, at);
        let process = (!listens).then(told)??;
        // One that has run for long without listening is not starting.
        (at.saturating_sub(process.started) <= STARTING).then_some(process)
    }

    /// The time after which this client (or the tier in front) gives up again and again.
    pub fn gives_up_after(&self, proxy: u32, client: &Address) -> Option<u64> {
        self.patience.constant(&self.processes.label(proxy), client)
    }

    /// Whether this upstream is seen to close idle connections before the proxy does, from 20 closes on.
    pub fn risk(&self, proxy: u32, upstream: &Address) -> Option<ClosesEarly> {
        self.pool(proxy, upstream)?.closes_early()
    }

    /// The same, but only the first time for this proxy and upstream: for the `risk` line.
    pub fn new_risk(&mut self, proxy: u32, upstream: &Address) -> Option<ClosesEarly> {
        self.pools.new_risk(&self.processes.label(proxy), upstream)
    }

    /// What was forgotten for want of room, by what it was.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.dropped.iter().map(|(what, count)| (*what, *count))
    }

    /// What servers' logs say about this time.
    pub fn server_lines(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = &(Nanos, ServerLine)> {
        self.server_lines.around(from, to)
    }

    /// Whether every line of the logs from about this time was believed.
    pub fn lines_believed(&self, from: Nanos, to: Nanos) -> bool {
        // Times are of the lines around them.
        const AROUND: Nanos = 5 * SECOND;
        let span = from.saturating_sub(AROUND)..=to.saturating_add(AROUND);
        !self.distrusted.iter().any(|(at, _)| span.contains(at))
    }

    /// The last failed connection or wait that this proxy's log told of, not longer before; `below`: of
    /// a request below the same folder.
    pub fn proxy_failed_before(
        &self,
        told: &Told,
        within: Nanos,
        below: bool,
    ) -> Option<(Nanos, &LogFailure)> {
        let from = told.from.saturating_sub(within);
        let near = |f: &&LogFailure| (from..=told.to).contains(&f.at);
        let same = |f: &&LogFailure| f.proxy == told.proxy && (told.pid == 0 || f.pid == told.pid);
        let folder = passed::folder(told.request.as_ref());
        let goes = |f: &&LogFailure| !below || f.folder.is_some() && f.folder.as_deref() == folder;
        let all = self.log_failures.iter().rev();
        let mut failures = all.filter(near).filter(same).filter(goes);
        failures.next().map(|failure| (failure.at, failure))
    }

    /// When this proxy's log last told of a request of the same client, below the same folder, that an
    /// upstream answered.
    pub fn passed_on_before(&self, told: &Told) -> Option<Nanos> {
        let (client, request) = (told.client.as_ref(), told.request.as_ref());
        self.passed.before(told.to, told.proxy, client, request)
    }

    /// What Apache's error log said at this moment of the thread that answered, of what it did by itself.
    pub fn said_of_thread(&self, at: Nanos, response: &Response) -> Option<(Nanos, Said)> {
        self.by_thread.of(at, response)
    }

    /// Whether anything that was said so may be about this response: of the thread that answered, or of one
    /// that is none here, as it is numbered within a container or by a library.
    pub fn may_be_said_of(&self, at: Nanos, response: &Response) -> bool {
        let own =
            |thread: u64| thread == u64::from(response.thread) || thread > u64::from(u32::MAX);
        let mut threads = self.by_thread.threads(at);
        threads.any(|(pid, thread)| match pid == response.proxy {
            true => own(thread),
            false => self.process(pid).is_none(),
        })
    }

    fn tries_failed(&mut self, at: Nanos, line: &Logged) {
        const KEPT: usize = 1024;
        for one in &line.tries {
            let (Some(said), Some(upstream)) = (one.said, &one.upstream) else {
                continue;
            };
            if self.log_failures.len() >= KEPT {
                self.log_failures.pop_front();
            }
            self.log_failures.push_back(LogFailure {
                at,
                proxy: line.proxy,
                pid: line.pid.unwrap_or(0),
                said,
                upstream: upstream.clone(),
                folder: passed::folder(line.request.as_ref()).map(str::to_owned),
            });
        }
    }

    fn saw(&mut self, kind: &str) {
        if !self.sees.contains(kind) {
            self.sees.insert(kind.to_owned());
        }
    }

    fn count(&mut self, what: &'static str, lost: u64) {
        if lost > 0 {
            *self.dropped.entry(what).or_default() += lost;
        }
    }

    /// The last connect of this proxy, before that, for a request like the one it answered that did not come
    /// about; none if it had an answer of such an upstream again `until` then.
    pub fn refused_before(&self, at: Nanos, until: Nanos, response: &Response) -> Option<&Refused> {
        let own = |pid| self.processes.are_one(pid, response.proxy);
        self.refused
            .before(at, until, response.request.as_ref(), own)
    }

    /// A process of a proxy has had an answer of this upstream.
    fn upstream_answered(&mut self, at: Nanos, proxy: u32, upstream: &Address) {
        let processes = &self.processes;
        self.refused
            .answered(at, upstream, |pid| processes.are_one(pid, proxy));
    }

    /// The same, as its log tells.
    fn upstreams_answered(&mut self, at: Nanos, line: &Logged) {
        let Some(software) = line.proxy else { return };
        let processes = &self.processes;
        let own = |pid| match line.pid {
            Some(of) => processes.are_one(pid, of),
            None => processes.get(pid).map(|p| p.software) == Some(software),
        };
        let well = |one: &&LoggedTry| {
            // A failed try may have a status that the proxy made.
            let passed_on = one.said.is_none_or(|said| said == Said::Answered);
            passed_on && one.status.is_some_and(|status| status < 500)
        };
        for one in line.tries.iter().filter(well) {
            if let Some(upstream) = &one.upstream {
                self.refused.answered(at, upstream, own);
            }
        }
    }

    fn attempt_ended(&mut self, at: Nanos, attempt: &Attempt) {
        self.refused.ended(at, attempt);
        let proxy = self.processes.label(attempt.proxy);
        let lost = self.pools.attempted(&proxy, attempt, at);
        self.count("pools", lost);
        if attempt.end == End::GivenUp
            && let Some(link) = &attempt.downstream
            && link.state.left()
            && link.order != LinkOrder::Unclear
            && let Some(client) = &link.client
        {
            self.patience
                .gave_up(at, &proxy, client, at.saturating_sub(attempt.began));
        }
    }

    fn sampled(&mut self, sample: Past<ProcessSample>) {
        let flow = sample.fact.flow;
        if !self.samples.contains_key(&flow) && self.samples.len() >= SAMPLED_FLOWS {
            let horizon = self.now.saturating_sub(SAMPLES_KEPT);
            self.samples
                .retain(|_, s| s.back().is_some_and(|last| last.at >= horizon));
            if self.samples.len() >= SAMPLED_FLOWS {
                self.count("samples", 1);
                return;
            }
        }
        let samples = self.samples.entry(flow).or_default();
        if samples.len() >= SAMPLES {
            // Of a wait of minutes the last ones tell enough.
            samples.pop_front();
        }
        let place = samples.partition_point(|s| s.at <= sample.at);
        samples.insert(place, sample);
    }
}

fn keep<T: Clone>((at, source): (Nanos, Source), fact: &T) -> Past<T> {
    Past {
        at,
        source,
        fact: fact.clone(),
    }
}

/// Median, 5th and 95th percentile (nearest rank); `None` without values.
pub(crate) fn spread(values: impl Iterator<Item = u64>) -> Option<Spread> {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    let rank = |percent: usize| {
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last * percent + 50) / 100).copied()
    };
    Some(Spread {
        median: rank(50)?,
        p5: rank(5)?,
        p95: rank(95)?,
        n: sorted.len() as u64,
    })
}
