//! What the pipeline has to do with the export, beside handing over verdicts: its counts and words.

use std::io::Write;

use super::pipeline::Pipeline;
use crate::cli::warning;
use crate::signal::{self, Nanos};
use crate::sinks::otlp::UpstreamEnd;
use crate::track::render;
use crate::verdict::Party;

/// How long ago the OOM killer may have chosen what dies now.
const DYING: Nanos = 10_000_000_000;

impl<W: Write> Pipeline<W> {
    /// This node's half of what may be another node's failure: for the export alone.
    pub(super) fn upstream_ended(&mut self, at: Nanos, end: &signal::UpstreamEnd) {
        let Some(otlp) = &mut self.otlp else { return };
        otlp.left_out(end.left_out);
        if !UpstreamEnd::is_wanted(end) {
            return;
        }
        let server = end.server.as_ref();
        let pid = server.map(|process| process.pid);
        let upstream = Party {
            address: Some(end.upstream.clone()),
            process: Some(server.map(|process| process.name.clone())),
            pid,
            ..render::home(server)
        };
        let stamp = render::Stamp {
            id: self.clock.ulid(at, &[end.flow]),
            time: self.clock.rfc3339(at),
            node: self.node.clone(),
        };
        let host = &self.tracker.host;
        let killed = |pid| host.oom_kill_of(pid, at.saturating_sub(DYING), at);
        let oom = end.exit_signal.is_some() && pid.and_then(killed).is_some();
        let told = UpstreamEnd::new(end, stamp, upstream, oom, self.privacy);
        otlp.on_upstream_end(&told, self.clock.unix(at));
    }

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
                "of {} records {} were not sent over OTLP",
                counts.produced,
                counts.lost()
            );
        }
        if let Some(metrics) = &self.metrics {
            metrics.otlp(counts);
        }
    }
}
