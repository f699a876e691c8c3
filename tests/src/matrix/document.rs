//! The matrix as a page of the documentation, written by the run that measured it.

mod baselines;
mod delays;
mod short_of;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::baseline::Classes;
use super::observers::Source;
use super::score::{self, Score, Told};
use super::{Cell, Cells, print, proxies};

/// Why a pair has no figures.
pub(super) const NONE_FAILED: &str = "no response failed";

/// How one run was begun.
pub(super) struct Seeded {
    pub(super) seed: u64,
    pub(super) repeat: u32,
    pub(super) failures: usize,
    pub(super) further: u32,
    pub(super) jobs: usize,
    pub(super) proxies: BTreeSet<&'static str>,
}

impl Seeded {
    /// The options that begin it again.
    fn options(&self) -> String {
        let further = match self.further {
            0 => String::new(),
            further => format!(" --further {further}"),
        };
        format!(
            "--seed {} --repeat {} --failures {}{further} --jobs {}{}",
            self.seed,
            self.repeat,
            self.failures,
            self.jobs,
            self.chosen()
        )
    }

    /// The option that chooses its proxies, where that is not all of them.
    fn chosen(&self) -> String {
        if proxies::ALL.iter().all(|p| self.proxies.contains(p.name)) {
            return String::new();
        }
        let names: Vec<&str> = self.proxies.iter().copied().collect();
        format!(" --proxy {}", names.join(","))
    }
}

/// What a page needs to know of its runs.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) runs: Vec<Seeded>,
    pub(super) skipped: BTreeSet<String>,
    pub(super) broken: BTreeSet<String>,
    /// How many verdicts of the live agent are about no pair.
    pub(super) strays: usize,
    pub(super) classes: Classes,
}

pub(super) fn write(file: &Path, measured: &Measured, results: &[(Source, Cells)]) -> Result<()> {
    std::fs::write(file, page(measured, results))
        .with_context(|| format!("write {}", file.display()))
}

fn page(measured: &Measured, results: &[(Source, Cells)]) -> String {
    let mut text = String::from(
        "# How often a verdict is right\n\n\
         Written by `cargo xtask lab --document`. Each pair of proxy and cause is broken for real in \
         network namespaces of its own; the truth is the injector's. A response counts as right if \
         its verdict names the true cause, `proven` or `likely`. Distances, crowds, sizes, idle ages \
         and moments are drawn from the seed; so are the proxy's retries and its checks of upstreams, \
         whether the requests of a crowd are for one path, and a second fault beside the first. Three in \
         ten of the healthy clients beside it give up, checks of the proxy itself end in resets.\n\n```\n",
    );
    for (number, run) in measured.runs.iter().enumerate() {
        let _ = writeln!(text, "cargo xtask lab {} --out lab-{number}", run.options());
    }
    if measured.runs.len() > 1 {
        let numbers = 0..measured.runs.len();
        let files: Vec<_> = numbers.map(|n| format!("lab-{n}/matrix.json")).collect();
        let _ = writeln!(
            text,
            "cargo xtask lab --merge {} --document docs/accuracy.md",
            files.join(",")
        );
    }
    text.push_str("```\n");
    short_of::write(&mut text, measured, results);
    baselines::write(&mut text, &measured.classes, results);
    delays::write(&mut text, results);
    upstreams::write(&mut text, results);
    for (source, cells) in results {
        of_source(&mut text, *source, cells);
    }
    for (title, lines) in [("Not run", &measured.skipped), ("Broken", &measured.broken)] {
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
         `likely` is right in {}. {}Macro-F1 {:.3}.\n",
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
        match sum.shown {
            0 => String::new(),
            shown => format!("Of {shown} it names what it can show of the cause. "),
        },
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
    let near = "failures within a second of one for another cause";
    at_once(text, cells, near, |cell| &cell.near);
    let second = "failures of second faults, whenever they came, which no table counts";
    at_once(text, cells, second, |cell| &cell.second);
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

/// How often those were right that another fault could be taken for.
fn at_once(text: &mut String, cells: &Cells, what: &str, score: fn(&Cell) -> &Score) {
    let mut of_proxy: BTreeMap<&str, Score> = BTreeMap::new();
    let mut all = Score::default();
    for ((proxy, _), cell) in cells {
        of_proxy.entry(proxy).or_default().add(score(cell));
        all.add(score(cell));
    }
    let proxies: Vec<String> = (of_proxy.iter())
        .map(|(proxy, score)| format!("{proxy} {}/{}", score.right, score.failed))
        .collect();
    let _ = writeln!(
        text,
        "\nOf {} {what}, {} are right: {}.",
        all.failed,
        share(all.right, all.failed),
        proxies.join(", ")
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_faults_have_a_line_of_their_own() {
        let cell = |near: (u32, u32), second: (u32, u32)| {
            let score = |(right, failed)| Score {
                right,
                failed,
                ..Score::default()
            };
            Cell {
                near: score(near),
                second: score(second),
                ..Cell::default()
            }
        };
        let cells = Cells::from([
            (("go", "worker_killed"), cell((1, 2), (5, 5))),
            (("go", "upstream_reset"), cell((2, 2), (1, 1))),
            (("nginx", "worker_killed"), cell((4, 4), (0, 2))),
        ]);
        let page = page(&Measured::default(), &[(Source::All, cells)]);
        for line in [
            "Of 8 failures within a second of one for another cause, 7 (87.5 %) are right: \
             go 3/4, nginx 4/4.",
            "Of 8 failures of second faults, whenever they came, which no table counts, \
             6 (75.0 %) are right: go 6/6, nginx 0/2.",
        ] {
            assert!(page.lines().any(|own| own == line), "no {line} in {page}");
        }
    }
}
