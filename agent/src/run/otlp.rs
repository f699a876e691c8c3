//! What the pipeline has to do with the export, beside handing over verdicts: its counts and words.

use std::io::Write;

use super::pipeline::Pipeline;
use crate::cli::warning;

impl<W: Write> Pipeline<W> {
    /// Its losses are no signals': a verdict that is not sent was made and shown all the same.
    pub(super) fn tend_otlp(&mut self) {
        let Some(otlp) = &self.otlp else { return };
        if let Some(metrics) = &self.metrics {
            metrics.otlp(otlp.counts());
        }
        for message in otlp.messages() {
            // A results sink that cannot make room says so itself at its next line.
            let _ = self.results.make_room();
            warning!("{message}");
        }
    }

    pub(super) fn finish_otlp(&mut self) {
        let Some(otlp) = self.otlp.take() else { return };
        let (counts, messages) = otlp.finish();
        for message in messages {
            warning!("{message}");
        }
        if counts.lost() > 0 {
            warning!(
                "of {} verdicts and risks {} were not sent over OTLP",
                counts.produced,
                counts.lost()
            );
        }
        if let Some(metrics) = &self.metrics {
            metrics.otlp(counts);
        }
    }
}
