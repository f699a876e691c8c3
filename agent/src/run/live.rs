//! `capture` and `run`: a source that watches live, until there is a reason to end.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use caps::Capability;

use super::excerpt::{self, Awaited, PcapOut};
use super::logs;
use super::pipeline::Pipeline;
use super::until_seen::{self, Pauses};
use super::watching::{Started, Watching, selection};
use crate::cli::{Exit, note, warning};
use crate::clock::{self, Clock};
use crate::config::{Capture, Choice, Run, Watch};
use crate::privileges;
use crate::signal::{Nanos, Signal};
use crate::sinks::history::{History, Limits};
use crate::sinks::http::Server;
use crate::sinks::json::{JsonLines, LINES_PER_SECOND};
use crate::sinks::metrics::Metrics;
use crate::sinks::otlp::{self, Otlp};
use crate::sinks::output::Output;
use crate::sinks::record::{Header, Recorder};
use crate::sinks::report::Report;
use crate::sinks::results::Results;
use crate::sinks::table::{Display, Table};
use crate::sources::cluster;
use crate::sources::packets::ring::{Keep, Ring};

/// Signals that may wait for the tracker: a second of the worst storm that is promised.
const CHANNEL: usize = 8_192;
/// How long the loop waits for a signal before it looks whether to end.
const PATIENCE: Duration = Duration::from_millis(50);

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

/// Why a live command's loop is over.
enum Over {
    Asked,
    /// The source has ended, which nobody asked for.
    Source,
}

