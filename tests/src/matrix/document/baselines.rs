//! The table of what is known without why502: by status and duration, and by logs alone.

use std::fmt::Write as _;

use super::super::Cells;
use super::super::baseline::Classes;
use super::super::observers::Source;
use super::super::score::{self, Judged, Score};
use super::share;

/// A cause with less recall is mostly missed.
const LOW: f64 = 0.5;

pub(super) fn write(text: &mut String, classes: &Classes, results: &[(Source, Cells)]) {
    let guessed = classes.guess(|_| true);
    if guessed.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n## Baselines\n\n\
         What status and duration alone are worth, as any access log has them: to somebody who has seen \
         these very responses with their causes, and guesses for each the most frequent cause of its \
         proxy, status and duration (as the client waited, in classes by powers of two of milliseconds). \
         This is fitted to the data that it is judged by, and each pair was set up a few times only, at \
         distances that durations give away: an upper bound of what these facts are good for. Who \
         guesses so always names a cause; what a source calls `unknown` counts against its recall.\n\n\
         | | failed | right | macro-F1 | mean recall | causes with recall below {LOW} |\n\
         |---|---:|---:|---:|---:|---:|"
    );
    row(text, "status and duration", guessed.iter());
    let cells_of = |source| results.iter().find(|(of, _)| *of == source);
    if let Some((_, cells)) = cells_of(Source::Logs) {
        let read = |proxy: &str| cells.keys().any(|(read, _)| *read == proxy);
        if !classes.proxies().all(read) {
            let name = "the same, of the proxies that `logs` is about";
            row(text, name, classes.guess(read).iter());
        }
    }
    for source in [Source::Logs, Source::All] {
        if let Some((_, cells)) = cells_of(source) {
            let judged = cells.iter().map(|((_, cause), cell)| (cause, &cell.judged));
            row(text, &format!("`{}`", source.name()), judged);
        }
    }
}

/// How those did that have been judged, by true cause.
fn row<'a>(
    text: &mut String,
    name: &str,
    judged: impl Iterator<Item = (&'a &'a str, &'a Judged)> + Clone,
) {
    let mut sum = Score::default();
    for (_, judged) in judged.clone() {
        sum.add(&judged.score);
    }
    let told = score::by_cause(judged.map(|(cause, judged)| (*cause, judged)));
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {:.3} | {:.3} | {} of {} |",
        sum.failed,
        share(sum.right, sum.failed),
        score::macro_f1(&told),
        score::macro_recall(&told),
        told.values().filter(|told| told.recall < LOW).count(),
        told.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Sent;
    use crate::matrix::Cell;

    #[test]
    fn logs_stand_beside_the_guess_about_the_same_proxies() {
        let page = |classes: &Classes| {
            let mut cell = Cell::default();
            cell.judged.score.failed = 2;
            cell.judged.score.right = 1;
            cell.judged.given.insert("worker_killed".to_owned(), 1);
            let cells = Cells::from([(("nginx", "worker_killed"), cell)]);
            let mut text = String::new();
            write(&mut text, classes, &[(Source::Logs, cells)]);
            text
        };
        let mut classes = Classes::default();
        // Of runs that have not counted them.
        assert_eq!(page(&classes), "");
        let sent = Sent {
            status: Some(502),
            ..Sent::default()
        };
        classes.count("nginx", &sent, "worker_killed");
        classes.count("nginx", &sent, "worker_killed");
        assert_eq!(page(&classes).matches("\n| ").count(), 3);
        for _ in 0..2 {
            classes.count("go", &sent, "connection_refused");
        }
        classes.count("go", &sent, "host_unreachable");
        let page = page(&classes);
        for line in [
            "| status and duration | 5 | 4 (80.0 %) | 0.600 | 0.667 | 1 of 3 |",
            "| the same, of the proxies that `logs` is about | 2 | 2 (100.0 %) | 1.000 | 1.000 | 0 of 1 |",
            "| `logs` | 2 | 1 (50.0 %) | 0.667 | 0.500 | 0 of 1 |",
        ] {
            assert!(page.lines().any(|own| own == line), "no {line} in {page}");
        }
    }
}
