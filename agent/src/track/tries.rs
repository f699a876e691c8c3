//! Finds the further tries of a request whose proxy tries again by itself, on whichever thread. Pure.
//!
//! Go sends a request anew as soon as its connection has broken, so each try begins where the one before
//! ended, with the same method and path, and the last one ends as the proxy answers. What its thread read
//! last says nothing of it.

use super::exchange::Exchange;
use super::moments::at_once;
use super::{Key, SETTLE, Tracker};
use crate::diagnose::{Tried, same_request};
use crate::signal::{Nanos, Response, Source};

/// More tries than any proxy makes by itself.
const TRIES: usize = 8;

impl Tracker {
    /// Gives an exchange whose last known try had ended before it was answered those that followed, up to
    /// the answer; none, where at any step more than one may be meant.
    pub(super) fn adopt_tries(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let (Some((at, Source::Kernel, response)), Some(last)) =
            (&exchange.response, exchange.attempts.last())
        else {
            return;
        };
        let Some(tries) = self.tries_after(last, *at, response) else {
            return;
        };
        for found in tries {
            let attempts = self.open.remove(&found).map(|other| other.attempts);
            for mut tried in attempts.into_iter().flatten() {
                tried.attempt.downstream = None;
                self.by_flow.insert(tried.attempt.flow, key);
                if let Some(exchange) = self.open.get_mut(&key) {
                    exchange.adopt(tried);
                }
            }
        }
    }

    /// The tries that follow this one, each the only one that can, if the last ended at this answer.
    fn tries_after(&self, tried: &Tried, at: Nanos, response: &Response) -> Option<Vec<Key>> {
        let mut ended = tried.at;
        let mut tries = Vec::new();
        // A connect carries no request by which it could be found again.
        tried.attempt.request.as_ref()?;
        while !at_once(ended, at) && ended < at && tries.len() < TRIES {
            let follows = |tried: &Tried| {
                let attempt = &tried.attempt;
                let begun = attempt.began >= ended && at_once(attempt.began, ended);
                let same = attempt.proxy == response.proxy
                    && same_request(attempt, response.request.as_ref());
                let over = tried.at > ended && (tried.at <= at || at_once(tried.at, at));
                begun && same && over
            };
            let untied = self.open.iter().filter_map(untied);
            let mut all = untied.filter(|(_, tried)| follows(tried));
            let (found, next) = all.next()?;
            if all.next().is_some() || self.may_be_anothers(next, response) {
                return None;
            }
            tries.push(found);
            ended = next.at;
        }
        at_once(ended, at).then_some(tries)
    }

    /// Another client was answered for the same request, and what led to that has yet to be found.
    fn may_be_anothers(&self, tried: &Tried, response: &Response) -> bool {
        self.open.values().any(|other| {
            let Some((at, _, answer)) = &other.response else {
                return false;
            };
            let this = (answer.downstream, answer.ordinal);
            let other_client = this != (response.downstream, response.ordinal);
            let near = tried.at.abs_diff(*at) <= SETTLE;
            let same = same_request(&tried.attempt, answer.request.as_ref());
            other_client && near && same && other.attempts.is_empty()
        })
    }
}

/// The attempt of which no response is known.
fn untied<'a>((key, exchange): (&Key, &'a Exchange)) -> Option<(Key, &'a Tried)> {
    let [tried] = &exchange.attempts[..] else {
        return None;
    };
    let own = matches!(key, Key::Attempt(..)) && exchange.response.is_none();
    own.then_some((*key, tried))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::signal::Nanos;
    use crate::track::Tracker;

    const MS: Nanos = 1_000_000;

    fn asked() -> Value {
        json!({
            "protocol": "http_request", "method": "GET", "path": "/a", "path_complete": true,
            "host": null,
        })
    }

    /// Sent at once, it was read, and its connection closed 10 ms later.
    fn sent(flow: u64, began: Nanos, first: bool) -> (Nanos, Value) {
        let link = first.then(|| {
            json!({
                "flow": 5, "ordinal": 1, "order": "after_read", "client": null,
                "proxy_address": null, "request": asked(), "state": "open",
                "read_before_ns": null,
            })
        });
        let fact = json!({
            "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": flow, "downstream": link,
            "retry_of": null, "upstream": "10.0.0.2:80", "local": null, "began": began,
            "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
            "request": {"at": began, "bytes": 50, "opening": asked(), "write_errno": null},
            "received": 0, "response": null, "end": {"how": "peer_closed"}, "tcp": null,
            "peer": null, "queue": null,
        });
        (began + 10 * MS, fact)
    }

    fn answered(downstream: u64, at: Nanos) -> (Nanos, Value) {
        let fact = json!({
            "kind": "response_sent", "proxy": 1, "thread": 9, "downstream": downstream,
            "ordinal": 1, "status": 502, "client": null, "proxy_address": null,
            "request": asked(), "request_at": 99 * MS, "adjacent": null, "last_attempt": null,
        });
        (at, fact)
    }

    /// The connections of the tries that the first client's exchange has been given.
    fn tries(signals: &[(Nanos, Value)]) -> Vec<u64> {
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "caddy", "software": "caddy",
            "settings": [], "started": 0, "netns": 0, "sagemaker": false,
        });
        let mut signals = signals.to_vec();
        signals.sort_by_key(|(at, _)| *at);
        signals.insert(0, (MS, process));
        let mut tracker = Tracker::default();
        let mut out = Vec::new();
        for (at, fact) in signals {
            let signal = json!({"at": at, "source": "kernel", "fact": fact});
            out.extend(tracker.observe(&serde_json::from_value(signal).unwrap()));
        }
        out.extend(tracker.finish());
        let this = out
            .iter()
            .find(|d| matches!(&d.response, Some((.., r)) if r.downstream == 5))
            .expect("a verdict");
        this.attempts.iter().map(|t| t.attempt.flow).collect()
    }

    #[test]
    fn each_try_begins_where_the_one_before_ended() {
        let first = || sent(11, 100 * MS, true);
        let second = || sent(12, 110 * MS + 1, false);
        let third = || sent(13, 120 * MS + 2, false);
        let answer = || answered(5, 130 * MS + 3);
        let all = [first(), second(), third(), answer()];
        assert_eq!(tries(&all), [11, 12, 13]);
        // One is missing between.
        assert_eq!(tries(&[first(), third(), answer()]), [11]);
        // What came last is not what was answered.
        assert_eq!(tries(&[first(), second(), answer()]), [11]);
        // Another client's, begun at the same moment: which of the two was it?
        let twin = sent(14, 110 * MS + 2, false);
        assert_eq!(tries(&[first(), second(), third(), twin, answer()]), [11]);
        // Another client was answered then, and nothing is known to have led to it.
        let other = answered(6, 130 * MS + 4);
        assert_eq!(tries(&[first(), second(), third(), answer(), other]), [11]);
    }
}
