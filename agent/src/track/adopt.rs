//! Finds the attempt of a response whose proxy works on several requests at once. Pure.
//!
//! What such a thread read last says nothing of what it sends next, but what it sends does: the same
//! method and path. Connects that failed carry no request; the response follows at once. Others may be
//! meant that are alike, so that nothing is proven by it.

use super::exchange::Exchange;
use super::{Key, SETTLE, Tracker};
use crate::diagnose::Tried;
use crate::signal::{Attempt, End, Nanos, Opening, Response, Software, Source};

/// With more exchanges open than this none is looked for: it would take long, and be doubtful.
const CROWD: usize = 2048;
/// A connect's failure and the response that it led to are told so soon after each other.
const AT_ONCE: Nanos = 5_000_000;

/// By what an attempt fits a response, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Content,
    Time,
}

impl Tracker {
    /// Such proxies answer before they end the attempt. nginx works on one request at a time.
    pub(super) fn awaits_attempt(&self, key: Key) -> bool {
        let Some(exchange) = self.open.get(&key) else {
            return false;
        };
        let in_turn = self.proxy_of(exchange) == Some(Software::Nginx);
        exchange.attempts.is_empty() && exchange.source() == Source::Kernel && !in_turn
    }

    /// Gives a response without attempts the one that fits it best, of those that no response has.
    pub(super) fn adopt(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let Some((at, _, response)) = &exchange.response else {
            return;
        };
        if !exchange.attempts.is_empty() || self.open.len() > CROWD {
            return;
        }
        let fits = |(key, other): (&Key, &Exchange)| {
            let alone = matches!(key, Key::Attempt(..)) && other.response.is_none();
            let [tried] = &other.attempts[..] else {
                return None;
            };
            let fit = fit(tried, response, *at).filter(|_| alone)?;
            Some((fit, tried.at.abs_diff(*at), *key))
        };
        let Some((.., found)) = self.open.iter().filter_map(fits).min() else {
            return;
        };
        let Some(mut tried) = self.open.remove(&found).and_then(|mut e| e.attempts.pop()) else {
            return;
        };
        tried.attempt.downstream = None;
        self.by_flow.insert(tried.attempt.flow, key);
        if let Some(exchange) = self.open.get_mut(&key) {
            exchange.adopt(tried);
        }
    }
}

fn fit(tried: &Tried, response: &Response, at: Nanos) -> Option<Fit> {
    let attempt = &tried.attempt;
    let near = tried.at.abs_diff(at);
    let began = response.request_at.unwrap_or(at) <= attempt.began && attempt.began <= at;
    if !began || attempt.proxy != response.proxy {
        return None;
    }
    if let Some(asked) = &attempt.request {
        let same = same_request(&asked.opening, response.request.as_ref()?);
        return (same && near <= SETTLE).then_some(Fit::Content);
    }
    let failed = matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp);
    let at_once = attempt.thread == response.thread && near <= AT_ONCE;
    (failed && at_once && led_by_none(attempt)).then_some(Fit::Time)
}

/// It was not begun for the request of another response.
fn led_by_none(attempt: &Attempt) -> bool {
    attempt.downstream.is_none() && attempt.retry_of.is_none()
}

fn same_request(one: &Opening, other: &Opening) -> bool {
    match (one, other) {
        (
            Opening::HttpRequest {
                method: a, path: p, ..
            },
            Opening::HttpRequest {
                method: b, path: q, ..
            },
        ) => a == b && p == q,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::signal::Signal;
    use crate::track::Decided;
    use crate::verdict::{Confidence, Kind};

    const MS: Nanos = 1_000_000;

    fn asked(path: &str) -> Value {
        json!({
            "protocol": "http_request", "method": "GET", "path": path, "path_complete": true,
            "host": null,
        })
    }

    /// HAProxy read several clients before it began this attempt.
    fn attempt(flow: u64, thread: u32, request: Value, end: Value) -> Value {
        json!({
            "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": thread,
            "downstream": null, "retry_of": null, "upstream": "10.0.0.2:9009", "local": null,
            "began": 10 * MS, "connected": null, "reused": false, "requests_before": 0,
            "idle_ns": null, "request": request, "received": 0, "response": null, "end": end,
            "tcp": null, "peer": null, "queue": null,
        })
    }

    fn sent(path: &str) -> Value {
        json!({"at": 10 * MS, "bytes": 50, "opening": asked(path), "write_errno": null})
    }

    fn response(downstream: u64, path: &str) -> Value {
        json!({
            "kind": "response_sent", "proxy": 1, "thread": 7, "downstream": downstream,
            "ordinal": 1, "status": 504, "client": null, "proxy_address": null,
            "request": asked(path), "request_at": 9 * MS, "adjacent": null, "last_attempt": null,
        })
    }

    fn decided(signals: &[(Nanos, Value)]) -> Vec<Decided> {
        let mut tracker = Tracker::default();
        let mut out = Vec::new();
        for (at, fact) in signals {
            let signal = json!({"at": at, "source": "kernel", "fact": fact});
            let signal: Signal = serde_json::from_value(signal).unwrap();
            out.extend(tracker.observe(&signal));
        }
        out.extend(tracker.finish());
        out.retain(|decided| decided.kind == Kind::Verdict);
        out
    }

    #[test]
    fn what_was_asked_tells_whose_attempt_it_was() {
        let given_up = || json!({"how": "given_up"});
        let out = decided(&[
            (2000 * MS, response(5, "/a")),
            (2000 * MS, response(6, "/b")),
            (2001 * MS, attempt(1, 7, sent("/b"), given_up())),
            (2001 * MS, attempt(2, 7, sent("/a"), given_up())),
        ]);
        assert_eq!(out.len(), 2);
        for verdict in out {
            let (_, _, response) = verdict.response.as_ref().unwrap();
            let flow = if response.downstream == 5 { 2 } else { 1 };
            assert_eq!(verdict.attempts[0].attempt.flow, flow);
            assert_ne!(verdict.diagnosis.confidence, Confidence::Proven);
        }
    }

    #[test]
    fn a_connect_that_failed_belongs_to_what_its_thread_said_at_once() {
        let refused = || json!({"how": "connect_failed", "errno": 111});
        let after = |time: Nanos, thread| {
            let out = decided(&[
                (2000 * MS, response(5, "/a")),
                (2000 * MS + time, attempt(1, thread, Value::Null, refused())),
            ]);
            out[0].attempts.len()
        };
        assert_eq!(after(MS / 10, 7), 1);
        assert_eq!(after(MS / 10, 8), 0, "another thread's");
        assert_eq!(after(20 * MS, 7), 0, "too late");
    }
}
