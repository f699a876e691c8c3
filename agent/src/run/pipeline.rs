//! From signals to every sink: what each signal and each verdict is told to.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;

use anyhow::Result;

use super::excerpt::{self, Awaited, PcapOut};
use super::logs::Beside;
use super::workloads::Workloads;
use crate::check::others::{self, Sight};
use crate::cli::{detail, warning};
use crate::clock::Clock;
use crate::signal::{Address, Fact, Nanos, ProcessExit, Signal, Source};
use crate::sinks::history::History;
use crate::sinks::metrics::{Metrics, Who};
use crate::sinks::otlp::Otlp;
use crate::sinks::output::Drops;
use crate::sinks::privacy::Privacy;
use crate::sinks::record::{RecordLoss, Recorder};
use crate::sinks::report::Report;
use crate::sinks::results::Results;
use crate::sinks::summary::Totals;
use crate::sources::cluster;
use crate::sources::kernel::Status;
use crate::track::{Decided, Tracker, render};
use crate::verdict::{Party, Risk};

/// How often results are redrawn and files flushed.
const FLUSH: Nanos = 200_000_000;
/// The wall clock may be stepped: its offset is measured anew this often.
const REMEASURE: Nanos = 60_000_000_000;

/// From signals to every sink.
pub(super) struct Pipeline<W: Write> {
    pub(super) tracker: Tracker,
    pub(super) clock: Clock,
    pub(super) node: String,
    pub(super) privacy: Privacy,
    pub(super) results: Results<W>,
    pub(super) metrics: Option<Arc<Metrics>>,
    /// `run`: what is kept for `report`.
    pub(super) history: Option<History>,
    /// `run`: what is sent elsewhere.
    pub(super) otlp: Option<Otlp>,
    /// What names workloads, and is to be told of when it does not.
    pub(super) cluster: cluster::Pods,
    pub(super) recorder: Option<Recorder>,
    pub(super) report: Option<Report>,
    pub(super) pcap: Option<PcapOut>,
    /// Logs that are read along with a capture or a recording.
    pub(super) beside: Option<Beside>,
    /// Verdicts that wait for their packets.
    pub(super) awaited: Option<Awaited>,
    pub(super) totals: Totals,
    /// Results that a slow reader did not take.
    pub(super) drops: Option<Drops>,
    workloads: Workloads,
    /// Live proxies' processes, and their names.
    proxies: HashMap<u32, String>,
    /// Who they are is to be told to the metrics.
    proxies_changed: bool,
    pub(super) saw_proxy: bool,
    /// Counts of `Tracker::dropped` already told.
    forgot: HashMap<&'static str, u64>,
    /// `run`: goes on when standard output fails.
    pub(super) outlives_output: bool,
    /// Signals are on this host's monotonic clock, whose offset changes.
    pub(super) remeasures: bool,
    output_failed: bool,
    measured: Nanos,
    flushed: Nanos,
}

impl<W: Write> Pipeline<W> {
    pub(super) fn new(
        results: Results<W>,
        privacy: Privacy,
        node: &str,
        clock: Clock,
    ) -> Pipeline<W> {
        Pipeline {
            tracker: Tracker::default(),
            clock,
            node: node.to_owned(),
            privacy,
            results,
            metrics: None,
            history: None,
            otlp: None,
            cluster: cluster::Pods::default(),
            recorder: None,
            report: None,
            pcap: None,
            beside: None,
            awaited: None,
            totals: Totals::default(),
            drops: None,
            workloads: Workloads::default(),
            proxies: HashMap::new(),
            proxies_changed: false,
            saw_proxy: false,
            forgot: HashMap::new(),
            outlives_output: false,
            remeasures: false,
            output_failed: false,
            measured: 0,
            flushed: 0,
        }
    }

    /// Forgets what another source's signals told.
    pub(super) fn begin_source(&mut self, clock: Clock) {
        self.forgotten();
        self.tracker = Tracker::default();
        self.forgot.clear();
        self.proxies.clear();
        self.proxies_changed = true;
        self.clock = clock;
    }

    /// No more of this source: what its logs say of its last moments, and everything is decided.
    pub(super) fn end_source(&mut self) -> Result<()> {
        if let Some(beside) = &mut self.beside {
            for line in beside.rest(self.clock) {
                self.take(&line)?;
            }
        }
        self.decide_rest()?;
        self.beside.take().map_or(Ok(()), Beside::finish)
    }

    pub(super) fn signal(&mut self, signal: &Signal) -> Result<()> {
        if let Some(beside) = &mut self.beside {
            for line in beside.until(signal.at, self.clock) {
                self.take(&line)?;
            }
        }
        self.take(signal)
    }

