//! The matrix: real proxies × real upstreams × causes, each pair broken for real and judged against
//! what its injector did.
//!
//! A proxy, an upstream or a cause is one file below `matrix/` and its line in the list there. Every
//! pair has network namespaces and processes of its own; agents watch all of them from outside.

mod causes;
mod document;
mod draw;
mod observers;
mod print;
mod proxies;
mod score;
mod stage;
mod upstreams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::expect::Expect;
use crate::ledger::Sent;
use crate::run::{Options, Run};
use causes::Cause;
use draw::Draw;
use observers::{Observers, Source};
use proxies::Proxy;
use score::{Judged, Score};
use stage::Stage;
use upstreams::Upstream;

#[derive(clap::Args)]
pub struct Args {
    /// Only these proxies.
    #[arg(long, value_delimiter = ',')]
    proxy: Vec<String>,
    /// Only these causes.
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
    /// What the conditions are drawn from; without it another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// What the verdicts are made of; several are judged beside the same faults.
    #[arg(long, value_delimiter = ',', default_value = "kernel")]
    source: Vec<Source>,
    /// Pairs at work at once.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Also writes the results as a page of the documentation.
    #[arg(long)]
    document: Option<PathBuf>,
    /// Only list proxies, causes and upstreams.
    #[arg(long)]
    list: bool,
}

/// One (proxy, cause) pair, set up once.
struct Pair {
    proxy: &'static Proxy,
    cause: &'static Cause,
    upstream: Option<&'static Upstream>,
    repetition: u32,
}

/// What became of it.
struct Played {
    pair: Pair,
    entries: Vec<(Sent, Expect)>,
    broken: Option<String>,
}

/// The results of one (proxy, cause) for one source.
#[derive(Default, Serialize)]
struct Cell {
    judged: Judged,
    upstreams: BTreeMap<&'static str, u32>,
}

/// By proxy and cause.
type Cells = BTreeMap<(&'static str, &'static str), Cell>;

