//! The table of who the failures were at: the lab's own, scripted upstream, or real software.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::Cells;
use super::super::causes;
use super::super::observers::Source;
use super::super::upstreams::{ALL, SCRIPTED};
use super::share;

pub(super) fn write(text: &mut String, results: &[(Source, Cells)]) {
    let Some((_, cells)) = results.first() else {
        return;
    };
    let causes = by_cause(cells);
    if causes.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n## Upstreams\n\n\
         Who the failures were at that had somebody to be at: the lab's own, scripted upstream, and real \
         software. Causes without a line need no server.\n\n\
         | cause | failed | `{SCRIPTED}` | others |\n|---|---:|---:|---|"
    );
    for (cause, upstreams) in &causes {
        let (scripted, all) = scripted(upstreams);
        let others: Vec<String> = (upstreams.iter())
            .filter(|(name, failed)| **name != SCRIPTED && **failed > 0)
            .map(|(name, failed)| format!("{name} {failed}"))
            .collect();
        let _ = writeln!(
            text,
            "| `{cause}` | {all} | {} | {} |",
            share(scripted, all),
            others.join(", ")
        );
    }
}

/// The causes of which more than half of the failures are at the scripted one.
pub(super) fn mostly_scripted(cells: &Cells) -> Vec<String> {
    let mut mostly = Vec::new();
    for (cause, upstreams) in by_cause(cells) {
        let (scripted, all) = scripted(&upstreams);
        if scripted * 2 > all {
            let why = if is_alone(cause) {
                "; no other here can be asked for it"
            } else {
                ""
            };
            mostly.push(format!("`{cause}` ({scripted} of {all}{why})"));
        }
    }
    mostly
}

/// Of each cause that had any, its failures by who they were at.
fn by_cause(cells: &Cells) -> BTreeMap<&'static str, BTreeMap<&str, u32>> {
    let mut causes: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
    for ((_, cause), cell) in cells {
        for (upstream, failed) in cell.upstreams.iter().filter(|(_, failed)| **failed > 0) {
            *causes
                .entry(cause)
                .or_default()
                .entry(upstream)
                .or_default() += failed;
        }
    }
    causes
}

/// How many were at the scripted one, and at any.
fn scripted(upstreams: &BTreeMap<&str, u32>) -> (u32, u32) {
    let scripted = upstreams.get(SCRIPTED).copied().unwrap_or(0);
    (scripted, upstreams.values().sum())
}

/// Whether the scripted one alone can be asked for it.
fn is_alone(cause: &str) -> bool {
    let all: Vec<_> = ALL.iter().collect();
    let cause = causes::ALL.iter().find(|known| known.name == cause);
    cause.is_some_and(|cause| match &cause.upstreams(&all)[..] {
        [only] => only.name == SCRIPTED,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Cell;

    #[test]
    fn each_cause_has_the_share_of_the_scripted_one_over_all_proxies() {
        let cell = |upstreams: &[(&str, u32)]| Cell {
            upstreams: (upstreams.iter())
                .map(|(name, failed)| ((*name).to_owned(), *failed))
                .collect(),
            ..Cell::default()
        };
        let cells = Cells::from([
            (
                ("nginx", "upstream_reset"),
                cell(&[("scripted", 6), ("node", 0)]),
            ),
            (
                ("go", "upstream_reset"),
                cell(&[("node", 12), ("tomcat", 2)]),
            ),
            (("go", "connection_refused"), cell(&[])),
        ]);
        let mut text = String::new();
        write(&mut text, &[(Source::Kernel, cells)]);
        let line = "| `upstream_reset` | 20 | 6 (30.0 %) | node 12, tomcat 2 |";
        assert!(text.lines().any(|own| own == line), "{text}");
        assert!(!text.contains("connection_refused"), "{text}");
    }
}
