//! Export for those who outgrow one machine: verdicts as OpenTelemetry logs, and the metrics, over
//! OTLP/HTTP.
//!
//! The path of signals hands records over and never waits: a thread of its own gathers, compresses
//! and delivers them, and what its queue does not take, or the receiver, is dropped and counted. At
//! any moment produced = sent + dropped + waiting.

mod client;
mod community;
mod counts;
mod deliver;
mod endpoint;
mod points;
mod queue;
mod record;
#[cfg(test)]
mod tests;
mod upstream_end;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tokio::sync::mpsc::{Sender, channel};

use super::metrics::Metrics;
use crate::verdict::{Risk, Verdict};

pub use counts::Counts;
pub use endpoint::Endpoint;
pub use upstream_end::UpstreamEnd;

use counts::Shared;
use deliver::Deliverer;

/// Records that may wait for the thread itself; from there on they wait compressed.
const INTAKE: usize = 2_048;

/// How much may wait, and for how long; tests have no minute.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records that may wait, wherever.
    records: u64,
    /// Memory of the finished requests.
    bytes: usize,
    /// What has come since the first is sent together after this.
    gather: Duration,
    /// After a failure; each pause is twice the one before.
    first_pause: Duration,
    longest_pause: Duration,
    /// For one request and its answer.
    answer: Duration,
    /// From one export of the metrics to the next.
    metrics: Duration,
    /// For what waits when the program ends.
    end: Duration,
}

impl Default for Limits {
    /// An outage of 30 s at 1,000 verdicts a second is over within the queue, also where the
    /// receiver hung instead of refusing: 30 s, a request that waits, and the longest pause.
    fn default() -> Limits {
        Limits {
            records: 65_536,
            bytes: 32 << 20,
            gather: Duration::from_secs(1),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            metrics: Duration::from_secs(30),
            end: Duration::from_secs(5),
        }
    }
}

/// The handing end.
#[derive(Debug)]
pub struct Otlp {
    intake: Sender<LogRecord>,
    shared: Arc<Shared>,
    limits: Limits,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Otlp {
    /// Starts the thread. That nobody answers there is no error: it is tried again.
    pub fn start(
        endpoint: &Endpoint,
        node: &str,
        metrics: &Arc<Metrics>,
        limits: Limits,
    ) -> io::Result<Otlp> {
        let (intake, records) = channel(INTAKE);
        let shared = Arc::new(Shared::default());
        let deliverer = Deliverer::new(endpoint, node, limits, Arc::clone(&shared), metrics);
        let ended = deliver::start(deliverer, records)?;
        Ok(Otlp {
            intake,
            shared,
            limits,
            ended,
        })
    }

    /// Exports a verdict as `--privacy` has left it; `at_ns` is its moment since 1970.
    pub fn on_verdict(&mut self, verdict: &Verdict, at_ns: u64) {
        self.hand_over(record::of_verdict(verdict, at_ns));
    }

    pub fn on_risk(&mut self, risk: &Risk, at_ns: u64) {
        self.hand_over(record::of_risk(risk, at_ns));
    }

    pub fn on_upstream_end(&mut self, end: &UpstreamEnd, at_ns: u64) {
        self.hand_over(record::of_upstream_end(end, at_ns));
    }

    /// Ends of connections that were too many to be told.
    pub fn left_out(&mut self, count: u64) {
        self.shared.produced(count);
        self.shared.dropped("rate", count);
    }

    fn hand_over(&mut self, record: LogRecord) {
        self.shared.produced(1);
        // Without its thread it is as full.
        if self.shared.waiting() > self.limits.records || self.intake.try_send(record).is_err() {
            self.shared.dropped("queue_full", 1);
        }
    }

    /// So far; a record is counted as produced before it is counted as anything else.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// What is to be said, since this was asked last.
    pub fn messages(&self) -> Vec<String> {
        self.shared.messages()
    }

    /// Delivers what waits, unless nobody takes it; returns what became of everything.
    pub fn finish(self) -> (Counts, Vec<String>) {
        let Otlp {
            intake,
            shared,
            limits,
            ended,
        } = self;
        drop(intake);
        // An error is the thread's end, and what is waited for. It keeps to the time itself.
        let _ = ended.recv_timeout(2 * limits.end);
        shared.drop_rest("ended");
        (shared.counts(), shared.messages())
    }
}

/// What was dropped, by reason.
type Dropped = BTreeMap<&'static str, u64>;
