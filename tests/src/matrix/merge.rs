//! Several runs of the matrix taken together, from what each has written of itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::baseline::Classes;
use super::document::{self, Measured, Seeded};
use super::observers::Source;
use super::{Args, Cell, Cells, causes, print, proxies};

/// `matrix.json`
#[derive(Deserialize)]
struct Written {
    seed: u64,
    repeat: u32,
    failures: usize,
    #[serde(default)]
    further: u32,
    jobs: usize,
    sources: BTreeMap<Source, Pairs>,
    #[serde(default)]
    classes: Classes,
    /// Verdicts about no pair.
    #[serde(default)]
    strays: Vec<Value>,
    broken: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Pairs {
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    proxy: String,
    cause: String,
    cell: Cell,
}

/// What they measured together.
#[derive(Default)]
struct Merged {
    measured: Measured,
    sources: BTreeMap<Source, Cells>,
}

impl Merged {
    fn take(&mut self, text: &str) -> Result<()> {
        let written: Written =
            serde_json::from_str(text).context("not what a run of the matrix writes")?;
        self.measured.broken.extend(written.broken);
        self.measured.skipped.extend(written.skipped);
        self.measured.strays += written.strays.len();
        self.measured.classes.add(&written.classes);
        let seed = written.seed;
        let mut run = Seeded {
            seed,
            repeat: written.repeat,
            failures: written.failures,
            further: written.further,
            jobs: written.jobs,
            proxies: BTreeSet::new(),
        };
        for (source, pairs) in written.sources {
            let cells = self.sources.entry(source).or_default();
            for pair in pairs.pairs {
                let (proxy, cause) = known(&pair)?;
                let mut others = self.measured.runs.iter().filter(|run| run.seed == seed);
                if others.any(|other| other.proxies.contains(proxy)) {
                    bail!("seed {seed} of {proxy} is among the others already");
                }
                run.proxies.insert(proxy);
                cells.entry((proxy, cause)).or_default().add(pair.cell);
            }
        }
        self.measured.runs.push(run);
        Ok(())
    }

