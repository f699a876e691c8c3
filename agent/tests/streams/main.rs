//! Recordings of the lab (`tests/streams`), replayed without any privilege: the verdicts are those of
//! the live run; order within a millisecond does not matter; with a hook less, each is the same, or
//! not proven. `cargo xtask streams` makes the recordings anew.

mod hooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use why502::cause::{Cause, Variant};
use why502::signal::{Attempt, Fact, FlowId, Opening, Signal, Source};
use why502::sources::recording::Recording;
use why502::track::{Decided, Tracker};
use why502::verdict::{Confidence, Kind};

const MILLISECOND: u64 = 1_000_000;
/// The kernel source tells of losses this soon (it looks whenever it reads records).
const TOLD_WITHIN: u64 = 20 * MILLISECOND;

fn fixtures() -> Vec<(String, Vec<Signal>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/streams");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    for row in 1..=18 {
        let row = format!("r{row:02}-");
        let is = |path: &PathBuf| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&row)
        };
        assert!(files.iter().any(is), "no recording of the lab's row {row}");
    }
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> (String, Vec<Signal>) {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let recording = Recording::open(BufReader::new(File::open(path).unwrap()), &name);
    let recording = recording.unwrap_or_else(|error| panic!("{error}"));
    let signals: Result<Vec<Signal>, _> = recording.collect();
    (name, signals.unwrap_or_else(|error| panic!("{error}")))
}

/// As `why502 explain` replays.
fn replay(signals: &[Signal]) -> Vec<Verdict> {
    let mut tracker = Tracker::default();
    let mut decided: Vec<Decided> = signals.iter().flat_map(|s| tracker.observe(s)).collect();
    decided.extend(tracker.finish());
    decided.iter().map(Verdict::of).collect()
}

/// What is compared of a decided exchange.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    path: Option<String>,
    /// Of its attempts.
    flows: BTreeSet<FlowId>,
    kind: Kind,
    cause: Cause,
    variant: Option<Variant>,
    confidence: Confidence,
    missing: Vec<String>,
}

impl Verdict {
    fn of(decided: &Decided) -> Self {
        let response = decided.response.as_ref().map(|(_, _, r)| r);
        let attempts = || decided.attempts.iter().map(|t| &t.attempt);
        let read = response.and_then(|r| path(r.request.as_ref()));
        let sent = || attempts().find_map(path_of);
        Self {
            path: read.or_else(sent),
            flows: attempts().map(|a| a.flow).collect(),
            kind: decided.kind,
            cause: decided.diagnosis.cause,
            variant: decided.diagnosis.variant,
            confidence: decided.diagnosis.confidence,
            missing: decided.diagnosis.missing.clone(),
        }
    }

    /// `read_timeout_no_reply/sleeping proven`
    fn label(&self) -> String {
        let mut label = match self.kind {
            Kind::NearMiss => "near miss ".to_owned(),
            _ => String::new(),
        };
        label.push_str(self.cause.name());
        if let Some(variant) = self.variant {
            let _ = write!(label, "/{variant}");
        }
        let _ = write!(label, " {}", self.confidence.name());
        if !self.missing.is_empty() {
            let names: Vec<&str> = self.missing.iter().map(|m| fact_name(m)).collect();
            let _ = write!(label, " ({})", names.join(", "));
        }
        label
    }

    fn same_exchange(&self, other: &Self) -> bool {
        let paths = self.path.is_some() && self.path == other.path;
        paths || !self.flows.is_disjoint(&other.flows)
    }
}

/// `upstream_read` of `upstream_read: whether …`.
fn fact_name(missing: &str) -> &str {
    missing.split(':').next().unwrap_or_default()
}

fn path(opening: Option<&Opening>) -> Option<String> {
    match opening {
        Some(Opening::HttpRequest { path, .. }) => Some(path.clone()),
        _ => None,
    }
}

fn path_of(attempt: &Attempt) -> Option<String> {
    let link = attempt.downstream.as_ref().and_then(|l| l.request.as_ref());
    path(link).or_else(|| path(attempt.request.as_ref().map(|r| &r.opening)))
}

/// In an order that does not depend on when each was decided.
fn labels(verdicts: &[Verdict]) -> Vec<String> {
    let mut lines: Vec<String> = verdicts
        .iter()
        .map(|v| {
            let flow = || format!("flow {:?}", v.flows.first());
            format!("{}: {}", v.path.clone().unwrap_or_else(flow), v.label())
        })
        .collect();
    lines.sort();
    lines
}

/// What became of verdicts with facts taken away.
#[derive(Default)]
struct Compared {
    /// How many of each change.
    changes: BTreeMap<String, usize>,
    /// Of these, failures that nobody is told of any more: neither as `unknown`.
    silent: BTreeMap<String, usize>,
    wrong: BTreeSet<String>,
}

