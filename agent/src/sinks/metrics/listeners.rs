//! Accept queues of listeners: length, peak, limit and overflows.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;

use super::families::{counters, gauges};
use super::series::Counter;
use crate::cause::Cause;
use crate::signal::{Address, Listener};
use crate::verdict::AttemptLine;

/// Listeners shown; a host with more is served by its upstream metrics.
const MAX_LISTENERS: usize = 200;

#[derive(Debug)]
struct Queue {
    process: String,
    length: u32,
    /// Since the last scrape.
    peak: u32,
    limit: u32,
}

/// All listeners. Two network namespaces can have the same address: they are kept apart, and the
/// export shows the one nearer to its limit.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    queues: BTreeMap<(String, u32), Queue>,
    /// By address and process: they outlive the listener, as counters must.
    overflows: BTreeMap<[String; 2], Counter>,
}

impl Listeners {
    pub(super) fn on_listener(&mut self, listener: &Listener, process: &str) {
        let key = (listener.address.0.clone(), listener.netns);
        if listener.gone {
            self.queues.remove(&key);
            return;
        }
        if self.queues.len() >= MAX_LISTENERS && !self.queues.contains_key(&key) {
            return;
        }
        let labels = [key.0.clone(), process.to_owned()];
        if self.overflows.len() < MAX_LISTENERS {
            self.overflows.entry(labels).or_default();
        }
        let queue = self.queues.entry(key).or_insert_with(|| Queue {
            process: process.to_owned(),
            length: 0,
            peak: 0,
            limit: 0,
        });
        process.clone_into(&mut queue.process);
        queue.length = listener.length;
        queue.limit = listener.limit;
        queue.peak = queue.peak.max(listener.peak).max(listener.length);
    }

    /// Counts the attempts that met a full queue.
    pub(super) fn on_attempts(&mut self, attempts: &[AttemptLine]) {
        for attempt in attempts {
            let full = matches!(
                attempt.cause,
                Some(Cause::UnixAcceptQueueFull | Cause::TcpAcceptQueueFull)
            );
            if !full {
                continue;
            }
            let labels = self.labels(&attempt.upstream);
            if self.overflows.len() < MAX_LISTENERS || self.overflows.contains_key(&labels) {
                self.overflows.entry(labels).or_default().add(1);
            }
        }
    }

    /// Of the listener that takes calls to this address: a full queue was seen on this host.
    fn labels(&self, upstream: &Address) -> [String; 2] {
        let at = |address: &Address| {
            let mut queues = self.queues.iter();
            queues.find(|((listener, _), _)| *listener == address.0)
        };
        let found = upstream.listened_at().iter().find_map(at);
        found.map_or_else(
            || [upstream.0.clone(), String::new()],
            |((address, _), queue)| [address.clone(), queue.process.clone()],
        )
    }

    pub(super) fn gather(&mut self, fresh_as_zero: bool) -> [MetricFamily; 4] {
        let mut shown: BTreeMap<[String; 2], (u32, u32, u32)> = BTreeMap::new();
        for ((address, _), queue) in &mut self.queues {
            let now = (queue.length, queue.peak, queue.limit);
            queue.peak = queue.length;
            let place = shown
                .entry([address.clone(), queue.process.clone()])
                .or_insert(now);
            let fullness =
                |(_, peak, limit): (u32, u32, u32)| f64::from(peak) / f64::from(limit.max(1));
            if fullness(now) > fullness(*place) {
                *place = now;
            }
        }
        let labels = ["socket", "process"];
        let of = |choose: fn(&(u32, u32, u32)) -> u32| {
            shown
                .iter()
                .map(move |(labels, queue)| (labels.clone(), f64::from(choose(queue))))
        };
        [
            gauges(
                "why502_accept_queue_length",
                "Connections that wait to be accepted",
                labels,
                of(|queue| queue.0),
            ),
            gauges(
                "why502_accept_queue_peak",
                "The longest queue since the last scrape",
                labels,
                of(|queue| queue.1),
            ),
            gauges(
                "why502_accept_queue_limit",
                "The queue's limit; it holds one more",
                labels,
                of(|queue| queue.2),
            ),
            counters(
                "why502_accept_queue_overflows_total",
                "Connections of watched proxies that met a full queue",
                labels,
                self.overflows
                    .iter_mut()
                    .map(|(labels, counter)| (labels.clone(), counter.export(fresh_as_zero))),
            ),
        ]
    }
}