    /// What one run left out, or failed no response in, another may have.
    fn judge_skipped(&mut self) {
        let proxies = || self.measured.runs.iter().flat_map(|run| &run.proxies);
        let ran = |why: &String| proxies().any(|proxy| why.starts_with(&format!("{proxy}: ")));
        let stale = |why: &String| why.ends_with(document::NONE_FAILED) || ran(why);
        let mut skipped = self.measured.skipped.clone();
        skipped.retain(|why| !stale(why));
        self.measured.skipped = skipped;
        let Some(cells) = self.sources.values().next() else {
            return;
        };
        let empty = cells
            .iter()
            .filter(|(_, cell)| cell.judged.score.failed == 0);
        let why = empty.map(|((p, c), _)| format!("{p} × {c}: {}", document::NONE_FAILED));
        self.measured.skipped.extend(why);
    }
}

/// Prints them; whether nothing broke, and every pair holds.
pub(super) fn run(args: &Args) -> Result<bool> {
    let mut merged = Merged::default();
    for file in &args.merge {
        let named = || file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(named)?;
        merged.take(&text).with_context(named)?;
    }
    merged.judge_skipped();
    let Merged { measured, sources } = merged;
    for (source, cells) in &sources {
        print::matrix(*source, cells);
    }
    let holds = sources
        .iter()
        .all(|(source, cells)| cells.values().all(|cell| cell.holds(*source)));
    let sound = measured.broken.is_empty() && measured.strays == 0 && holds;
    if let Some(file) = &args.document {
        let pages: Vec<(Source, Cells)> = sources.into_iter().collect();
        document::write(file, &measured, &pages)?;
    }
    Ok(sound)
}

fn known(pair: &Pair) -> Result<(&'static str, &'static str)> {
    let proxy = proxies::ALL.iter().find(|p| p.name == pair.proxy);
    let cause = causes::ALL.iter().find(|c| c.name == pair.cause);
    match (proxy, cause) {
        (Some(proxy), Some(cause)) => Ok((proxy.name, cause.name)),
        _ => bail!("there is no pair {} × {}", pair.proxy, pair.cause),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::super::score::Judged;
    use super::super::tests::Cli;
    use super::*;

    fn written(seed: u64, proxy: &str, failed: u32, skipped: &str) -> String {
        let mut judged = Judged::default();
        judged.score.failed = failed;
        judged.score.right = failed;
        judged.given = [("worker_killed".to_owned(), failed)].into();
        let cell = Cell {
            judged,
            upstreams: [("node".to_owned(), failed)].into(),
            ..Cell::default()
        };
        let pair = json!({"proxy": proxy, "cause": "worker_killed", "cell": cell});
        let whole: Value = json!({
            "seed": seed, "repeat": 1, "failures": 6, "jobs": 3, "seconds": 1,
            "sources": {"kernel": {"pairs": [pair]}}, "broken": [], "skipped": [skipped],
        });
        whole.to_string()
    }

    #[test]
    fn runs_are_summed_by_pair_and_each_counts_once() {
        let none = "nginx × worker_killed: no response failed";
        let mut merged = Merged::default();
        merged.take(&written(1, "nginx", 0, none)).unwrap();
        merged.judge_skipped();
        assert!(merged.measured.skipped.contains(none));
        merged
            .take(&written(2, "nginx", 6, "caddy: absent"))
            .unwrap();
        merged
            .take(&written(3, "nginx", 5, "caddy: absent"))
            .unwrap();
        merged.judge_skipped();
        let cell = &merged.sources[&Source::Kernel][&("nginx", "worker_killed")];
        assert_eq!((cell.judged.score.failed, cell.upstreams["node"]), (11, 11));
        let skipped: Vec<_> = merged.measured.skipped.iter().collect();
        assert_eq!(skipped, ["caddy: absent"]);
        assert!(merged.take(&written(3, "nginx", 5, "")).is_err());
        merged.take(&written(3, "caddy", 5, "")).unwrap();
        merged.measured.skipped.clear();
        merged.measured.skipped.insert("caddy: absent".into());
        merged.judge_skipped();
        assert!(merged.measured.skipped.is_empty());
        assert!(merged.take(&written(4, "squid", 5, "")).is_err());
        assert!(merged.take("{}").is_err());
    }

    /// As `written`, with what newer runs write besides.
    fn newer(seed: u64, failed: u32, delays: &Value, classes: &Value) -> String {
        let old = written(seed, "nginx", failed, "caddy: absent");
        let mut whole: Value = serde_json::from_str(&old).unwrap();
        whole["further"] = json!(2);
        whole["classes"] = json!({"nginx": classes});
        whole["sources"]["kernel"]["pairs"][0]["cell"]["delays"] = delays.clone();
        whole["sources"]["all"] = whole["sources"]["kernel"].clone();
        whole.to_string()
    }

    #[test]
    fn the_document_of_several_runs_has_their_delays_and_baseline_as_of_one() {
        let mut old: Value =
            serde_json::from_str(&written(1, "nginx", 4, "caddy: absent")).unwrap();
        let cell = &mut old["sources"]["kernel"]["pairs"][0]["cell"];
        cell.as_object_mut().unwrap().remove("delays");
        let fast = json!({"worker_killed": 3, "connection_refused": 1});
        let files = [
            old.to_string(),
            newer(
                2,
                4,
                &json!({"0": 3, "251": 1}),
                &json!({"502 from 0 ms": fast}),
            ),
            newer(
                3,
                6,
                &json!({"0": 1, "7": 5}),
                &json!({"502 from 0 ms": {"connection_refused": 3}, "504 from 1024 ms": fast}),
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..files.len())
            .map(|number| format!("{}/{number}.json", folder.path().display()))
            .collect();
        for (name, text) in names.iter().zip(&files) {
            std::fs::write(name, text).unwrap();
        }
        let page = folder.path().join("accuracy.md");
        let (merge, into) = (names.join(","), page.display().to_string());
        let args = Cli::parse_from(["lab", "--merge", &merge, "--document", &into]).matrix;
        assert!(run(&args).unwrap());
        let page = std::fs::read_to_string(page).unwrap();
        for line in [
            "cargo xtask lab --seed 1 --repeat 1 --failures 6 --jobs 3 --proxy nginx --out lab-0",
            "cargo xtask lab --seed 2 --repeat 1 --failures 6 --further 2 --jobs 3 --proxy nginx \
             --out lab-1",
            // Fast 502s were 3 and 4, of which the 4 are guessed; slow 504s 3 and 1.
            "| status and duration | 11 | 7 (63.6 %) | 0.633 | 0.650 | 0 of 2 |",
            "| `all` | 10 | 10 (100.0 %) | 1.000 | 1.000 | 0 of 1 |",
            "| nginx | 10 | 7 | 7 | 251 | 251 |",
            "| all | 10 | 7 | 7 | 251 | 251 |",
        ] {
            assert!(page.lines().any(|own| own == line), "no {line} in {page}");
        }
        assert!(!page.contains("the same, of"), "{page}");
    }
}
