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
