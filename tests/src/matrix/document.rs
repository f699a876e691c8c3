//! The matrix as a page of the documentation, written by the run that measured it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::observers::Source;
use super::score::{self, Score, Told};
use super::{Args, Cells, print};

/// What a page needs to know of its run.
pub(super) struct Measured<'a> {
    pub(super) seed: u64,
    pub(super) args: &'a Args,
    pub(super) skipped: &'a [String],
    pub(super) broken: &'a [String],
}

pub(super) fn page(run: &Measured<'_>, results: &[(Source, Cells)]) -> String {
    let mut text = String::from(
        "# How often a verdict is right\n\n\
         Written by `cargo xtask lab --document`. Each pair of proxy and cause is broken for real in \
         network namespaces of its own; the truth is the injector's. A response counts as right if \
         its verdict names the true cause, `proven` or `likely`. Distances, crowds, sizes, idle ages \
         and moments are drawn from the seed.\n\n",
    );
    let _ = writeln!(
        text,
        "```\ncargo xtask lab --seed {} --repeat {} --failures {} --jobs {}\n```",
        run.seed, run.args.repeat, run.args.failures, run.args.jobs
    );
    for (source, cells) in results {
        of_source(&mut text, *source, cells);
    }
    for (title, lines) in [("Not run", run.skipped), ("Broken", run.broken)] {
        let lines: BTreeSet<&String> = lines.iter().collect();
        if !lines.is_empty() {
            let _ = writeln!(text, "\n## {title}\n");
        }
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

fn of_source(text: &mut String, source: Source, cells: &Cells) {
    let mut sum = Score::default();
    for cell in cells.values() {
        sum.add(&cell.judged.score);
    }
    let told = print::by_cause(cells);
    let _ = writeln!(
        text,
        "\n## Source `{}`\n\n\
         {} failed responses: {} right, {} of them proven, {} likely; {} unknown, {} without a \
         verdict, {} wrong, {} wrong but proven; {} verdicts for what had not failed. \
         `likely` is right in {}. Macro-F1 {:.3}.\n",
        source.name(),
        sum.failed,
        share(sum.right, sum.failed),
        share(sum.proven, sum.right),
        share(sum.likely, sum.right),
        share(sum.unknown, sum.failed),
        sum.missing,
        sum.wrong,
        sum.wrong_but_proven,
        sum.flagged,
        share(sum.likely, sum.likely + sum.wrong - sum.wrong_but_proven),
        score::macro_f1(&told),
    );
    matrix(text, cells);
    let _ = writeln!(
        text,
        "\n| cause | failed | precision | recall | F1 |\n|---|---:|---:|---:|---:|"
    );
    for (cause, told) in &told {
        let _ = writeln!(text, "| `{cause}` | {} |", figures(told));
    }
    let proxies: BTreeSet<&str> = cells.keys().map(|(proxy, _)| *proxy).collect();
    let _ = writeln!(
        text,
        "\n| proxy | failed | right | proven | unknown | wrong | macro-F1 |\n|---|---:|---:|---:|---:|---:|---:|"
    );
    for proxy in proxies {
        let own = || cells.iter().filter(|((p, _), _)| *p == proxy);
        let mut sum = Score::default();
        for (_, cell) in own() {
            sum.add(&cell.judged.score);
        }
        let told = score::by_cause(own().map(|((_, cause), cell)| (*cause, &cell.judged)));
        let _ = writeln!(
            text,
            "| {proxy} | {} | {} | {} | {} | {} | {:.3} |",
            sum.failed,
            share(sum.right, sum.failed),
            share(sum.proven, sum.right),
            sum.unknown,
            sum.wrong,
            score::macro_f1(&told)
        );
    }
}

/// Causes down, proxies across: right of failed, and how many of these are proven.
fn matrix(text: &mut String, cells: &Cells) {
    let proxies: BTreeSet<&str> = cells.keys().map(|(proxy, _)| *proxy).collect();
    let causes: BTreeSet<&str> = cells.keys().map(|(_, cause)| *cause).collect();
    let head: Vec<&str> = proxies.iter().copied().collect();
    let _ = writeln!(
        text,
        "Right of failed (proven); – : no response fails so.\n\n| cause | {} |\n|---|{}",
        head.join(" | "),
        "---:|".repeat(head.len())
    );
    for cause in causes {
        let cell = |proxy: &&str| match cells.get(&(*proxy, cause)) {
            Some(cell) if cell.judged.score.failed > 0 => {
                let score = &cell.judged.score;
                format!("{}/{} ({})", score.right, score.failed, score.proven)
            }
            _ => "–".to_owned(),
        };
        let row: Vec<String> = proxies.iter().map(cell).collect();
        let _ = writeln!(text, "| `{cause}` | {} |", row.join(" | "));
    }
}

fn figures(told: &Told) -> String {
    format!(
        "{} | {:.3} | {:.3} | {:.3}",
        told.failed, told.precision, told.recall, told.f1
    )
}

fn share(part: u32, whole: u32) -> String {
    match whole {
        0 => "–".to_owned(),
        _ => format!(
            "{part} ({:.1} %)",
            100.0 * f64::from(part) / f64::from(whole)
        ),
    }
}
