//! Every metric of the contract, in Prometheus' text format.
//!
//! A counter that could appear with its first failure exists at 0 before: the pairs of a proxy and
//! a cause from the moment the proxy is seen; those with an upstream, which cannot all be known in
//! advance, show 0 to each reader for one scrape first (see `series`). So one failure in 20,000 is an increase.

mod families;
mod listeners;
mod process;
mod proxies;
mod series;
mod upstreams;
mod who;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

use super::otlp::Counts;
use crate::cause::Cause;
use crate::cli::REVISION;
use crate::signal::{ClosedBy, IdleClose, Listener, Nanos, Stall};
use crate::verdict::{Confidence, Kind, Verdict};

use families::{NONE, counters, gauge, gauges, histogram};
use listeners::Listeners;
use proxies::Proxies;
use series::{Buckets, Counters, Scrape};
use upstreams::Upstreams;

pub use who::Who;

const UNKNOWN: &str = "unknown";

/// What has no place of its own under the caps.
const OTHER: &str = "other";

/// Who is not used for this long gives its place up.
const UNUSED: Nanos = 3600 * 1_000_000_000;

/// Names that come from the program itself, not from traffic; capped all the same.
const MAX_NAMES: usize = 256;

/// Those who read the export and are told from each other.
const READERS: usize = 16;

const DELAY_EDGES: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// All metrics; shared between the diagnosis and the HTTP server.
#[derive(Debug, Default)]
pub struct Metrics {
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    now: Nanos,
    /// Made so far, and each reader's last.
    scrapes: u64,
    readers: BTreeMap<String, u64>,
    proxies: Proxies,
    /// By cause, confidence.
    verdicts: Counters<2>,
    upstreams: Upstreams,
    listeners: Listeners,
    delay: Buckets,
    /// By source, kind.
    signals: Counters<2>,
    /// By stage, reason.
    lost: Counters<2>,
    probes: BTreeMap<[String; 2], f64>,
    sources: BTreeMap<[String; 1], f64>,
    blind: BTreeMap<[String; 1], f64>,
    /// Whether verdicts are kept; `None`: nobody asked for it.
    history: Option<bool>,
    /// What became of what was exported; `None`: nobody asked for it.
    otlp: Option<Counts>,
    /// Whether the Kubernetes API answers; `None`: nobody asks it.
    kubernetes: Option<bool>,
    /// Why there is no source.
    waits: Option<String>,
}

