//! The matrix: real proxies × real upstreams × causes, each pair broken for real and judged against
//! what its injector did.
//!
//! A proxy, an upstream or a cause is one file below `matrix/` and its line in the list there. Every
//! pair has network namespaces and processes of its own; agents watch all of them from outside.

mod alike;
mod baseline;
mod beside;
mod causes;
mod delays;
mod document;
mod draw;
mod failures;
mod merge;
mod observers;
mod pairs;
mod print;
mod proxies;
mod score;
mod slices;
mod stage;
mod strays;
mod upstreams;
mod whose;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::expect::Expect;
use crate::ledger::Sent;
use crate::run::{Options, Run};
use crate::wait::monotonic_ns;
use baseline::Classes;
use delays::Delays;
use draw::Draw;
use failures::Failures;
use observers::{Ended, Observers, Said, Source};
use pairs::Pair;
pub use print::list;
use score::{Judged, Score};
use slices::Part;
use stage::Stage;
use strays::Sorted;

#[derive(clap::Args)]
#[group(id = "matrix-options")]
pub struct Args {
    /// Of the matrix, only these proxies.
    #[arg(long, value_delimiter = ',')]
    proxy: Vec<String>,
    /// Of the matrix, only these causes.
    #[arg(long, value_delimiter = ',')]
    cause: Vec<String>,
    /// Only these upstreams, for causes that need one.
    #[arg(long, value_delimiter = ',')]
    upstream: Vec<String>,
    /// How often each pair is set up anew, with other conditions and another upstream.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Failed responses wanted of each pair each time.
    #[arg(long, default_value_t = 6)]
    failures: usize,
    /// How often more each pair is set up that has failed fewer than `--failures` times by then.
    #[arg(long, default_value_t = 0)]
    further: u32,
    /// What the conditions are drawn from; without it another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// What the verdicts are made of: probes, packets or logs alone, or probes with logs; each of
    /// several is judged beside the same faults.
    #[arg(long, value_delimiter = ',', default_value = "kernel,packets,logs,all")]
    source: Vec<Source>,
    /// Pairs at work at once.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Also writes the results as a page of the documentation.
    #[arg(long)]
    document: Option<PathBuf>,
    /// Runs nothing: takes together what these earlier runs (`matrix.json`) measured.
    #[arg(long, value_delimiter = ',')]
    merge: Vec<PathBuf>,
}

/// What became of a pair.
struct Played {
    pair: Pair,
    entries: Vec<(Sent, Expect)>,
    /// What each source says of it.
    said: Said,
    part: Part,
    /// The software that its requests failed at, where there was any.
    server: Option<&'static str>,
    broken: Option<String>,
}

/// The results of one (proxy, cause) for one source.
#[derive(Default, Serialize, Deserialize)]
struct Cell {
    judged: Judged,
    /// The second fault, and what failed at its side.
    #[serde(default)]
    mixed: Judged,
    /// What failed within a second of something that failed for another cause.
    #[serde(default)]
    near: Score,
    /// The second fault alone, whenever it came.
    #[serde(default)]
    second: Score,
    /// Of the source that is live.
    #[serde(default)]
    delays: Delays,
    upstreams: BTreeMap<String, u32>,
}

impl Cell {
    fn holds(&self, source: Source) -> bool {
        self.judged.score.holds(source) && self.mixed.score.holds(source)
    }

    fn add(&mut self, other: Cell) {
        self.judged.add(other.judged);
        self.mixed.add(other.mixed);
        self.near.add(&other.near);
        self.second.add(&other.second);
        self.delays.add(&other.delays);
        for (upstream, failed) in other.upstreams {
            *self.upstreams.entry(upstream).or_default() += failed;
        }
    }
}

/// By proxy and cause.
type Cells = BTreeMap<(&'static str, &'static str), Cell>;