    fn take(&mut self, signal: &Signal) -> Result<()> {
        // Time is in every signal: a recording needs no ticks.
        if !matches!(signal.fact, Fact::Tick)
            && let Some(recorder) = &mut self.recorder
            && let Err(loss) = recorder.on_signal(signal)
        {
            self.record_loss(loss);
        }
        if let Some(report) = &mut self.report {
            report.saw(self.clock.unix_ms(signal.at));
        }
        self.count(signal);
        let decided = self.tracker.observe(signal);
        for decided in decided {
            self.verdict(&decided)?;
        }
        if let Fact::IdleClosed(close) = &signal.fact {
            self.risk(signal, close.proxy, &close.upstream)?;
        }
        if let Fact::UpstreamEnded(end) = &signal.fact {
            self.upstream_ended(signal.at, end);
        }
        Ok(())
    }

    pub(super) fn verdict(&mut self, decided: &Decided) -> Result<()> {
        let key = decided.attempts.iter().map(|t| t.attempt.flow).chain(
            decided
                .response
                .iter()
                .flat_map(|(_, _, r)| [r.downstream, u64::from(r.ordinal)]),
        );
        let stamp = render::Stamp {
            id: self.clock.ulid(decided.at, &key.collect::<Vec<_>>()),
            time: self.clock.rfc3339(decided.at),
            node: self.node.clone(),
        };
        let mut verdict = render::verdict(decided, &self.tracker.host, stamp);
        // The name it was found by; /proc may have had no more to say.
        if let Some(name) = verdict.proxy.pid.and_then(|pid| self.proxies.get(&pid)) {
            verdict.proxy.name = Some(name.clone());
        }
        if let Some(metrics) = &self.metrics {
            metrics.on_verdict(&verdict);
            self.workloads.learn(&verdict, &self.tracker.host);
        }
        self.totals.on_verdict(&verdict);
        let client = excerpt::ip(verdict.client.address.as_ref());
        self.privacy.apply(&mut verdict);
        let result = self.results.on_verdict(&verdict, decided.decided);
        let at_ms = self.clock.unix_ms(decided.at);
        if let Some(history) = &mut self.history {
            history.on_verdict(&verdict, at_ms);
        }
        if let Some(otlp) = &mut self.otlp {
            otlp.on_verdict(&verdict, self.clock.unix(decided.at));
        }
        let proxy = verdict
            .proxy
            .pid
            .and_then(|pid| self.tracker.host.process(pid));
        let netns = proxy.map(|process| process.netns);
        let verdict = match &mut self.awaited {
            Some(awaited) => awaited.take(decided, verdict, at_ms, client, netns),
            None => Some(verdict),
        };
        if let Some(report) = &mut self.report {
            report.await_packets(self.awaited.as_ref().map_or(0, Awaited::len));
            if let Some(verdict) = verdict {
                report.on_verdict(&verdict, at_ms, &[]);
            }
        }
        self.written(result)
    }

    fn risk(&mut self, signal: &Signal, proxy: u32, upstream: &Address) -> Result<()> {
        let Some(early) = self.tracker.host.new_risk(proxy, upstream) else {
            return Ok(());
        };
        let owner = self
            .tracker
            .host
            .listener_of(proxy, upstream)
            .map(|l| l.fact.pid);
        let name = |pid| self.tracker.host.process(pid).map(|p| p.name.clone());
        let risk = Risk {
            kind: "risk",
            time: self.clock.rfc3339(signal.at),
            proxy: Party {
                name: name(proxy),
                // From packets it is who serves the address, not who has the connection.
                pid: Some(proxy).filter(|_| signal.source != Source::Packets),
                ..render::home(self.tracker.host.process(proxy))
            },
            upstream: Party {
                address: Some(upstream.clone()),
                process: Some(owner.and_then(name)),
                pid: owner,
                ..render::home(owner.and_then(|pid| self.tracker.host.process(pid)))
            },
            closes_after_us: early.closes_after_us,
            longest_reuse_us: early.longest_reuse_us,
            text: crate::diagnose::risk_text(&early),
        };
        if let Some(report) = &mut self.report {
            report.on_risk(&risk);
        }
        if let Some(history) = &mut self.history {
            history.on_risk(&risk, self.clock.unix_ms(signal.at));
        }
        if let Some(otlp) = &mut self.otlp {
            otlp.on_risk(&risk, self.clock.unix(signal.at));
        }
        let result = self.results.on_risk(&risk);
        self.written(result)
    }

