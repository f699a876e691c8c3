//! What the pipeline has to do with the history, beside handing over verdicts: its losses and words.

use std::io::Write;

use super::pipeline::Pipeline;
use crate::cli::warning;
use crate::sinks::history::History;
use crate::sinks::metrics::Metrics;

impl<W: Write> Pipeline<W> {
    /// This fact cannot be seen here; whether that was not known yet.
    pub(super) fn unseen(&mut self, fact: &str, why: &str) -> bool {
        let Some(text) = self.totals.blind(fact, why) else {
            return false;
        };
        if let Some(history) = &mut self.history {
            history.blind(text);
        }
        true
    }

    pub(super) fn tend_history(&mut self) {
        if let Some(history) = &mut self.history {
            let results = &mut self.results;
            tend(history, self.metrics.as_deref(), |message| {
                // A results sink that cannot make room says so itself at its next line.
                let _ = results.make_room();
                warning!("{message}");
            });
        }
    }

    pub(super) fn finish_history(&mut self) {
        if let Some(history) = self.history.take() {
            let (dropped, messages) = history.finish();
            for message in messages {
                warning!("{message}");
            }
            let dropped: u64 = dropped.values().sum();
            if dropped > 0 {
                warning!("the last {dropped} verdicts are not in the history");
            }
        }
    }
}

/// Tells metrics and people how the history fares. Its losses are no signals': a verdict that is not
/// kept was made and shown all the same, so the summary does not count it.
pub(super) fn tend(history: &mut History, metrics: Option<&Metrics>, mut say: impl FnMut(&str)) {
    let (dropped, messages) = history.take();
    if let Some(metrics) = metrics {
        metrics.history_up(history.is_up());
        for (reason, count) in dropped {
            metrics.lost("history", reason, count);
        }
    }
    for message in &messages {
        say(message);
    }
}
