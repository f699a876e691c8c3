//! Wires sources, tracker and sinks; the only file that names every one of them.

mod again;
mod excerpt;
mod packets;
mod watching;

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cli::{Exit, detail, note, warning};
use crate::clock::{self, Clock};
use crate::config::{Capture, Explain, Input, Run};
use crate::signal::{Fact, Nanos, Signal, Source};
use crate::sinks::http::Server;
use crate::sinks::json::{JsonLines, LINES_PER_SECOND};
use crate::sinks::metrics::Metrics;
use crate::sinks::output::{Drops, Output};
use crate::sinks::privacy::Privacy;
use crate::sinks::record::{Header, RecordLoss, Recorder};
use crate::sinks::report::Report;
use crate::sinks::results::Results;
use crate::sinks::summary::Totals;
use crate::sinks::table::{Display, Table};
use crate::sinks::visible;
use crate::sources::kernel::Status;
use crate::sources::packets::file;
use crate::sources::recording::{ReadError, Recording};
use crate::track::{Decided, Tracker, render};
use crate::verdict::{Party, Risk};
use again::Again;
use excerpt::{Awaited, PcapOut};
use watching::Watching;

/// Signals that may wait for the tracker: a second of the worst storm that is promised.
const CHANNEL: usize = 8_192;
/// How long the loop waits for a signal before it looks whether to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often results are redrawn and files flushed.
const FLUSH: Nanos = 200_000_000;
/// The wall clock may be stepped: its offset is measured anew this often.
const REMEASURE: Nanos = 60_000_000_000;

/// From signals to every sink.
struct Pipeline<W: Write> {
    tracker: Tracker,
    clock: Clock,
    node: String,
    privacy: Privacy,
    results: Results<W>,
    metrics: Option<Arc<Metrics>>,
    recorder: Option<Recorder>,
    report: Option<Report>,
    pcap: Option<PcapOut>,
    /// Verdicts of a capture that is to be read again for their packets.
    awaited: Option<Awaited>,
    totals: Totals,
    /// Results that a slow reader did not take.
    drops: Option<Drops>,
    /// Live proxies' processes, and their names.
    proxies: HashMap<u32, String>,
    saw_proxy: bool,
    /// Counts of `Tracker::dropped` already told.
    forgot: HashMap<&'static str, u64>,
    /// `run`: goes on when standard output fails.
    outlives_output: bool,
    /// Signals are on this host's monotonic clock, whose offset changes.
    remeasures: bool,
    output_failed: bool,
    measured: Nanos,
    flushed: Nanos,
}