/// Whether all pairs that were run are right. Prints everything.
pub fn run(args: &Args, why502: &Path, out: &Path) -> Result<bool> {
    if args.list {
        print::list();
        return Ok(true);
    }
    let chosen = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    for (what, list, known) in [
        (
            "proxy",
            &args.proxy,
            proxies::ALL.iter().map(|p| p.name).collect::<Vec<_>>(),
        ),
        (
            "cause",
            &args.cause,
            causes::ALL.iter().map(|c| c.name).collect(),
        ),
        (
            "upstream",
            &args.upstream,
            upstreams::ALL.iter().map(|u| u.name).collect(),
        ),
    ] {
        if let Some(name) = list.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no {what} {name}: {} are known", known.join(", "));
        }
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let began = Instant::now();
    println!("seed {seed}");
    let mut skipped = Vec::new();
    let mut usable = |what: &str, lacking: Option<String>| {
        skipped.extend(lacking.as_ref().map(|why| format!("{what}: {why}")));
        lacking.is_none()
    };
    let proxies: Vec<&'static Proxy> = (proxies::ALL.iter())
        .filter(|proxy| chosen(&args.proxy, proxy.name) && usable(proxy.name, (proxy.lacking)()))
        .collect();
    let upstreams: Vec<&'static Upstream> = (upstreams::ALL.iter())
        .filter(|u| chosen(&args.upstream, u.name) && usable(u.name, (u.lacking)()))
        .collect();
    let causes: Vec<&'static Cause> = causes::ALL
        .iter()
        .filter(|cause| chosen(&args.cause, cause.name))
        .collect();
    let mut pairs = Vec::new();
    for repetition in 0..args.repeat {
        for proxy in &proxies {
            for cause in &causes {
                if cause.unix && !proxy.unix {
                    skipped.push(format!(
                        "{} × {}: it calls no Unix sockets",
                        proxy.name, cause.name
                    ));
                    continue;
                }
                if cause.spares.contains(&proxy.name) {
                    skipped.push(format!(
                        "{} × {}: it does not fail so",
                        proxy.name, cause.name
                    ));
                    continue;
                }
                let able = cause.upstreams(&upstreams);
                if able.is_empty() && cause.needs_upstream() {
                    skipped.push(format!(
                        "{} × {}: no upstream for it is here",
                        proxy.name, cause.name
                    ));
                    continue;
                }
                // Each in its turn, begun with another one for each proxy.
                let turn = repetition as usize + pairs.len() + seed as usize;
                let upstream = (!able.is_empty()).then(|| able[turn % able.len()]);
                pairs.push(Pair {
                    proxy,
                    cause,
                    upstream,
                    repetition,
                });
            }
        }
    }
    let options = Options {
        why502: Some(why502.to_owned()),
        full: false,
        out: out.to_owned(),
        prometheus: None,
        packets: false,
        unproven: false,
    };
    let observers = Observers::start(why502, out, &args.source, &proxies)?;
    let played = play_all(pairs, &options, &observers, seed, args)?;
    let said = observers.finish()?;

    let broken: Vec<String> = played
        .iter()
        .filter_map(|played| {
            let why = played.broken.as_ref()?;
            Some(format!(
                "{} × {}: {why}",
                played.pair.proxy.name, played.pair.cause.name
            ))
        })
        .collect();
    let mut passed = 0;
    let mut failed = broken.len();
    let mut results = BTreeMap::new();
    let mut pages = Vec::new();
    for (source, captured) in &said {
        let cells = judge(&played, &captured.lines);
        print::matrix(*source, &cells);
        if let Some(lost) = captured.summary()?["lost"]["signals"]
            .as_u64()
            .filter(|lost| *lost > 0)
        {
            println!("{lost} signals were lost");
        }
        let good = |score: &Score| score.holds(*source != Source::Logs);
        let broke = |score: &Score| score.failed == 0;
        for ((proxy, cause), _) in cells.iter().filter(|(_, cell)| broke(&cell.judged.score)) {
            skipped.push(format!("{proxy} × {cause}: no response failed"));
        }
        let run = cells.values().filter(|cell| !broke(&cell.judged.score));
        let (right, wrong): (Vec<_>, Vec<_>) = run.partition(|cell| good(&cell.judged.score));
        passed += right.len();
        failed += wrong.len();
        results.insert(source.name(), print::json(&cells));
        pages.push((*source, cells));
    }
    for why in &broken {
        println!("BROKEN {why}");
    }
    for why in &skipped {
        println!("SKIPPED {why}");
    }
    let whole = serde_json::json!({
        "seed": seed, "repeat": args.repeat, "failures": args.failures, "seconds": began.elapsed().as_secs(),
        "sources": results, "broken": broken, "skipped": skipped,
    });
    let file = out.join("matrix.json");
    std::fs::write(&file, serde_json::to_string_pretty(&whole)?)
        .with_context(|| format!("write {}", file.display()))?;
    if let Some(file) = &args.document {
        let measured = document::Measured {
            seed,
            args,
            skipped: &skipped,
            broken: &broken,
        };
        std::fs::write(file, document::page(&measured, &pages))
            .with_context(|| format!("write {}", file.display()))?;
    }
    println!("seed {seed}, {} s", began.elapsed().as_secs());
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
    let queue = Mutex::new(pairs.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("queue").next();
                    let Some((number, pair)) = next else { break };
                    let began = Instant::now();
                    let played = play(number, pair, options, observers, seed, args.failures);
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
    number: usize,
    pair: Pair,
    options: &Options,
    observers: &Observers,
    seed: u64,
    failures: usize,
) -> Played {
    let name = format!(
        "{}-{}-{}",
        pair.proxy.name, pair.cause.name, pair.repetition
    );
    let draw = Draw::new(seed, pair.proxy.name, pair.cause.name, pair.repetition);
    let run = match Run::of_pair(options, &format!("m{number:03}"), &name) {
        Ok(run) => run,
        Err(error) => {
            return Played {
                pair,
                entries: Vec::new(),
                broken: Some(format!("{error:#}")),
            };
        }
    };
    let ledger = run.ledger.clone();
    let set = Stage::set(run, pair.proxy, pair.cause, pair.upstream, draw, failures);
    let result = set.and_then(|mut stage| {
        (pair.cause.inject)(&mut stage)?;
        observers.settle(&ledger);
        Ok(())
    });
    Played {
        entries: ledger.entries(),
        broken: result.err().map(|error| format!("{error:#}")),
        pair,
    }
}

fn judge(played: &[Played], lines: &[serde_json::Value]) -> Cells {
    let verdicts = observers::verdicts(lines);
    let mut cells = Cells::new();
    for played in played {
        let judged = score::judge(&played.entries, &verdicts);
        let cell = cells
            .entry((played.pair.proxy.name, played.pair.cause.name))
            .or_default();
        if let Some(upstream) = played.pair.upstream {
            *cell.upstreams.entry(upstream.name).or_default() += judged.score.failed;
        }
        cell.judged.score.add(&judged.score);
        for (given, count) in judged.given {
            *cell.judged.given.entry(given).or_default() += count;
        }
        cell.judged.mistakes.extend(judged.mistakes);
    }
    cells
}