impl Compared {
    /// Each verdict has to be the same cause, or not proven and say what is missing.
    fn replay(what: &str, truth: &[Verdict], signals: &[Signal]) -> Self {
        let mut compared = Self::default();
        let less = replay(signals);
        for now in &less {
            let full = || truth.iter().filter(|t| t.same_exchange(now));
            let before = full().next().map_or("nothing".to_owned(), Verdict::label);
            let change = format!("{before} -> {}", now.label());
            let proven = now.confidence == Confidence::Proven;
            // Of a TLS client's connection an exchange may be told in two halves.
            let right = full().any(|t| t.cause == now.cause && t.kind == now.kind);
            let named = now.missing.iter().any(|m| !fact_name(m).is_empty());
            let claims = now.cause != Cause::Unknown;
            let fair = if proven { right && claims } else { named };
            if !fair {
                compared.wrong.insert(format!("{what}: {change}"));
            }
            let failed = full().any(|t| t.kind == Kind::Verdict);
            if failed && now.kind != Kind::Verdict && !full().any(|t| t.kind == now.kind) {
                *compared.silent.entry(change).or_default() += 1;
            } else if before != now.label() {
                *compared.changes.entry(change).or_default() += 1;
            }
        }
        for gone in truth
            .iter()
            .filter(|t| !less.iter().any(|l| l.same_exchange(t)))
        {
            let change = format!("{} -> nothing", gone.label());
            let kept = match gone.kind {
                Kind::Verdict => &mut compared.silent,
                _ => &mut compared.changes,
            };
            *kept.entry(change).or_default() += 1;
        }
        compared
    }
}

fn assert_none(wrong: &BTreeSet<String>) {
    let lines: Vec<&str> = wrong.iter().map(String::as_str).collect();
    assert!(wrong.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn recordings_give_their_verdicts_again_and_never_wrong_ones_with_a_hook_less() {
    let mut wrong = BTreeSet::new();
    for (name, signals) in fixtures() {
        let truth = replay(&signals);
        let mut text = String::from("# verdicts\n");
        for line in labels(&truth) {
            let _ = writeln!(text, "{line}");
        }
        let mut silent = String::new();
        text += "\n# with something taken away\n";
        for (hook, take) in hooks::TAKEN {
            let mut less = signals.clone();
            take(&mut less);
            let compared = Compared::replay(&format!("{name} without {hook}"), &truth, &less);
            wrong.extend(compared.wrong);
            for (change, count) in compared.changes {
                let _ = writeln!(text, "{hook}: {count} x {change}");
            }
            for (change, count) in compared.silent {
                let _ = writeln!(silent, "{hook}: {count} x {change}");
            }
        }
        if !silent.is_empty() {
            let _ = write!(text, "\n# no longer told as a failure\n{silent}");
        }
        insta::assert_snapshot!(name, text);
    }
    assert_none(&wrong);
}

#[test]
fn every_hook_is_taken_away() {
    for ladder in why502::sources::kernel::hooks::LADDERS {
        let mut all = ladder.rungs.iter().copied().flatten();
        assert!(
            all.any(|hook| hooks::TAKEN.iter().any(|(name, _)| *name == hook.name)),
            "{}",
            ladder.fact
        );
    }
}

#[test]
fn two_hooks_less_are_never_wrongly_proven() {
    let mut wrong = BTreeSet::new();
    for (name, signals) in fixtures() {
        let truth = replay(&signals);
        for (i, (first, take)) in hooks::TAKEN.iter().enumerate() {
            let mut less = signals.clone();
            take(&mut less);
            for (second, take_too) in &hooks::TAKEN[i + 1..] {
                let mut less = less.clone();
                take_too(&mut less);
                let what = format!("{name} without {first} and {second}");
                wrong.extend(Compared::replay(&what, &truth, &less).wrong);
            }
        }
    }
    assert_none(&wrong);
}

/// Signals of different CPUs and sources come a little out of order.
#[test]
fn order_within_a_millisecond_does_not_matter() {
    for (name, signals) in fixtures() {
        let truth = labels(&replay(&signals));
        for seed in 1..=20 {
            let shuffled = shuffle(&signals, seed);
            assert_eq!(labels(&replay(&shuffled)), truth, "{name}, seed {seed}");
        }
    }
}

/// Swaps neighbours of different flows that are less than a millisecond apart, again and again.
fn shuffle(signals: &[Signal], seed: u64) -> Vec<Signal> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut coin = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.is_multiple_of(2)
    };
    let mut out = signals.to_vec();
    for _ in 0..3 {
        for i in 1..out.len() {
            let near = out[i - 1].at.abs_diff(out[i].at) < MILLISECOND;
            if near && independent(&out[i - 1].fact, &out[i].fact) && coin() {
                out.swap(i - 1, i);
            }
        }
    }
    out
}