impl Default for State {
    fn default() -> State {
        let mut state = State {
            now: 0,
            scrapes: 0,
            readers: BTreeMap::new(),
            proxies: Proxies::default(),
            verdicts: Counters::new(usize::MAX),
            upstreams: Upstreams::default(),
            listeners: Listeners::default(),
            delay: Buckets::new(DELAY_EDGES),
            signals: Counters::new(MAX_NAMES),
            lost: Counters::new(MAX_NAMES),
            probes: BTreeMap::new(),
            sources: BTreeMap::new(),
            blind: BTreeMap::new(),
            history: None,
            otlp: None,
            kubernetes: None,
            waits: None,
        };
        for cause in Cause::ALL {
            for confidence in Confidence::ALL {
                // Only the cause `unknown` has the confidence `unknown`, and it has no other.
                if (*cause == Cause::Unknown) == (confidence == Confidence::Unknown)
                    && *cause != Cause::DownstreamGaveUp
                {
                    state.verdicts.touch([cause.name(), confidence.name()]);
                }
            }
        }
        state
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Moves time on: an upstream that was not used for an hour leaves the export.
    pub fn on_tick(&self, now: Nanos) {
        let mut state = self.state();
        state.now = state.now.max(now);
        let now = state.now;
        state.upstreams.expire(now);
    }

    /// The proxies that are watched now, and how many processes of each.
    pub fn proxies_watched(&self, processes: &BTreeMap<Who, u64>) {
        let mut state = self.state();
        let now = state.now;
        state.proxies.watched(processes, now);
    }

    /// Counts a verdict, near miss or truncated response.
    pub fn on_verdict(&self, verdict: &Verdict) {
        let mut state = self.state();
        state.now = state.now.max(verdict.at);
        let now = state.now;
        let name = verdict.proxy.name.as_deref().unwrap_or(UNKNOWN);
        let proxy = Who::proxy(name, &verdict.proxy);
        let proxy = state.proxies.place(&proxy, now);
        let cause = verdict.cause;
        if verdict.contradicted {
            state.proxies.contradicted(&proxy, cause);
        }
        let upstream = &verdict.upstream;
        let workload = upstream.qualified_workload();
        let called = workload.or_else(|| Some(upstream.address.as_ref()?.0.clone()));
        state.listeners.on_attempts(&verdict.attempts);
        if verdict.kind == Kind::Verdict {
            state.delay.observe(verdict.delay_ns as f64 / 1e9);
            state.proxies.failed(&proxy, verdict.status, cause);
            state
                .verdicts
                .add([cause.name(), verdict.confidence.name()], 1);
        }
        // A failure without an attempt (the proxy's own limit) has no upstream.
        let Some(called) = called else { return };
        let who = Who::upstream(&called, upstream);
        let upstream = state.upstreams.get(&proxy, &who, now);
        match verdict.kind {
            Kind::Verdict => upstream.failed.entry(cause).or_default().add(1),
            Kind::NearMiss => upstream.near_misses.entry(cause).or_default().add(1),
            Kind::Truncated => upstream.truncated.add(1),
        }
        for attempt in &verdict.attempts {
            if attempt.outcome == "peer_closed" || attempt.outcome == "reset" {
                let reset = attempt.outcome == "reset";
                let own = verdict.upstream.address.as_ref() == Some(&attempt.upstream);
                let another = || Who::named(&attempt.upstream.0);
                let who = if own { who.clone() } else { another() };
                let upstream = state.upstreams.get(&proxy, &who, now);
                upstream.closed_in_flight(reset);
            }
        }
    }

    /// An upstream or a proxy closed a connection with no request on it.
    pub fn on_idle_close(&self, close: &IdleClose, proxy: &Who, upstream: &Who) {
        // Who closes early is the upstream's story; the proxy's own closes say nothing of it.
        if close.by != ClosedBy::Upstream {
            return;
        }
        let mut state = self.state();
        let now = state.now;
        let proxy = state.proxies.place(proxy, now);
        let upstream = state.upstreams.get(&proxy, upstream, now);
        upstream.closed_idle(close.reset, close.idle_ns as f64 / 1e9);
    }

    /// An upstream took more than a second to its first byte.
    pub fn on_stall(&self, stall: &Stall, proxy: &Who, upstream: &Who) {
        let mut state = self.state();
        let now = state.now;
        let proxy = state.proxies.place(proxy, now);
        let upstream = state.upstreams.get(&proxy, upstream, now);
        upstream.stalls.observe(stall.waited_ns as f64 / 1e9);
    }

    /// A listener's queue; `process` is the name of its process.
    pub fn on_listener(&self, listener: &Listener, process: &str) {
        self.state().listeners.on_listener(listener, process);
    }

    /// Signals that a source delivered.
    pub fn signals(&self, source: &str, kind: &str, count: u64) {
        self.state().signals.add([source, kind], count);
    }

    /// Signals dropped, where and why. A count of 0 makes the series exist.
    pub fn lost(&self, stage: &str, reason: &str, count: u64) {
        self.state().lost.add([stage, reason], count);
    }

    /// Whether a probe is attached, and the hook it uses or was refused.
    pub fn probe_attached(&self, probe: &str, hook: &str, attached: bool) {
        set(&mut self.state().probes, [probe, hook], attached);
    }

    /// Whether a source delivers signals.
    pub fn source_up(&self, source: &str, up: bool) {
        set(&mut self.state().sources, [source], up);
    }

    /// Whether this fact cannot be seen on this host.
    pub fn blind(&self, fact: &str, blind: bool) {
        set(&mut self.state().blind, [fact], blind);
    }

    /// Whether the history keeps verdicts.
    pub fn history_up(&self, up: bool) {
        self.state().history = Some(up);
    }

    /// Whether the Kubernetes API answers.
    pub fn kubernetes_up(&self, up: bool) {
        self.state().kubernetes = Some(up);
    }

    /// What became of the records that were exported over OTLP. What was dropped is counted among the
    /// losses as well, by its reason.
    pub fn otlp(&self, counts: Counts) {
        let mut state = self.state();
        let before = state.otlp.take().unwrap_or_default();
        for (reason, count) in &counts.dropped {
            let known = before.dropped.get(reason).copied().unwrap_or(0);
            state.lost.add(["otlp", reason], count - known);
        }
        state.otlp = Some(counts);
    }

    /// Why there is no source yet; `None`: there is one, which says itself whether it delivers.
    pub fn waits_for_source(&self, why: Option<String>) {
        self.state().waits = why;
    }

    /// Whether at least one source delivers, else why not: `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state();
        match state.sources.values().any(|up| *up > 0.0) {
            true => Ok(()),
            false => Err(state
                .waits
                .clone()
                .unwrap_or_else(|| "no source delivers".to_owned())),
        }
    }