    /// What metrics and the summary want to know of signals themselves.
    fn count(&mut self, signal: &Signal) {
        match &signal.fact {
            Fact::ProxyStarted { pid, name } => {
                self.saw_proxy = true;
                self.proxies.insert(*pid, name.clone());
                self.proxies_changed = true;
            }
            Fact::ProcessExited(ProcessExit { pid, .. }) | Fact::ProxyGone { pid } => {
                self.proxies_changed |= self.proxies.remove(pid).is_some();
            }
            // Its home may have become known.
            Fact::ProcessSeen(process) => {
                self.proxies_changed |= self.proxies.contains_key(&process.pid);
            }
            Fact::SignalsLost {
                stage,
                reason,
                count,
                ..
            } => {
                self.totals.lost(stage, reason, *count);
                if let Some(history) = &mut self.history {
                    history.lost(stage, reason, *count);
                }
            }
            _ => {}
        }
        let Some(metrics) = &self.metrics else { return };
        let name = |pid: u32| {
            let watched = self.proxies.get(&pid).map(String::as_str);
            let known = self.tracker.host.process(pid).map(|p| p.name.as_str());
            watched.or(known).unwrap_or("unknown").to_owned()
        };
        let proxy = |pid| Who::proxy(&name(pid), &render::home(self.tracker.host.process(pid)));
        let upstream = |proxy, address| self.workloads.who(proxy, address, &self.tracker.host);
        let kind = match &signal.fact {
            Fact::AttemptEnded(_) => "attempt_ended",
            Fact::AttemptRetried { .. } => "attempt_retried",
            Fact::FlowClosed(_) => "flow_closed",
            Fact::ResponseSent(_) => "response_sent",
            Fact::IdleClosed(close) => {
                let upstream = upstream(close.proxy, &close.upstream);
                metrics.on_idle_close(close, &proxy(close.proxy), &upstream);
                "idle_closed"
            }
            Fact::FirstByteLate(stall) => {
                let upstream = upstream(stall.proxy, &stall.upstream);
                metrics.on_stall(stall, &proxy(stall.proxy), &upstream);
                "first_byte_late"
            }
            Fact::ListenerSeen(listener) => {
                metrics.on_listener(listener, &name(listener.pid));
                "listener_seen"
            }
            Fact::UpstreamEnded(_) => "upstream_ended",
            Fact::RequestMetClose(_) => "request_met_close",
            Fact::ProcessExited(_) => "process_exited",
            Fact::SignalSent(_) => "signal_sent",
            Fact::OomKilled { .. } => "oom_killed",
            Fact::ProcessSampled(_) => "process_sampled",
            Fact::ProcessSeen(_) => "process_seen",
            Fact::ProxyStarted { .. } => "proxy_started",
            Fact::ProxyGone { .. } => "proxy_gone",
            Fact::Logged(_) => "logged",
            Fact::ServerLogged(_) => "server_logged",
            Fact::LinesDistrusted { count } => {
                metrics.lost("log", "distrusted", *count);
                "lines_distrusted"
            }
            Fact::SourceStarted { .. } => "source_started",
            Fact::SignalsLost {
                stage,
                reason,
                count,
                ..
            } => {
                metrics.lost(stage, reason, *count);
                return;
            }
            Fact::Tick => return,
        };
        let source = match signal.source {
            Source::Kernel => "kernel",
            Source::Packets => "packets",
            Source::Log => "log",
        };
        metrics.signals(source, kind, 1);
    }

    /// Not with each process: when one is seen, its home is told a moment later.
    fn tell_watched(&mut self) {
        let Some(metrics) = self.metrics.as_ref().filter(|_| self.proxies_changed) else {
            return;
        };
        self.proxies_changed = false;
        let mut watched: BTreeMap<Who, u64> = BTreeMap::new();
        for (pid, name) in &self.proxies {
            let home = render::home(self.tracker.host.process(*pid));
            *watched.entry(Who::proxy(name, &home)).or_default() += 1;
        }
        metrics.proxies_watched(&watched);
    }

    pub(super) fn lost(&mut self, stage: &str, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        self.totals.lost(stage, reason, count);
        if let Some(history) = &mut self.history {
            history.lost(stage, reason, count);
        }
        if let Some(metrics) = &self.metrics {
            metrics.lost(stage, reason, count);
        }
    }

    fn record_loss(&mut self, loss: RecordLoss) {
        if let Some(message) = &loss.message {
            // A results sink that cannot make room says so itself at its next line.
            let _ = self.results.make_room();
            warning!("{message}");
        }
        self.lost("record", loss.reason, loss.count);
    }