impl<W: Write> Pipeline<W> {
    fn new(results: Results<W>, privacy: Privacy, node: &str, clock: Clock) -> Pipeline<W> {
        Pipeline {
            tracker: Tracker::default(),
            clock,
            node: node.to_owned(),
            privacy,
            results,
            metrics: None,
            recorder: None,
            report: None,
            pcap: None,
            awaited: None,
            totals: Totals::default(),
            drops: None,
            proxies: HashMap::new(),
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
    fn begin_source(&mut self, clock: Clock) {
        self.forgotten();
        self.tracker = Tracker::default();
        self.forgot.clear();
        self.proxies.clear();
        self.clock = clock;
    }

    fn signal(&mut self, signal: &Signal) -> Result<()> {
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
        Ok(())
    }

    fn verdict(&mut self, decided: &Decided) -> Result<()> {
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
        }
        self.totals.on_verdict(&verdict);
        let client = excerpt::ip(verdict.client.address.as_ref());
        self.privacy.apply(&mut verdict);
        let result = self.results.on_verdict(&verdict, decided.decided);
        let at_ms = self.clock.unix_ms(decided.at);
        let verdict = match &mut self.awaited {
            Some(awaited) => awaited.take(decided, verdict, at_ms, client),
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

    fn risk(
        &mut self,
        signal: &Signal,
        proxy: u32,
        upstream: &crate::signal::Address,
    ) -> Result<()> {
        let Some(early) = self.tracker.host.new_risk(proxy, upstream) else {
            return Ok(());
        };
        let owner = self.tracker.host.listener(upstream).map(|l| l.fact.pid);
        let name = |pid| self.tracker.host.process(pid).map(|p| p.name.clone());
        let risk = Risk {
            kind: "risk",
            time: self.clock.rfc3339(signal.at),
            proxy: Party {
                name: name(proxy),
                // Packets have no process ids; their source numbers proxies.
                pid: Some(proxy).filter(|_| signal.source != Source::Packets),
                ..Party::default()
            },
            upstream: Party {
                address: Some(upstream.clone()),
                process: Some(owner.and_then(name)),
                pid: owner,
                ..Party::default()
            },
            closes_after_us: early.closes_after_us,
            longest_reuse_us: early.longest_reuse_us,
            text: crate::diagnose::risk_text(&early),
        };
        if let Some(report) = &mut self.report {
            report.on_risk(&risk);
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
                self.watched(name);
            }
            Fact::ProcessExited(exit) => {
                if let Some(name) = self.proxies.remove(&exit.pid) {
                    self.watched(&name);
                }
            }
            Fact::SignalsLost {
                stage,
                reason,
                count,
            } => {
                self.totals.lost(stage, reason, *count);
            }
            _ => {}
        }
        let Some(metrics) = &self.metrics else { return };
        let name = |pid: u32| {
            let watched = self.proxies.get(&pid).map(String::as_str);
            let known = self.tracker.host.process(pid).map(|p| p.name.as_str());
            watched.or(known).unwrap_or("unknown").to_owned()
        };
        let kind = match &signal.fact {
            Fact::AttemptEnded(_) => "attempt_ended",
            Fact::AttemptRetried { .. } => "attempt_retried",
            Fact::FlowClosed(_) => "flow_closed",
            Fact::ResponseSent(_) => "response_sent",
            Fact::IdleClosed(close) => {
                metrics.on_idle_close(close, &name(close.proxy));
                "idle_closed"
            }
            Fact::FirstByteLate(stall) => {
                metrics.on_stall(stall, &name(stall.proxy));
                "first_byte_late"
            }
            Fact::ListenerSeen(listener) => {
                metrics.on_listener(listener, &name(listener.pid));
                "listener_seen"
            }
            Fact::ProcessExited(_) => "process_exited",
            Fact::SignalSent(_) => "signal_sent",
            Fact::OomKilled { .. } => "oom_killed",
            Fact::ProcessSampled(_) => "process_sampled",
            Fact::ProcessSeen(_) => "process_seen",
            Fact::ProxyStarted { .. } => "proxy_started",
            Fact::SourceStarted { .. } => "source_started",
            Fact::SignalsLost {
                stage,
                reason,
                count,
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

    fn watched(&self, name: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.proxy_seen(name);
            let count = self.proxies.values().filter(|n| *n == name).count();
            metrics.proxies_watched(name, count as u64);
        }
    }

    fn lost(&mut self, stage: &str, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        self.totals.lost(stage, reason, count);
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
    fn chores(&mut self, now: Nanos) -> Result<()> {
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
        self.forgotten();
        if let Some(metrics) = &self.metrics {
            metrics.on_tick(now);
        }
        let result = self.results.on_tick(now);
        self.written(result)
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

    /// Everything that still waits is decided with what is there; then the summary.
    fn finish(&mut self, began: Nanos, ended: Nanos) -> Result<()> {
        for decided in self.tracker.finish() {
            self.verdict(&decided)?;
        }
        if let Some(Err(loss)) = self.recorder.as_mut().map(Recorder::flush) {
            self.record_loss(loss);
        }
        let dropped = self.drops.as_ref().map_or(0, Drops::take);
        self.lost("output", "slow_reader", dropped);
        self.forgotten();
        let summary = self.totals.finish(began, ended);
        let result = self.results.finish(&summary);
        // A reader of standard output that left does not take the report with it.
        let reported = match self.report.take() {
            Some(report) => report.finish(&summary),
            None => Ok(()),
        };
        let copied = self.pcap.take().map_or(Ok(()), PcapOut::finish);
        self.written(result).and(reported).and(copied)
    }

    fn blind(&mut self, status: &Status) {
        for (hook, _) in status.hooks.iter().filter(|(_, result)| result.is_ok()) {
            detail!("{} is seen by {}", hook.fact, hook.name);
        }
        for (fact, why) in status.blind() {
            warning!("{fact} cannot be seen: {why}");
            self.totals.blind(fact, &why);
        }
        if let Some(metrics) = &self.metrics {
            metrics.source_up("kernel", status.sees_responses());
            for (hook, result) in &status.hooks {
                metrics.probe_attached(hook.fact, hook.name, result.is_ok());
                metrics.blind(hook.fact, result.is_err());
            }
        }
    }
}

/// Set by SIGINT and SIGTERM.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends at once, as if there were no handler.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("register the signal handler")?;
    }
    Ok(stop)
}

/// What a live command's loop ends for.
struct Until {
    deadline: Option<Nanos>,
    verdicts: Option<u64>,
}

fn live<W: Write>(
    pipeline: &mut Pipeline<W>,
    signals: &Receiver<Signal>,
    source: &Watching,
    stop: &AtomicBool,
    until: &Until,
) -> Result<()> {
    loop {
        match signals.recv_timeout(PATIENCE) {
            Ok(signal) => pipeline.signal(&signal)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the {} source ended unexpectedly", source.name())
            }
        }
        let now = clock::now();
        pipeline.chores(source.now())?;
        let enough = until
            .verdicts
            .is_some_and(|n| pipeline.totals.failed() >= n);
        if stop.load(Ordering::Relaxed) || enough || until.deadline.is_some_and(|at| now >= at) {
            return Ok(());
        }
    }
}

/// Takes the source's last signals, which come while it ends, and closes every sink.
fn end<W: Write>(
    pipeline: &mut Pipeline<W>,
    signals: &Receiver<Signal>,
    source: Watching,
    began: Nanos,
) -> Result<()> {
    source.end();
    let mut result = Ok(());
    while let Ok(signal) = signals.recv() {
        result = result.and(pipeline.signal(&signal));
    }
    result = result.and(source.join(pipeline));
    result.and(pipeline.finish(began, clock::now()))
}

/// `why502 capture`.
pub fn capture(settings: &Capture, node: &str) -> Result<Exit> {
    let stop = stop_flag()?;
    let output = Output::stdout().context("open standard output")?;
    let drops = output.drops();
    let began = clock::now();
    let (source, signals) = Watching::start(&settings.watch, CHANNEL)?;
    let results = if settings.json {
        Results::Json(JsonLines::all(output))
    } else {
        let table = Table::new(output, Display::of_stdout(), source.now());
        Results::Table(Box::new(table))
    };
    let clock = source.clock();
    let mut pipeline = Pipeline::new(results, settings.privacy, node, clock);
    pipeline.drops = Some(drops);
    if let Some(path) = &settings.report {
        let title = format!(
            "{node}, {} UTC",
            &clock.rfc3339(source.now())[..16].replace('T', " ")
        );
        pipeline.report = Some(Report::create(path, &title, source.words())?);
    }
    if let Some(path) = &settings.record {
        pipeline.recorder = Some(Recorder::create(path, &Header::new(clock, node))?);
    }
    source.tell(&mut pipeline);
    if source.blind_to_responses().is_some() {
        source.end();
        bail!("no source can see responses here; `why502 check` says what is missing");
    }
    eprintln!("ready");
    let until = Until {
        deadline: Some(clock::now().saturating_add(settings.duration.as_nanos() as u64)),
        verdicts: settings.count,
    };
    let lived = live(&mut pipeline, &signals, &source, &stop, &until);
    let ended = end(&mut pipeline, &signals, source, began);
    lived.and(ended)?;
    if !pipeline.saw_proxy {
        bail!(
            "no proxy ran in this time: looked for {}; name yours with --proxy NAME or --pid PID",
            settings.watch.names.join(", ")
        );
    }
    let found = pipeline.totals.failed() > 0;
    Ok(if found && settings.fail_on_verdict {
        Exit::VerdictFound
    } else {
        Exit::Done
    })
}

/// `why502 run`.
pub fn run(settings: &Run, node: &str) -> Result<Exit> {
    let stop = stop_flag()?;
    let metrics = Arc::new(Metrics::new());
    serve(settings, Arc::clone(&metrics))?;
    let output = Output::stdout().context("open standard output")?;
    let drops = output.drops();
    let began = clock::now();
    let (source, signals) = Watching::start(&settings.watch, CHANNEL)?;
    let results = if settings.json {
        Results::Json(JsonLines::limited(output, LINES_PER_SECOND))
    } else {
        let table = Table::new(output, Display::of_stdout(), source.now());
        Results::Table(Box::new(table))
    };
    let mut pipeline = Pipeline::new(results, settings.privacy, node, source.clock());
    pipeline.drops = Some(drops);
    pipeline.metrics = Some(metrics);
    pipeline.outlives_output = true;
    source.tell(&mut pipeline);
    eprintln!("ready");
    if source.proxies() == 0 && source.name() == "kernel" {
        note!(
            "no proxy runs yet; waiting for {}",
            settings.watch.names.join(", ")
        );
    }
    let forever = Until {
        deadline: None,
        verdicts: None,
    };
    let lived = live(&mut pipeline, &signals, &source, &stop, &forever);
    let ended = end(&mut pipeline, &signals, source, began);
    lived.and(ended)?;
    Ok(Exit::Done)
}

/// Serves metrics on a thread of its own.
fn serve(settings: &Run, metrics: Arc<Metrics>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the metrics server")?;
    let server = runtime.block_on(Server::bind(settings.listen, metrics))?;
    note!("metrics on http://{}/metrics", server.address()?);
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || runtime.block_on(server.serve()))
        .context("start the metrics server")?;
    Ok(())
}

/// `why502 explain`.
pub fn explain(settings: &Explain, node: &str) -> Result<Exit> {
    let out = BufWriter::new(std::io::stdout().lock());
    let results = if settings.json {
        Results::Json(JsonLines::all(out))
    } else {
        Results::Table(Box::new(Table::new(
            out,
            Display::of_stdout().report_only(),
            0,
        )))
    };
    let mut pipeline = Pipeline::new(results, settings.privacy, node, Clock::from_offset(0));
    let mut seconds = (Nanos::MAX, 0);
    if let Some(path) = &settings.report {
        let names = Input::names(&settings.inputs);
        pipeline.report = Some(Report::create(path, &names, &format!("from {names}"))?);
    }
    if let Some(path) = &settings.pcap {
        no_recording(&settings.inputs)?;
        let pcap = PcapOut::create(path, settings.privacy, settings.with_payload)?;
        pipeline.pcap = Some(pcap);
    }
    let read_again = settings.report.is_some() || settings.pcap.is_some();
    let mut damaged = Vec::new();
    for input in &settings.inputs {
        // What came before the damage is explained all the same.
        let damage = match again::open(input, read_again) {
            Ok(opened) => explain_input(&mut pipeline, settings, opened, &mut seconds)?,
            Err(error) => Some(Damage::of(error)),
        };
        damaged.extend(damage);
    }
    let (began, ended) = seconds;
    pipeline.finish(began.min(ended), ended)?;
    let mut exit = Ok(Exit::Done);
    for Damage { error, harmless } in damaged {
        if harmless {
            warning!("{error:#}");
        } else if exit.is_ok() {
            exit = Err(error);
        } else {
            eprintln!("error: {}", visible(&format!("{error:#}")));
        }
    }
    exit
}

const HOLDS_NO_PACKETS: &str = "{} is a recording, which holds signals and no packets: \
    --pcap needs a packet capture; leave it away, or explain the recording alone";

/// Says so before anything is written or explained.
fn no_recording(inputs: &[Input]) -> Result<()> {
    for input in inputs {
        let Input::File(path) = input else { continue };
        let regular = path.metadata().is_ok_and(|m| m.is_file());
        if regular && file::Input::open(path).is_ok_and(|i| i.kind() == file::Kind::Recording) {
            bail!(HOLDS_NO_PACKETS.replace("{}", &path.display().to_string()));
        }
    }
    Ok(())
}

/// Why an input was not explained to its end.
struct Damage {
    error: anyhow::Error,
    /// All that there was to explain has been.
    harmless: bool,
}

impl Damage {
    fn of(error: impl Into<anyhow::Error>) -> Damage {
        Damage {
            error: error.into(),
            harmless: false,
        }
    }
}

fn explain_input<W: Write>(
    pipeline: &mut Pipeline<W>,
    settings: &Explain,
    (input, again): (file::Input, Option<Again>),
    seconds: &mut (Nanos, Nanos),
) -> Result<Option<Damage>> {
    if matches!(input.kind(), file::Kind::Pcap | file::Kind::PcapNg) {
        let progress = input.progress();
        let capture = match file::Capture::from_input(input) {
            Ok(capture) => capture,
            Err(error) => return Ok(Some(Damage::of(error))),
        };
        let name = capture.name().to_owned();
        pipeline.awaited = again.is_some().then(Awaited::default);
        let proxies = &settings.proxies;
        let damage = packets::explain(pipeline, capture, &progress, proxies, seconds)?;
        if let (Some(awaited), Some(again)) = (pipeline.awaited.take(), again) {
            excerpt::finish(pipeline, awaited, || again.open(&name))?;
        }
        return Ok(damage.map(Damage::of));
    }
    let name = input.name().to_owned();
    if input.kind() != file::Kind::Recording {
        let kind = input.kind();
        return Ok(Some(Damage::of(file::OpenError::NotACapture {
            name,
            kind,
        })));
    }
    if pipeline.pcap.is_some() {
        bail!(HOLDS_NO_PACKETS.replace("{}", &name));
    }
    let damage = replay(pipeline, BufReader::new(input), &name, seconds)?;
    // A recorder that was killed leaves its last line cut: all before it was explained.
    Ok(damage.map(|error| Damage {
        harmless: error.is_truncation(),
        error: error.into(),
    }))
}

fn replay<W: Write>(
    pipeline: &mut Pipeline<W>,
    input: impl std::io::BufRead,
    name: &str,
    (began, ended): &mut (Nanos, Nanos),
) -> Result<Option<ReadError>> {
    let recording = match Recording::open(input, name) {
        Ok(recording) => recording,
        Err(error) => return Ok(Some(error)),
    };
    // Another recording may be another host's.
    pipeline.begin_source(recording.clock());
    pipeline.node.clone_from(&recording.header().node);
    for signal in recording {
        match signal {
            Ok(signal) => {
                *began = (*began).min(signal.at);
                *ended = (*ended).max(signal.at);
                pipeline.signal(&signal)?;
            }
            Err(error) => return Ok(Some(error)),
        }
    }
    for decided in pipeline.tracker.finish() {
        pipeline.verdict(&decided)?;
    }
    Ok(None)
}