    /// The whole export for one of those who read it. Its new series count from one call to the next,
    /// peaks from anyone's.
    pub fn render(&self, reader: &str) -> String {
        let families = {
            let mut state = self.state();
            let scrape = state.scrape(reader);
            state.gather(scrape)
        };
        let mut text = Vec::with_capacity(64 * 1024);
        match TextEncoder::new().encode(&families, &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            // Says what is wrong in a form that Prometheus refuses, instead of half the metrics.
            Err(error) => format!("why502 could not encode its metrics: {error}\n"),
        }
    }

    /// The same for whoever is sent them: what counts from one scrape to the next stays as it is, but
    /// for peaks, which count from one call of this to the next.
    pub fn export(&self) -> Vec<MetricFamily> {
        let mut copy = {
            let mut state = self.state();
            let mut copy = state.clone();
            state.listeners.pushed(&mut copy.listeners);
            copy
        };
        copy.gather(Scrape::WHOLE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters are consistent one by one: a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn scrape(&mut self, reader: &str) -> Scrape {
        self.scrapes += 1;
        let number = self.scrapes;
        let before = self.readers.insert(reader.to_owned(), number);
        if self.readers.len() > READERS {
            // Who has not come for the longest time is new when it comes again.
            let oldest = self.readers.iter().min_by_key(|(_, last)| **last);
            if let Some(oldest) = oldest.map(|(reader, _)| reader.clone()) {
                self.readers.remove(&oldest);
            }
        }
        Scrape { number, before }
    }

    fn gather(&mut self, scrape: Scrape) -> Vec<MetricFamily> {
        let mut families = vec![counters(
            "why502_verdicts_total",
            "Verdicts, by how sure they are",
            &["cause", "confidence"],
            self.verdicts.export(scrape),
        )];
        families.extend(self.proxies.gather(scrape));
        families.extend(self.upstreams.gather(scrape));
        families.extend(self.listeners.gather(scrape));
        families.extend([
            histogram(
                "why502_verdict_delay_seconds",
                "From the response to its verdict",
                &[],
                [(NONE, &self.delay)],
            ),
            counters(
                "why502_signals_total",
                "Signals that sources delivered",
                &["source", "kind"],
                self.signals.export(Scrape::WHOLE),
            ),
            counters(
                "why502_signals_lost_total",
                "Signals and results that were dropped, by where and why",
                &["stage", "reason"],
                self.lost.export(scrape),
            ),
            gauges(
                "why502_probe_attached",
                "1 if the probe is attached by this hook, 0 if the hook was refused",
                &["probe", "hook"],
                self.probes.clone(),
            ),
            gauges(
                "why502_source_up",
                "1 if the source delivers signals",
                &["source"],
                self.sources.clone(),
            ),
            gauges(
                "why502_blind",
                "1 if this fact cannot be seen on this host",
                &["fact"],
                self.blind.clone(),
            ),
            gauges(
                "why502_history_up",
                "1 if verdicts are kept in the history, 0 if its file cannot be used",
                &[],
                self.history.map(|up| (NONE, f64::from(u8::from(up)))),
            ),
            counters(
                "why502_otlp_records_total",
                "Records for OTLP: produced is sent, dropped and what waits",
                &["outcome"],
                self.otlp.iter().flat_map(|counts| {
                    [
                        ("produced", counts.produced),
                        ("sent", counts.sent),
                        ("dropped", counts.lost()),
                    ]
                    .map(|(outcome, count)| ([outcome.to_owned()], count as f64))
                }),
            ),
            gauges(
                "why502_otlp_up",
                "1 if the receiver of OTLP took what was sent last, 0 if it did not",
                &[],
                self.otlp
                    .iter()
                    .filter_map(|counts| counts.up)
                    .map(|up| (NONE, f64::from(u8::from(up)))),
            ),
            gauges(
                "why502_kubernetes_up",
                "1 if the Kubernetes API answers, 0 if workloads keep the names known before",
                &[],
                self.kubernetes.map(|up| (NONE, f64::from(u8::from(up)))),
            ),
            gauge(
                "why502_build_info",
                "The version and revision that runs",
                &[
                    ("version", env!("CARGO_PKG_VERSION")),
                    ("revision", REVISION),
                ],
                1.0,
            ),
        ]);
        families.extend(process::gather());
        // The encoder refuses a family without a metric, and one that nothing was counted in says nothing.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn set<const N: usize>(gauges: &mut BTreeMap<[String; N], f64>, labels: [&str; N], on: bool) {
    let labels = labels.map(str::to_owned);
    if gauges.len() < MAX_NAMES || gauges.contains_key(&labels) {
        gauges.insert(labels, f64::from(u8::from(on)));
    }
}