    /// The chores of a fifth of a second; the tracker's time comes with the signals.
    pub(super) fn chores(&mut self, now: Nanos) -> Result<()> {
        if now < self.flushed + FLUSH {
            return Ok(());
        }
        self.flushed = now;
        if self.remeasures && now > self.measured + REMEASURE {
            self.measured = now;
            self.clock = Clock::of_host();
        }
        if let Some(Err(loss)) = self.recorder.as_mut().map(Recorder::flush) {
            self.record_loss(loss);
        }
        let dropped = self.drops.as_ref().map_or(0, Drops::take);
        if dropped > 0 {
            self.lost("output", "slow_reader", dropped);
        }
        let too_late = match &mut self.awaited {
            Some(awaited) => awaited.look(now, self.clock),
            None => 0,
        };
        self.lost("excerpt", "forgotten", too_late);
        self.forgotten();
        self.tend_history();
        self.tend_otlp();
        self.tend_cluster();
        self.tell_watched();
        if let Some(metrics) = &self.metrics {
            metrics.on_tick(now);
        }
        let result = self.results.on_tick(now);
        self.written(result)
    }

    /// Whether the Kubernetes API answers, and what is to be said of it.
    fn tend_cluster(&mut self) {
        if let (Some(metrics), Some(up)) = (&self.metrics, self.cluster.up()) {
            metrics.kubernetes_up(up);
        }
        for message in self.cluster.messages() {
            // A results sink that cannot make room says so itself at its next line.
            let _ = self.results.make_room();
            warning!("{message}");
        }
    }

    /// What the tracker had to forget since this was asked last.
    fn forgotten(&mut self) {
        let dropped: Vec<_> = self.tracker.dropped().collect();
        for (what, total) in dropped {
            let told = self.forgot.entry(what).or_default();
            let count = total - *told;
            *told = total;
            if count > 0 {
                self.lost("host_memory", what, count);
            }
        }
    }

    /// A daemon outlives its output: what cannot be written is counted, and said once.
    fn written(&mut self, result: std::io::Result<()>) -> Result<()> {
        match result {
            Err(error) if self.outlives_output => {
                if !self.output_failed {
                    self.output_failed = true;
                    warning!("standard output: {error}; results go to metrics only");
                }
                self.lost("output", "write_failed", 1);
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// What still waits is decided with what is there.
    pub(super) fn decide_rest(&mut self) -> Result<()> {
        for decided in self.tracker.finish() {
            self.verdict(&decided)?;
        }
        Ok(())
    }

    /// Everything is decided; then the summary.
    pub(super) fn finish(&mut self, began: Nanos, ended: Nanos) -> Result<()> {
        self.decide_rest()?;
        if let Some(Err(loss)) = self.recorder.as_mut().map(Recorder::flush) {
            self.record_loss(loss);
        }
        let dropped = self.drops.as_ref().map_or(0, Drops::take);
        self.lost("output", "slow_reader", dropped);
        self.forgotten();
        let excerpt = match self.awaited.take() {
            Some(awaited) => excerpt::live::finish(self, awaited),
            None => Ok(()),
        };
        self.finish_history();
        self.finish_otlp();
        let summary = self.totals.finish(began, ended);
        let result = self.results.finish(&summary);
        // A reader of standard output that left does not take the report with it.
        let reported = match self.report.take() {
            Some(report) => report.finish(&summary),
            None => Ok(()),
        };
        let copied = self.pcap.take().map_or(Ok(()), PcapOut::finish);
        self.written(result).and(reported).and(excerpt).and(copied)
    }

    pub(super) fn blind(&mut self, status: &Status) {
        for seen in status.facts.iter().filter(|seen| seen.by.is_some()) {
            detail!("{} is seen by {}", seen.ladder.fact, seen.hook());
        }
        let refused = status.blind();
        for seen in &status.facts {
            let fact = seen.ladder.fact;
            let own = refused.iter().filter(|(refused, _)| *refused == fact);
            let why: Vec<&str> = own.map(|(_, why)| why.as_str()).collect();
            self.sees((fact, (!why.is_empty()).then(|| why.join("; "))));
        }
        self.sees(others::identity(status.missing.iter().copied()));
        if let Some(why) = &status.no_far_ends {
            warning!("ends of connections from other hosts cannot be told: {why}");
        }
        if let Some(why) = &status.no_tls_status {
            warning!("the status in TLS of no proxy is read: {why}");
        }
        if let Some(metrics) = &self.metrics {
            metrics.source_up("kernel", status.sees_responses());
            for seen in &status.facts {
                metrics.probe_attached(seen.ladder.fact, &seen.programs(), seen.by.is_some());
            }
        }
    }

    /// Whether this fact can be seen here: why not, where it cannot.
    pub(super) fn sees(&mut self, (fact, why): Sight) {
        if let Some(metrics) = &self.metrics {
            metrics.blind(fact, why.is_some());
        }
        if let Some(why) = why
            && self.unseen(fact, &why)
        {
            let _ = self.results.make_room();
            warning!("{fact} cannot be seen: {why}");
        }
    }
}