/// Whether all pairs that were run are right. Prints everything.
pub fn run(args: &Args, why502: &Path, out: &Path) -> Result<bool> {
    if !args.merge.is_empty() {
        return merge::run(args);
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let began = Instant::now();
    let chosen = pairs::choose(args, seed)?;
    let mut skipped = chosen.skipped;
    println!("seed {seed}");
    let options = Options {
        why502: Some(why502.to_owned()),
        full: false,
        out: out.to_owned(),
        prometheus: None,
        packets: false,
        unproven: false,
        lossy: false,
    };
    let observers = Observers::start(why502, out, &args.source, &chosen.proxies)?;
    let (mut played, mut failures) = (Vec::new(), Failures::default());
    for round in chosen.rounds {
        let pairs = failures.few(round, args.failures);
        for done in play_all(pairs, &options, &observers, seed, args)? {
            failures.count(&done.pair, &done.entries);
            played.push(done);
        }
    }
    let kept: Vec<_> = (played.iter())
        .map(|played| (out.join(played.pair.name()), played.pair.proxy, played.part))
        .collect();
    let ended = observers.finish(&kept)?;
    if ended.lost > 0 {
        println!("{} signals were lost", ended.lost);
    }
    let heard = ended.heard.clone();
    let nobodys = hand_out(&mut played, ended);

    let name = |played: &Played| format!("{} × {}", played.pair.proxy.name, played.pair.cause.name);
    let broken: Vec<String> = (played.iter())
        .filter_map(|played| Some(format!("{}: {}", name(played), played.broken.as_ref()?)))
        .collect();
    let (mut passed, mut failed) = (0, broken.len());
    for line in &nobodys {
        println!("FAILED: a verdict of kernel about no pair: {line}");
    }
    failed += usize::from(!nobodys.is_empty());
    let live = [Source::Kernel, Source::All];
    let said = live
        .iter()
        .flat_map(|of| played.iter().filter_map(|played| played.said.get(of)));
    let strange = stage::strangers(said.flatten().chain(&nobodys));
    for address in &strange {
        println!("FAILED: {address} is called an upstream, and is none");
    }
    failed += usize::from(!strange.is_empty());
    let mut results = BTreeMap::new();
    let mut pages = Vec::new();
    for (number, source) in args.source.iter().enumerate() {
        let cells = judge(&played, *source, &heard);
        print::matrix(*source, &cells);
        let broke = |score: &Score| score.failed == 0;
        if number == 0 {
            let none = cells.iter().filter(|(_, cell)| broke(&cell.judged.score));
            skipped.extend(none.map(|((p, c), _)| format!("{p} × {c}: {}", document::NONE_FAILED)));
        }
        let run = cells
            .iter()
            .filter(|(_, cell)| !broke(&cell.judged.score) || !cell.holds(*source));
        let (right, wrong): (Vec<_>, Vec<_>) = run.partition(|(_, cell)| cell.holds(*source));
        for ((proxy, cause), cell) in &wrong {
            print::does_not_hold(*source, proxy, cause, cell);
        }
        passed += right.len();
        failed += wrong.len();
        results.insert(source.name(), print::json(&cells));
        pages.push((*source, cells));
    }
    for why in &broken {
        println!("FAILED: {why}");
    }
    for why in &skipped {
        println!("SKIPPED {why}");
    }
    let classes = classes(&played);
    let whole = serde_json::json!({
        "seed": seed, "repeat": args.repeat, "failures": args.failures, "further": args.further,
        "jobs": args.jobs, "seconds": began.elapsed().as_secs(),
        "sources": results, "classes": classes, "strays": nobodys, "broken": broken,
        "skipped": skipped,
    });
    let file = out.join("matrix.json");
    std::fs::write(&file, serde_json::to_string_pretty(&whole)?)
        .with_context(|| format!("write {}", file.display()))?;
    if let Some(file) = &args.document {
        let measured = document::Measured {
            runs: vec![document::Seeded {
                seed,
                repeat: args.repeat,
                failures: args.failures,
                further: args.further,
                jobs: args.jobs,
                proxies: chosen.proxies.iter().map(|proxy| proxy.name).collect(),
            }],
            skipped: skipped.iter().cloned().collect(),
            broken: broken.iter().cloned().collect(),
            strays: nobodys.len(),
            classes,
        };
        document::write(file, &measured, &pages)?;
    }
    println!(
        "seed {seed}, {} s, results in {}",
        began.elapsed().as_secs(),
        file.display()
    );
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.len()
    );
    Ok(failed == 0)
}

/// A few pairs at once, until all are done.
fn play_all(
    pairs: Vec<Pair>,
    options: &Options,
    observers: &Observers,
    seed: u64,
    args: &Args,
) -> Result<Vec<Played>> {
    let queue = Mutex::new(pairs.into_iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("queue").next();
                    let Some(pair) = next else { break };
                    let began = Instant::now();
                    let played = play(pair, options, observers, seed, args.failures);
                    print::played(
                        played.pair.proxy.name,
                        played.pair.cause.name,
                        played.pair.upstream.map(|u| u.name),
                        &played.entries,
                        played.broken.as_deref(),
                        began.elapsed(),
                    );
                    done.lock().expect("done").push(played);
                }
            });
        }
    });
    Ok(done.into_inner().expect("done"))
}

