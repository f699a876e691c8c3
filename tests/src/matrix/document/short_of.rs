//! What was wanted of the measurement and is not there.

use std::fmt::Write as _;

use super::super::observers::Source;
use super::super::score::Score;
use super::super::{Cell, Cells, proxies};
use super::{Measured, share, upstreams};
use crate::cause as closed;

/// Failures of each pair, and proven of right ones from all facts.
const WANTED: u32 = 30;
const PROVEN: f64 = 0.9;

pub(super) fn write(text: &mut String, measured: &Measured, results: &[(Source, Cells)]) {
    text.push_str("\n## Short of what is wanted\n\n");
    for (source, cells) in results {
        let mut sum = Score::default();
        for cell in cells.values() {
            sum.add(&cell.judged.score);
        }
        let (right, proven) = (f64::from(sum.right), f64::from(sum.proven));
        // Packets and logs alone are not meant to prove as much.
        if matches!(source, Source::Kernel | Source::All) && proven < PROVEN * right {
            let _ = writeln!(
                text,
                "- `{}`: {} of the right verdicts are `proven`; {:.0} % are wanted.",
                source.name(),
                share(sum.proven, sum.right),
                PROVEN * 100.0
            );
        }
        if sum.flagged > 0 {
            let _ = writeln!(
                text,
                "- `{}`: {} verdicts for what had not failed, {} of them about no request that was made.",
                source.name(),
                sum.flagged,
                sum.stray
            );
        }
        if sum.unknown + sum.missing + sum.wrong > 0 {
            let _ = writeln!(
                text,
                "- `{}`: {} of {} failures are `unknown`, {} have no verdict, {} a wrong one.",
                source.name(),
                sum.unknown,
                sum.failed,
                sum.missing,
                sum.wrong
            );
        }
    }
    if measured.strays > 0 {
        let count = measured.strays;
        let _ = writeln!(text, "- `kernel`: {count} verdicts about no pair at all.");
    }
    if let Some((_, cells)) = results.first() {
        let failures = |cell: &Cell| cell.judged.score.failed;
        let failing = || cells.iter().filter(|(_, cell)| failures(cell) > 0);
        let few = failing().filter(|(_, cell)| failures(cell) < WANTED);
        let few: Vec<String> = few
            .map(|((proxy, cause), cell)| format!("{proxy} × {cause} ({})", failures(cell)))
            .collect();
        if !few.is_empty() {
            let _ = writeln!(
                text,
                "- {} of the {} pairs that fail have fewer than {WANTED} failures: {}.",
                few.len(),
                failing().count(),
                few.join(", ")
            );
        }
        let has = |name: &str| cells.keys().any(|(proxy, _)| *proxy == name);
        let names = proxies::ALL.iter().map(|proxy| proxy.name);
        let lacking: Vec<&str> = names.filter(|name| !has(name)).collect();
        if !lacking.is_empty() {
            let _ = writeln!(text, "- Not among the proxies: {}.", lacking.join(", "));
        }
        let lacking = not_run(cells);
        if !lacking.is_empty() {
            let _ = writeln!(
                text,
                "- Of the closed list's {} causes of a failed response {} are not run here: {}.",
                failing_causes().count(),
                lacking.len(),
                lacking.join(", ")
            );
        }
        let scripted = upstreams::mostly_scripted(cells);
        if !scripted.is_empty() {
            let _ = writeln!(
                text,
                "- More than half of the failures at an upstream are at the lab's own, scripted one: {}.",
                scripted.join(", ")
            );
        }
    }
}

/// The causes that a verdict about a failed response may name.
fn failing_causes() -> impl Iterator<Item = &'static str> {
    let all = closed::Cause::ALL.iter();
    let none = [closed::Cause::Unknown, closed::Cause::DownstreamGaveUp];
    all.filter(move |cause| !none.contains(cause))
        .map(|cause| cause.name())
}

/// Those that no pair was broken by.
fn not_run(cells: &Cells) -> Vec<String> {
    let ran = |name: &str| cells.keys().any(|(_, cause)| *cause == name);
    failing_causes()
        .filter(|name| !ran(name))
        .map(|name| format!("`{name}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::causes;
    use super::*;

    fn cells(pairs: &[(&'static str, &[(&str, u32)])]) -> Cells {
        let cell = |served: &[(&str, u32)]| {
            let mut cell = Cell::default();
            cell.judged.score.failed = served.iter().map(|(_, failed)| failed).sum();
            cell.judged.score.right = cell.judged.score.failed;
            cell.judged.score.proven = cell.judged.score.failed;
            let served = served
                .iter()
                .map(|(name, failed)| ((*name).to_owned(), *failed));
            cell.upstreams = served.collect();
            cell
        };
        let of =
            |(cause, served): &(&'static str, &[(&str, u32)])| (("nginx", *cause), cell(served));
        pairs.iter().map(of).collect()
    }

    fn page(measured: &Measured, cells: Cells) -> String {
        let mut text = String::new();
        write(&mut text, measured, &[(Source::Kernel, cells)]);
        text
    }

    #[test]
    fn every_cause_of_the_matrix_is_of_the_closed_list() {
        for cause in causes::ALL {
            let known = failing_causes().any(|name| name == cause.name);
            assert!(known, "{}", cause.name);
        }
    }

    #[test]
    fn causes_that_are_not_run_are_named() {
        let some = cells(&[
            ("worker_killed", &[("node", 40)]),
            ("dns_failed", &[("node", 40)]),
        ]);
        let lacking = not_run(&some);
        assert_eq!(lacking.len(), failing_causes().count() - 2);
        assert!(lacking.contains(&"`send_timeout`".to_owned()));
        assert!(!lacking.contains(&"`worker_killed`".to_owned()));
        assert!(!lacking.contains(&"`unknown`".to_owned()));
        let page = page(&Measured::default(), some);
        let line = format!(
            "{} are not run here: {}.",
            lacking.len(),
            lacking.join(", ")
        );
        assert!(page.contains(&line), "{page}");
    }

    #[test]
    fn a_cause_that_is_mostly_made_by_the_script_is_named() {
        let page = page(
            &Measured::default(),
            cells(&[
                ("upstream_reset", &[("scripted", 20), ("node", 20)]),
                ("response_invalid", &[("scripted", 36)]),
                ("upstream_closed_early", &[("scripted", 21), ("go", 20)]),
                ("connection_refused", &[]),
            ]),
        );
        let line = "scripted one: `response_invalid` (36 of 36), \
                    `upstream_closed_early` (21 of 41).";
        assert!(page.contains(line), "{page}");
    }

    #[test]
    fn strays_are_named() {
        let mut some = cells(&[("worker_killed", &[("node", 40)])]);
        for cell in some.values_mut() {
            cell.judged.score.flagged = 3;
            cell.judged.score.stray = 2;
        }
        let measured = Measured {
            strays: 4,
            ..Measured::default()
        };
        let page = page(&measured, some);
        let line = "- `kernel`: 3 verdicts for what had not failed, 2 of them about no request that was made.";
        assert!(page.lines().any(|own| own == line), "{page}");
        let line = "- `kernel`: 4 verdicts about no pair at all.";
        assert!(page.lines().any(|own| own == line), "{page}");
    }
}
