//! What a run of the matrix prints, and its JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::observers::Source;
use super::score::{self, Score};
use super::{Cell, Cells, causes, proxies, upstreams};
use crate::expect::Expect;
use crate::ledger::Sent;

const SHOWN: usize = 3;
const LONGEST: usize = 1000;

pub fn list() {
    for (what, names) in [
        (
            "proxies",
            proxies::ALL.iter().map(|p| p.name).collect::<Vec<_>>(),
        ),
        ("upstreams", upstreams::ALL.iter().map(|u| u.name).collect()),
        ("causes", causes::ALL.iter().map(|c| c.name).collect()),
    ] {
        println!("{what}: {}", names.join(", "));
    }
}

/// A pair that is over.
pub(super) fn played(
    proxy: &str,
    cause: &str,
    upstream: Option<&str>,
    entries: &[(Sent, Expect)],
    broken: Option<&str>,
    took: Duration,
) {
    let failed = entries.iter().filter(|(sent, _)| sent.failed()).count();
    let end = broken.map_or_else(
        || format!("{failed} failed responses"),
        |why| format!("BROKEN: {why}"),
    );
    println!(
        "{proxy:<11} {cause:<28} {:<9} {end}, {:.1} s",
        upstream.unwrap_or("-"),
        took.as_secs_f64()
    );
}

/// A pair that fails the run, and for what.
pub(super) fn does_not_hold(source: Source, proxy: &str, cause: &str, cell: &Cell) {
    println!("FAILED: {proxy} × {cause} from {}", source.name());
    for (what, judged) in [("alone", &cell.judged), ("mixed", &cell.mixed)] {
        let score = &judged.score;
        if !score.holds(source) {
            println!(
                "    {what}: of {} failed {} missing, {} wrong, {} wrong but proven, {} flagged, {} of \
                 these strays",
                score.failed,
                score.missing,
                score.wrong,
                score.wrong_but_proven,
                score.flagged,
                score.stray
            );
            show(&judged.mistakes, "       ");
        }
    }
}

fn show(mistakes: &[String], whose: &str) {
    for mistake in mistakes.iter().take(SHOWN) {
        let short: String = mistake.chars().take(LONGEST).collect();
        println!("{whose} {short}");
    }
}

/// Every cell, the sums, and what was wrong.
pub(super) fn matrix(source: Source, cells: &Cells) {
    println!("\nsource {}", source.name());
    println!(
        "{:<11} {:<28} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>12} {:>7} {:>6} {:>6} {:>6}",
        "proxy",
        "cause",
        "failed",
        "right",
        "proven",
        "likely",
        "unknown",
        "missing",
        "shown",
        "wrong",
        "wrong proven",
        "flagged",
        "stray",
        "saved",
        "silent"
    );
    let mut sum = Score::default();
    for ((proxy, cause), cell) in cells {
        line(proxy, cause, &cell.judged.score);
        sum.add(&cell.judged.score);
    }
    line("all", "", &sum);
    for (proxy, mixed) in mixed(cells) {
        line(proxy, "mixed faults", &mixed);
    }
    for ((proxy, cause), cell) in cells {
        for (what, judged) in [("", &cell.judged), (", mixed", &cell.mixed)] {
            show(&judged.mistakes, &format!("    {proxy} × {cause}{what}:"));
        }
    }
    let told = by_cause(cells);
    println!(
        "{:<28} {:>6} {:>9} {:>6} {:>6}",
        "cause", "failed", "precision", "recall", "F1"
    );
    for (cause, told) in &told {
        println!(
            "{cause:<28} {:>6} {:>9.3} {:>6.3} {:>6.3}",
            told.failed, told.precision, told.recall, told.f1
        );
    }
    println!("macro-F1 {:.3}", score::macro_f1(&told));
}

fn line(proxy: &str, cause: &str, score: &Score) {
    println!(
        "{proxy:<11} {cause:<28} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>12} {:>7} {:>6} {:>6} {:>6}",
        score.failed,
        score.right,
        score.proven,
        score.likely,
        score.unknown,
        score.missing,
        score.shown,
        score.wrong,
        score.wrong_but_proven,
        score.flagged,
        score.stray,
        score.saved,
        score.silent
    );
}

/// Of each proxy, how two faults at once were told apart.
pub(super) fn mixed(cells: &Cells) -> BTreeMap<&'static str, Score> {
    let mut by_proxy: BTreeMap<&str, Score> = BTreeMap::new();
    for ((proxy, _), cell) in cells {
        let sum = by_proxy.entry(proxy).or_default();
        sum.add(&cell.mixed.score);
    }
    by_proxy
}

pub(super) fn by_cause(cells: &Cells) -> BTreeMap<String, score::Told> {
    score::by_cause(
        cells
            .iter()
            .map(|((_, cause), cell)| (*cause, &cell.judged)),
    )
}

pub(super) fn json(cells: &Cells) -> Value {
    let proxies: BTreeSet<&str> = cells.keys().map(|(proxy, _)| *proxy).collect();
    let of_proxy = |proxy: &str| {
        let own = cells.iter().filter(|((p, _), _)| *p == proxy);
        let told = score::by_cause(own.map(|((_, cause), cell): (_, _)| (*cause, &cell.judged)));
        json!({"macro_f1": score::macro_f1(&told), "causes": told})
    };
    let pair = |(&(proxy, cause), cell): (&(&str, &str), &super::Cell)| json!({"proxy": proxy, "cause": cause, "cell": cell});
    let told = by_cause(cells);
    json!({
        "pairs": cells.iter().map(pair).collect::<Vec<_>>(),
        "causes": told,
        "macro_f1": score::macro_f1(&told),
        "proxies": proxies.iter().map(|proxy| ((*proxy).to_owned(), of_proxy(proxy))).collect::<BTreeMap<_, _>>(),
    })
}
