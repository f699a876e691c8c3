//! The thread: gathers records, sends the oldest request until it is done, tries again after a
//! pause, and sends the metrics every so often.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use rustls::RootCertStore;
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::time;

use super::client::{Client, Outcome, trusted_roots};
use super::counts::Shared;
use super::points::{self, Span};
use super::queue::{Batch, Queue, compressed};
use super::record::text;
use super::{Endpoint, Limits};
use crate::clock;
use crate::privileges;
use crate::sinks::metrics::Metrics;

#[derive(Debug)]
pub(super) struct Deliverer {
    endpoint: Endpoint,
    limits: Limits,
    resource: Resource,
    scope: InstrumentationScope,
    queue: RefCell<Queue>,
    /// There is a new record, or there will be none any more.
    news: Notify,
    /// No record will come any more.
    last: Cell<bool>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    began: u64,
}

/// Starts the thread; the channel is closed when it has ended.
pub(super) fn start(
    deliverer: Deliverer,
    records: Receiver<LogRecord>,
) -> io::Result<mpsc::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (end, ended) = mpsc::channel();
    std::thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || {
            privileges::keep(&[]);
            if let Err(error) = runtime.block_on(deliverer.run(records)) {
                let to = &deliverer.endpoint;
                let shared = &deliverer.shared;
                shared.up(false);
                shared.say("unusable", || {
                    format!("otlp {to}: {error:#}; nothing is sent there")
                });
            }
            deliverer.shared.drop_rest("ended");
            // A name that is still looked up is not waited for.
            runtime.shutdown_background();
            drop(end);
        })?;
    Ok(ended)
}

impl Deliverer {
    pub(super) fn new(
        endpoint: &Endpoint,
        node: &str,
        limits: Limits,
        shared: Arc<Shared>,
        metrics: &Arc<Metrics>,
    ) -> Deliverer {
        let resource = Resource {
            attributes: vec![
                text("service.name", "why502"),
                text("service.version", env!("CARGO_PKG_VERSION")),
                // One agent watches a host.
                text("service.instance.id", node),
                text("host.name", node),
            ],
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: "why502".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        Deliverer {
            endpoint: endpoint.clone(),
            limits,
            queue: RefCell::new(Queue::new(resource.clone(), scope.clone(), &limits)),
            resource,
            scope,
            news: Notify::new(),
            last: Cell::new(false),
            shared,
            metrics: Arc::clone(metrics),
            began: clock::unix_now(),
        }
    }

    async fn run(&self, mut records: Receiver<LogRecord>) -> Result<()> {
        let roots = match self.endpoint.encrypted {
            true => trusted_roots()?,
            false => RootCertStore::empty(),
        };
        let client = Client::new(roots, self.limits.answer)?;
        let mut deliver = pin!(self.deliver(&client));
        let mut measure = pin!(self.measure(&client));
        tokio::select! {
            () = self.gather(&mut records) => {}
            // They go on until no record will come.
            () = &mut deliver => {}
            () = &mut measure => {}
        }
        self.last.set(true);
        self.news.notify_one();
        let rest = async {
            deliver.await;
            self.send_metrics(&client).await;
        };
        // What is not sent by then is dropped and counted by who waits for the end.
        let _ = time::timeout(self.limits.end, rest).await;
        Ok(())
    }

    async fn gather(&self, records: &mut Receiver<LogRecord>) {
        while let Some(record) = records.recv().await {
            let dropped = self.queue.borrow_mut().add(record);
            self.shared.dropped("queue_bytes", dropped);
            self.news.notify_one();
        }
    }

    /// Ends when everything is delivered and no record will come any more.
    async fn deliver(&self, client: &Client) {
        let to = self.endpoint.of("logs");
        let mut pause = self.limits.first_pause;
        while let Some(batch) = self.next().await {
            let why = match client.post(&to, batch.body.clone()).await {
                Outcome::Later { why, after } => {
                    self.shared.up(false);
                    self.shared.say("away", || {
                        format!(
                            "otlp {to}: {why}; it is tried again, and what comes meanwhile waits"
                        )
                    });
                    self.rest(after.unwrap_or(pause)).await;
                    pause = (2 * pause).min(self.limits.longest_pause);
                    continue;
                }
                Outcome::Taken { rejected, why } => {
                    let rejected = rejected.min(batch.records);
                    self.shared.sent(batch.records - rejected);
                    self.shared.dropped("rejected", rejected);
                    self.shared.up(true);
                    (rejected > 0).then_some(why)
                }
                Outcome::Refused(why) => {
                    self.shared.dropped("refused", batch.records);
                    self.shared.up(false);
                    Some(why)
                }
            };
            pause = self.limits.first_pause;
            self.queue.borrow_mut().done();
            if let Some(why) = why {
                self.shared.say("refused", || {
                    format!("otlp {to}: {why}; what is not taken is dropped and counted")
                });
            }
        }
    }

    /// The next request, when there is something to send.
    async fn next(&self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.queue.borrow_mut().first(self.last.get()) {
                return Some(batch);
            }
            if self.last.get() {
                return None;
            }
            let due = self.queue.borrow().due();
            // Far off: only news ends it.
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = self.news.notified() => {}
                () = time::sleep_until(due.into()) => {}
            }
        }
    }

    /// At least half of the pause, so that a fleet does not come back all at once; no longer than the
    /// longest, whatever the receiver asks for. Cut short when no record will come any more.
    async fn rest(&self, pause: Duration) {
        let pause = pause.min(self.limits.longest_pause);
        let random = RandomState::new().hash_one(()) % 1_000;
        let pause = pause / 2 + pause * random as u32 / 2_000;
        let over = Instant::now() + pause;
        let was_last = self.last.get();
        while Instant::now() < over && self.last.get() == was_last {
            tokio::select! {
                () = self.news.notified() => {}
                () = time::sleep_until(over.into()) => {}
            }
        }
    }

    async fn measure(&self, client: &Client) {
        loop {
            time::sleep(self.limits.metrics).await;
            self.send_metrics(client).await;
        }
    }

    /// Once: the next ones say all that these did.
    async fn send_metrics(&self, client: &Client) {
        let to = self.endpoint.of("metrics");
        let span = Span {
            from: self.began,
            to: clock::unix_now(),
        };
        let (resource, scope) = (self.resource.clone(), self.scope.clone());
        let request = points::request(&self.metrics.export(), span, resource, scope);
        let body = compressed(&request.encode_to_vec());
        match client.post(&to, body).await {
            Outcome::Taken { rejected: 0, .. } => {}
            Outcome::Taken { why, .. } | Outcome::Refused(why) | Outcome::Later { why, .. } => {
                self.shared.say("metrics", || {
                    format!("otlp {to}: {why}; verdicts are sent all the same")
                });
            }
        }
    }
}
