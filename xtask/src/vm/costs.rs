//! What each probe costs there, as the lab's row 27 left it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::kernels::Kernel;
use super::result::{Fact, Recording};

/// One program's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cost {
    /// Of its name the kernel keeps 15 letters: two may be one here.
    program: String,
    per_request: f64,
    ns: f64,
}

/// Of whichever lab had that row.
pub(super) fn read(results: &Path) -> Result<Vec<Cost>> {
    let mut files = fs::read_dir(results)?
        .flatten()
        .map(|entry| entry.path().join("r27-probe-costs/costs.json"));
    let Some(file) = files.find(|file| file.is_file()) else {
        return Ok(Vec::new());
    };
    let text = fs::read_to_string(&file)?;
    let mut costs: Vec<Cost> =
        serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
    for cost in &mut costs {
        cost.ns = cost.ns.round();
        cost.per_request = (cost.per_request * 100.0).round() / 100.0;
    }
    Ok(costs)
}

/// A row for each program, and one for all together.
pub(super) fn table(text: &mut String, all: &[(Kernel, Recording)]) {
    let names: BTreeSet<String> = all
        .iter()
        .flat_map(|(_, recording)| recording.costs.iter().map(|cost| whole(cost, recording)))
        .collect();
    for name in names {
        let _ = write!(text, "| {name} |");
        for (_, recording) in all {
            let here = |cost: &&Cost| whole(cost, recording) == name;
            let cell = recording.costs.iter().find(here).map_or_else(
                || "–".to_owned(),
                |cost| format!("{} × {}", cost.per_request, cost.ns),
            );
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text.push_str("| **all, for a request** |");
    for (_, recording) in all {
        let costs = recording.costs.iter();
        let sum: f64 = costs.map(|cost| cost.per_request * cost.ns).sum();
        let _ = match sum > 0.0 {
            true => write!(text, " **{sum:.0}** |"),
            false => write!(text, " not measured |"),
        };
    }
    text.push('\n');
}

/// The hooks whose names begin so, as far as they are used there; or the program's own name.
fn whole(cost: &Cost, recording: &Recording) -> String {
    let seen = recording.check.iter().filter(|fact| fact.visible);
    let hooks = seen.flat_map(|Fact { hook, .. }| hook.split('+'));
    let named = hooks.filter(|hook| {
        let name = hook.rsplit('/').next().unwrap_or_default();
        !name.is_empty() && name.get(..15).unwrap_or(name) == cost.program
    });
    let named: BTreeSet<_> = named.map(|hook| format!("`{hook}`")).collect();
    match named.is_empty() {
        true => format!("`{}`", cost.program),
        false => named.into_iter().collect::<Vec<_>>().join(", "),
    }
}