fn play(
    pair: Pair,
    options: &Options,
    observers: &Observers,
    seed: u64,
    failures: usize,
) -> Played {
    let draw = Draw::new(seed, pair.proxy.name, pair.cause.name, pair.repetition);
    let mut played = Played {
        entries: Vec::new(),
        said: Said::new(),
        part: Part {
            netns: 0,
            began: monotonic_ns(),
            ended: 0,
        },
        server: None,
        broken: None,
        pair,
    };
    let pair = &played.pair;
    let prefix = format!("m{:03}", pair.number);
    let result = Run::of_pair(options, &prefix, &pair.name()).and_then(|run| {
        let ledger = run.ledger.clone();
        let set = Stage::set(run, pair.proxy, pair.cause, pair.upstream, draw, failures);
        let said = set.and_then(|mut stage| {
            played.part.netns = stage.near.inode()?;
            observers.capture(&mut stage)?;
            (pair.cause.inject)(&mut stage)?;
            played.server = stage.server;
            stage.calm()?;
            observers.settle(&mut stage)
        });
        played.entries = ledger.entries();
        said
    });
    played.part.ended = monotonic_ns();
    match result {
        Ok(said) => played.said = said,
        Err(error) => played.broken = Some(format!("{error:#}")),
    }
    played
}

/// What can be known of the failed responses that are scored without any source.
fn classes(played: &[Played]) -> Classes {
    let mut classes = Classes::default();
    for played in played.iter().filter(|played| played.broken.is_none()) {
        for (sent, truth) in played.entries.iter().filter(|e| failures::is_own(e)) {
            classes.count(played.pair.proxy.name, sent, truth.cause);
        }
    }
    classes
}

/// Gives each pair what was said of it by those who saw all pairs; the verdicts about none.
fn hand_out(played: &mut [Played], ended: Ended) -> Vec<Value> {
    for (played, lines) in played.iter_mut().zip(ended.all) {
        played.said.insert(Source::All, lines);
    }
    let Some((lines, seen)) = ended.probes else {
        return Vec::new();
    };
    let paths: BTreeMap<String, usize> = (played.iter().enumerate())
        .flat_map(|(pair, played)| played.entries.iter().map(move |entry| (pair, entry)))
        .map(|(pair, (sent, _))| (sent.path.clone(), pair))
        .collect();
    let parts: Vec<Part> = played.iter().map(|played| played.part).collect();
    let (pair_of, heard) = (
        |path: &str| paths.get(path).copied(),
        |id: &str| ended.heard.get(id),
    );
    let handed = whose::hand_out(lines, pair_of, &parts, &seen, heard);
    if handed.elsewhere > 0 {
        let count = handed.elsewhere;
        println!("{count} verdicts are about proxies of this host that no pair has");
    }
    for (played, lines) in played.iter_mut().zip(handed.of_pairs) {
        played.said.insert(Source::Kernel, lines);
    }
    handed.nobodys
}

/// What one source said of the pairs of which it has seen anything.
fn calls_proxy(line: &Value) -> bool {
    let port = format!(":{}", proxies::PORT);
    let upstream = line["upstream"]["address"].as_str();
    upstream.is_some_and(|address| address.ends_with(&port))
}

fn judge(played: &[Played], source: Source, heard: &BTreeMap<String, u64>) -> Cells {
    let mut cells = Cells::new();
    for played in played {
        let Some(lines) = played.said.get(&source) else {
            continue;
        };
        let Sorted {
            by_path,
            mut strays,
        } = strays::sort(&played.entries, lines);
        // A capture on loopback has the lab's own looks for a proxy that does not listen yet.
        strays.retain(|line| source != Source::Packets || !calls_proxy(line));
        let beside = |(_, truth): &(Sent, Expect)| truth.cell == beside::CELL;
        let own: Vec<bool> = played.entries.iter().map(|each| !beside(each)).collect();
        let near = score::mixed(&played.entries);
        let second: Vec<bool> = own.iter().map(|own| !own).collect();
        let mixed: Vec<bool> = near.iter().zip(&second).map(|(n, s)| *n || *s).collect();
        let of = |wanted: &[bool]| score::judge(&played.entries, &by_path, source, wanted);
        let (mut judged, mixed) = (of(&own), of(&mixed));
        judged.flag_strays(&strays);
        let cell = cells
            .entry((played.pair.proxy.name, played.pair.cause.name))
            .or_default();
        if let Some(server) = played.server {
            *cell.upstreams.entry(server.to_owned()).or_default() += judged.score.failed;
        }
        cell.judged.add(judged);
        cell.mixed.add(mixed);
        cell.near.add(&of(&near).score);
        cell.second.add(&of(&second).score);
        if source == Source::Kernel {
            let delays = Delays::of(&played.entries, &by_path, heard);
            cell.delays.add(&delays);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    /// The matrix's own options, read as the lab's program does.
    #[derive(clap::Parser)]
    pub(super) struct Cli {
        #[command(flatten)]
        pub(super) matrix: super::Args,
    }
}
