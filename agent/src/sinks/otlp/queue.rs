//! What waits for the receiver: finished requests, compressed, within a bound.
//!
//! Verdicts of one failure are alike, so that compressed they take a tenth of the memory; the
//! newest are gathered uncompressed, because one at a time they would not.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::Limits;

/// Records of one request: it stays well below the 4 MB that receivers take at least.
const BATCH: usize = 512;

/// A finished request.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) body: Bytes,
    pub(super) records: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    resource: Resource,
    scope: InstrumentationScope,
    gather: Duration,
    limit: usize,
    open: Vec<LogRecord>,
    /// When the first of them came.
    opened: Option<Instant>,
    closed: VecDeque<Batch>,
    bytes: usize,
}

impl Queue {
    pub(super) fn new(resource: Resource, scope: InstrumentationScope, limits: &Limits) -> Queue {
        Queue {
            resource,
            scope,
            gather: limits.gather,
            limit: limits.bytes,
            open: Vec::new(),
            opened: None,
            closed: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes a record; returns how many it had to drop.
    pub(super) fn add(&mut self, record: LogRecord) -> u64 {
        self.opened.get_or_insert_with(Instant::now);
        self.open.push(record);
        match self.open.len() < BATCH {
            true => 0,
            false => self.close(),
        }
    }

    /// The oldest request. It stays until it is done; the newest records are finished where
    /// there is no other, and they have been gathered for long enough or are the last.
    pub(super) fn first(&mut self, last: bool) -> Option<Batch> {
        let due = last || self.due().is_some_and(|due| due <= Instant::now());
        if self.closed.is_empty() && due {
            // Into an empty queue: nothing can be dropped.
            let _ = self.close();
        }
        self.closed.front().cloned()
    }

    /// When the newest records want to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.gather)
    }

    /// The oldest request is sent or given up.
    pub(super) fn done(&mut self) {
        if let Some(batch) = self.closed.pop_front() {
            self.bytes -= batch.body.len();
        }
    }

    /// Makes a request of the newest records, or drops them where memory is full.
    fn close(&mut self) -> u64 {
        self.opened = None;
        let records = self.open.len() as u64;
        if records == 0 {
            return 0;
        }
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(self.scope.clone()),
                    log_records: std::mem::take(&mut self.open),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        let body = compressed(&request.encode_to_vec());
        if !self.closed.is_empty() && self.bytes + body.len() > self.limit {
            return records;
        }
        self.bytes += body.len();
        self.closed.push_back(Batch { body, records });
        0
    }
}

/// Fast rather than small: a storm of verdicts is to cost little.
pub(super) fn compressed(message: &[u8]) -> Bytes {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes everything.
    let _ = out.write_all(message);
    Bytes::from(out.finish().unwrap_or_default())
}
