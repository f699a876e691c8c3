//! Accept queues of listeners: length, peak, limit and overflows.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;

use super::families::{counters, gauges};
use super::series::{Counter, Scrape};
use crate::cause::Cause;
use crate::signal::{Address, Listener};
use crate::verdict::AttemptLine;

/// Listeners shown; a host with more is served by its upstream metrics.
const MAX_LISTENERS: usize = 200;

#[derive(Clone, Debug)]
struct Queue {
    process: String,
    length: u32,
    /// Since the last scrape.
    peak: u32,
    /// Since it was sent last.
    unsent_peak: u32,
    limit: u32,
}

/// All listeners. Two network namespaces can have the same address: they are kept apart, and the
/// export shows the one nearer to its limit.
#[derive(Clone, Debug, Default)]
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
            unsent_peak: 0,
            limit: 0,
        });
        process.clone_into(&mut queue.process);
        queue.length = listener.length;
        queue.limit = listener.limit;
        for peak in [&mut queue.peak, &mut queue.unsent_peak] {
            *peak = (*peak).max(listener.peak).max(listener.length);
        }
    }

    /// Gives a copy the peaks since this was called last.
    pub(super) fn pushed(&mut self, copy: &mut Listeners) {
        for (queue, copied) in self.queues.values_mut().zip(copy.queues.values_mut()) {
            copied.peak = std::mem::replace(&mut queue.unsent_peak, queue.length);
        }
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

    /// Of the listener that takes calls to this address: a full queue was seen on this host. Where
    /// namespaces have different processes there, none is named.
    fn labels(&self, upstream: &Address) -> [String; 2] {
        for Address(address) in upstream.listened_at() {
            let here = self.queues.iter().filter(|((at, _), _)| *at == address);
            let mut processes: Vec<&str> = here.map(|(_, queue)| queue.process.as_str()).collect();
            processes.dedup();
            match processes[..] {
                [] => {}
                [process] => return [address, process.to_owned()],
                _ => return [address, String::new()],
            }
        }
        [upstream.0.clone(), String::new()]
    }

    pub(super) fn gather(&mut self, scrape: Scrape) -> [MetricFamily; 4] {
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
        let labels = &["socket", "process"];
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
                    .map(|(labels, counter)| (labels.clone(), counter.export(scrape))),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    fn listening(listeners: &mut Listeners, address: &str, netns: u32, process: &str, gone: bool) {
        let listener = Listener {
            address: sample::address(address),
            netns,
            pid: 7,
            length: 0,
            limit: 128,
            peak: 0,
            somaxconn: None,
            since: None,
            gone,
        };
        listeners.on_listener(&listener, process);
    }

    fn full(listeners: &mut Listeners, upstream: &str, cause: Cause) {
        let mut attempt = sample::verdict().attempts.remove(0);
        attempt.upstream = sample::address(upstream);
        attempt.cause = Some(cause);
        listeners.on_attempts(&[attempt]);
    }

    /// What is exported of the overflows: socket, process, count.
    fn overflows(listeners: &mut Listeners) -> Vec<(String, String, f64)> {
        let [.., family] = listeners.gather(Scrape::WHOLE);
        let metrics = family.get_metric().iter();
        let of = |metric: &prometheus::proto::Metric, name: &str| {
            let mut labels = metric.get_label().iter();
            let label = labels.find(|label| label.name() == name);
            label.map_or_else(String::new, |label| label.value().to_owned())
        };
        metrics
            .map(|metric| {
                let count = metric.get_counter().get_value();
                (of(metric, "socket"), of(metric, "process"), count)
            })
            .collect()
    }

    fn labels(upstream: &str, listening_at: &[(&str, u32, &str)]) -> (String, String) {
        let mut listeners = Listeners::default();
        for (address, netns, process) in listening_at {
            listening(&mut listeners, address, *netns, process, false);
        }
        full(&mut listeners, upstream, Cause::TcpAcceptQueueFull);
        let mut counted = overflows(&mut listeners);
        counted.retain(|(_, _, count)| *count > 0.0);
        assert_eq!(counted.len(), 1, "{counted:?}");
        let (socket, process, count) = counted.remove(0);
        assert_eq!(count, 1.0);
        (socket, process)
    }

    fn pair(socket: &str, process: &str) -> (String, String) {
        (socket.to_owned(), process.to_owned())
    }

    #[test]
    fn an_overflow_counts_for_the_listener_that_takes_the_call() {
        let wildcard = ("0.0.0.0:9000", 1, "gunicorn");
        let dual = ("[::]:9000", 1, "node");
        let own = ("10.0.0.5:9000", 1, "uwsgi");
        let at = |listening: &[(&str, u32, &str)]| labels("10.0.0.5:9000", listening);
        assert_eq!(at(&[wildcard]), pair("0.0.0.0:9000", "gunicorn"));
        assert_eq!(at(&[dual]), pair("[::]:9000", "node"));
        assert_eq!(at(&[wildcard, dual]), pair("0.0.0.0:9000", "gunicorn"));
        assert_eq!(at(&[wildcard, dual, own]), pair("10.0.0.5:9000", "uwsgi"));
        // Of another port, another address, or none.
        let others = [
            ("0.0.0.0:9001", 1, "php-fpm"),
            ("10.0.0.6:9000", 1, "php-fpm"),
        ];
        assert_eq!(at(&others), pair("10.0.0.5:9000", ""));
        assert_eq!(
            labels("[fd00::5]:9000", &[wildcard]),
            pair("[fd00::5]:9000", "")
        );
        assert_eq!(labels("[fd00::5]:9000", &[dual]), pair("[::]:9000", "node"));
        let unix = ("unix:/run/app.sock", 1, "gunicorn");
        assert_eq!(labels(unix.0, &[unix]), pair(unix.0, "gunicorn"));
    }

    #[test]
    fn no_process_is_named_where_namespaces_have_different_ones() {
        let (one, other) = (("0.0.0.0:9000", 1, "gunicorn"), ("0.0.0.0:9000", 2, "node"));
        assert_eq!(
            labels("10.0.0.5:9000", &[one, other]),
            pair("0.0.0.0:9000", "")
        );
        let twin = ("0.0.0.0:9000", 2, "gunicorn");
        assert_eq!(
            labels("10.0.0.5:9000", &[one, twin]),
            pair("0.0.0.0:9000", "gunicorn")
        );
    }

    #[test]
    fn overflows_are_there_from_zero_and_outlive_their_listener() {
        let mut listeners = Listeners::default();
        let zero = |count| vec![("0.0.0.0:9000".to_owned(), "node".to_owned(), count)];
        listening(&mut listeners, "0.0.0.0:9000", 1, "node", false);
        assert_eq!(overflows(&mut listeners), zero(0.0));
        full(&mut listeners, "127.0.0.1:9000", Cause::ConnectionRefused);
        assert_eq!(overflows(&mut listeners), zero(0.0));
        full(&mut listeners, "127.0.0.1:9000", Cause::TcpAcceptQueueFull);
        listening(&mut listeners, "0.0.0.0:9000", 1, "node", true);
        assert_eq!(overflows(&mut listeners), zero(1.0));
        let [lengths, ..] = listeners.gather(Scrape::WHOLE);
        assert!(lengths.get_metric().is_empty());
    }
}