fn live<W: Write>(
    pipeline: &mut Pipeline<W>,
    signals: &Receiver<Signal>,
    source: &Watching,
    stop: &AtomicBool,
    until: &Until,
) -> Result<Over> {
    loop {
        match signals.recv_timeout(PATIENCE) {
            Ok(signal) => pipeline.signal(&signal)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(Over::Source),
        }
        for line in source.lines() {
            pipeline.signal(&line)?;
        }
        source.tend(pipeline);
        let now = clock::now();
        pipeline.chores(source.now())?;
        let enough = until
            .verdicts
            .is_some_and(|n| pipeline.totals.failed() >= n);
        if stop.load(Ordering::Relaxed) || enough || until.deadline.is_some_and(|at| now >= at) {
            return Ok(Over::Asked);
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
    let keep = match settings.kept.with_payload {
        true => Keep::Everything,
        false => Keep::Lines,
    };
    let ring = settings
        .kept
        .pcap
        .is_some()
        .then(|| Arc::new(Ring::new(keep)));
    let cluster = ask_cluster(node)?;
    let (source, signals) = Watching::start(&settings.watch, &cluster, CHANNEL, ring.as_ref())?;
    let results = if settings.json {
        Results::Json(JsonLines::all(output))
    } else {
        let table = Table::new(output, Display::of_stdout(), source.now());
        Results::Table(Box::new(table))
    };
    let clock = source.clock();
    let mut pipeline = Pipeline::new(results, settings.privacy, node, clock);
    pipeline.drops = Some(drops);
    pipeline.cluster = cluster;
    if let (Some(path), Some(ring)) = (&settings.kept.pcap, ring) {
        let pcap = PcapOut::create(path, settings.privacy, settings.kept.with_payload)?;
        pipeline.pcap = Some(pcap);
        let search = excerpt::live::Search::new(ring, source.sees_packets());
        pipeline.awaited = Some(Awaited::live(search));
    }
    if let Some(path) = &settings.kept.report {
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
    let mut keeps = source.keeps();
    if settings.kept.report.is_some() {
        // It gets its name at the end, in a folder that may be another user's, where another user's
        // file may have that name.
        keeps.extend([Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER]);
    }
    privileges::keep(&keeps);
    eprintln!("ready");
    let until = Until {
        deadline: Some(clock::now().saturating_add(settings.duration.as_nanos() as u64)),
        verdicts: settings.count,
    };
    let name = source.name();
    let lived = live(&mut pipeline, &signals, &source, &stop, &until);
    let ended = end(&mut pipeline, &signals, source, began);
    if let (Over::Source, ()) = (lived?, ended?) {
        bail!("the {name} source ended unexpectedly");
    }
    if !pipeline.saw_proxy {
        bail!(
            "no proxy ran in this time: looked for {}; name yours with --proxy NAME or --pid PID",
            settings.watch.wanted()
        );
    }
    let found = pipeline.totals.failed() > 0;
    Ok(if found && settings.fail_on_verdict {
        Exit::VerdictFound
    } else {
        Exit::Done
    })
}

/// `why502 run`: stays, whatever becomes of its source, but for probes: those it may load only once.
pub fn run(settings: &Run, node: &str) -> Result<Exit> {
    let stop = stop_flag()?;
    let metrics = Arc::new(Metrics::new());
    serve(settings, Arc::clone(&metrics))?;
    let output = Output::stdout().context("open standard output")?;
    let drops = output.drops();
    let began = clock::now();
    let mut watch = settings.watch.clone();
    let cluster = ask_cluster(node)?;
    // Wrong from the start on, which trying again does not change.
    let pids: Vec<u32> = selection(&watch, &cluster).running().into_iter().collect();
    logs::formats(&watch.logs, &pids)?;
    let started = start(&watch, &cluster, &metrics, &stop);
    // After the source, whose start takes the most memory; and only then somebody watches.
    let history = settings.history.as_deref().map(|path| {
        let history = History::start(path, node, Limits::default());
        history.context("start the thread of the history")
    });
    let mut history = history.transpose()?;
    if let Some(history) = &mut history {
        // What is wrong from the start is said before there is a table.
        super::history::tend(history, Some(&metrics), |message| warning!("{message}"));
    }
    let otlp = settings.otlp.as_ref().map(|endpoint| {
        let otlp = Otlp::start(endpoint, node, &metrics, otlp::Limits::default());
        otlp.context("start the thread of the export")
    });
    let now = started.as_ref().map_or_else(clock::now, |s| s.0.now());
    let results = if settings.json {
        Results::Json(JsonLines::limited(output, LINES_PER_SECOND))
    } else {
        let table = Table::new(output, Display::of_stdout(), now);
        Results::Table(Box::new(table))
    };
    let mut pipeline = Pipeline::new(results, settings.privacy, node, Clock::of_host());
    pipeline.drops = Some(drops);
    pipeline.metrics = Some(Arc::clone(&metrics));
    pipeline.outlives_output = true;
    pipeline.history = history;
    pipeline.otlp = otlp.transpose()?;
    pipeline.cluster = cluster;
    let mut next = started;
    while let Some((source, signals)) = next {
        // Another one would have another clock.
        watch.source = source.kind();
        pipeline.begin_source(source.clock());
        source.tell(&mut pipeline);
        privileges::keep(&source.keeps());
        eprintln!("ready");
        if source.proxies() == 0 && source.name() == "kernel" {
            note!("no proxy runs yet; waiting for {}", settings.watch.wanted());
        }
        let forever = Until {
            deadline: None,
            verdicts: None,
        };
        match live(&mut pipeline, &signals, &source, &stop, &forever) {
            Ok(Over::Asked) => {
                end(&mut pipeline, &signals, source, began)?;
                return Ok(Exit::Done);
            }
            Ok(Over::Source) => {
                metrics.source_up(source.label(), false);
                let name = source.name();
                let probes = watch.source == Choice::Kernel;
                match source.join(&mut pipeline) {
                    joined if probes => {
                        pipeline.finish(began, clock::now())?;
                        joined?;
                        bail!(
                            "the kernel source ended, and the rights to start it again are given up"
                        );
                    }
                    Ok(()) => warning!("the {name} source ended; it is started again"),
                    Err(error) => warning!("{error:#}; it is started again"),
                }
                pipeline.decide_rest()?;
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = end(&mut pipeline, &signals, source, began);
                return Err(error);
            }
        }
        until_seen::rest(&stop);
        next = start(&watch, &pipeline.cluster, &metrics, &stop);
    }
    pipeline.finish(began, clock::now())?;
    Ok(Exit::Done)
}

fn ask_cluster(node: &str) -> Result<cluster::Pods> {
    cluster::Pods::start(node).context("start the thread that asks the Kubernetes API")
}

/// A source, as soon as one works; `None` when the end is asked for before.
fn start(
    watch: &Watch,
    cluster: &cluster::Pods,
    metrics: &Metrics,
    stop: &AtomicBool,
) -> Option<Started> {
    for label in Watching::labels(watch.source) {
        metrics.source_up(label, false);
    }
    let try_it = || Watching::start(watch, cluster, CHANNEL, None);
    until_seen::start(try_it, Pauses::USUAL, metrics, stop)
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
        .spawn(move || {
            privileges::keep(&[]);
            runtime.block_on(server.serve())
        })
        .context("start the metrics server")?;
    Ok(())
}