fn independent(one: &Fact, other: &Fact) -> bool {
    let (one, other) = (flows_of(one), flows_of(other));
    !one.is_empty() && !other.is_empty() && one.is_disjoint(&other)
}

/// The flows that a fact names; `0` for what is told of the whole host by the kernel.
fn flows_of(fact: &Fact) -> BTreeSet<FlowId> {
    let attempt = |a: &Attempt| {
        let downstream = a.downstream.as_ref().map(|l| l.flow);
        [Some(a.flow), downstream, a.retry_of]
    };
    match fact {
        Fact::AttemptEnded(a) => attempt(a).into_iter().flatten().collect(),
        Fact::ResponseSent(r) => {
            let last = r.last_attempt.as_ref().map_or([None; 3], |a| attempt(a));
            let own = [Some(r.downstream), r.adjacent];
            own.into_iter().chain(last).flatten().collect()
        }
        Fact::FlowClosed(closed) => BTreeSet::from([closed.flow]),
        Fact::AttemptRetried { flow } => BTreeSet::from([*flow]),
        Fact::IdleClosed(close) => BTreeSet::from([close.flow]),
        Fact::ProcessExited(_) | Fact::SignalSent(_) | Fact::OomKilled { .. } => {
            BTreeSet::from([0])
        }
        _ => BTreeSet::new(),
    }
}

fn lost(at: u64) -> Signal {
    Signal {
        at,
        source: Source::Kernel,
        fact: Fact::SignalsLost {
            stage: "ring_buffer".to_owned(),
            reason: "full".to_owned(),
            count: 1,
            probe: None,
        },
    }
}

/// A loss that is told while an exchange is open, be it before its first fact.
#[test]
fn what_is_lost_meanwhile_leaves_nothing_proven() {
    for (name, signals) in fixtures() {
        let mut told = Vec::new();
        for signal in &signals {
            if matches!(signal.fact, Fact::AttemptEnded(_) | Fact::ResponseSent(_)) {
                told.push(lost(signal.at));
            }
            told.push(signal.clone());
        }
        let truth = replay(&signals);
        for verdict in replay(&told) {
            assert_ne!(
                verdict.confidence,
                Confidence::Proven,
                "{name}: {verdict:?}"
            );
            let mut full = truth.iter().filter(|t| t.same_exchange(&verdict));
            let was_proven = full.any(|t| t.confidence == Confidence::Proven);
            let named = verdict.missing.iter().any(|m| fact_name(m) == "signals");
            // What was not proven anyway names something else.
            assert!(named || !was_proven, "{name}: {verdict:?}");
        }
    }
}

/// What was lost long before does not touch an exchange.
#[test]
fn what_was_lost_before_changes_nothing() {
    for (name, mut signals) in fixtures() {
        let truth = labels(&replay(&signals));
        let long_before = signals[0].at.saturating_sub(60_000 * MILLISECOND);
        signals.insert(0, lost(long_before));
        assert_eq!(labels(&replay(&signals)), truth, "{name}");
    }
}

/// Any one record of the kernel may be the one that found no room.
#[test]
fn a_lost_record_never_proves_something_else() {
    let mut wrong = BTreeSet::new();
    for (name, signals) in fixtures() {
        let truth = replay(&signals);
        for (i, signal) in signals.iter().enumerate() {
            if !flows_of(&signal.fact).is_empty() {
                let mut less = signals.clone();
                less.remove(i);
                let told = signal.at + TOLD_WITHIN;
                let place = less.iter().position(|s| s.at > told);
                less.insert(place.unwrap_or(less.len()), lost(told));
                let what = format!("{name} without {:?}", signal.fact);
                wrong.extend(Compared::replay(&what, &truth, &less).wrong);
            }
        }
    }
    assert_none(&wrong);
}

/// On a crowded host a killed worker exits long after its connection closed.
#[test]
fn a_killed_worker_may_take_a_second_to_exit() {
    const LATE: u64 = 1_000 * MILLISECOND;
    let (_, mut signals) = fixtures()
        .into_iter()
        .find(|(name, _)| name.starts_with("r08-"))
        .expect("row 8");
    let truth = labels(&replay(&signals));
    assert!(
        truth
            .iter()
            .any(|l| l.contains("worker_timeout_killed proven"))
    );
    for signal in &mut signals {
        if matches!(signal.fact, Fact::ProcessExited(_)) {
            signal.at += LATE;
        }
    }
    signals.sort_by_key(|signal| signal.at);
    assert_eq!(labels(&replay(&signals)), truth);
}
