//! Connects that failed for more requests than the one they were begun for. Pure.
//!
//! Envoy gives any connection of a pool to any request that waits for one. When a connect fails, all
//! that wait fail with it, and the pool's other connects are given up. Varnish makes no other connect
//! for a while after one that was refused: what is asked meanwhile fails at once, without any.

use std::collections::{BTreeSet, VecDeque};

use super::exchange::Exchange;
use super::host::folder;
use super::moments::{LATE, at_once, between, is_unconnected};
use super::{Key, Tracker};
use crate::diagnose::Tried;
use crate::signal::{
    Address, Attempt, End, FlowId, Nanos, Opening, Response, Software, Source, Untied,
};

/// For how long Varnish holds back after such an error, by default.
fn holds_back(errno: i32) -> Option<Nanos> {
    match errno {
        // ECONNREFUSED, ENETUNREACH: `backend_remote_error_holddown`.
        111 | 101 => Some(250_000_000),
        // EADDRNOTAVAIL, EACCES, EPERM: `backend_local_error_holddown`.
        99 | 13 | 1 => Some(10_000_000_000),
        _ => None,
    }
}

/// Far more than fail at one moment.
const KEPT: usize = 64;
/// Upstreams named where it is not clear which one was meant.
const NAMED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Connects {
    recent: VecDeque<Tried>,
    /// Up to then some were forgotten.
    forgotten: Nanos,
    /// What was asked for that some of these were made for, of exchanges that are decided.
    led: VecDeque<(FlowId, Opening)>,
}

impl Connects {
    pub(super) fn ended(&mut self, at: Nanos, source: Source, attempt: &Attempt) {
        if !matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp) {
            return;
        }
        if self.recent.len() >= KEPT
            && let Some(oldest) = self.recent.pop_back()
        {
            self.forgotten = self.forgotten.max(oldest.at);
        }
        self.recent.push_front(Tried {
            at,
            source,
            attempt: attempt.clone(),
            closed: None,
            said: None,
        });
    }

    /// This exchange is decided.
    pub(super) fn led_to(&mut self, exchange: &Exchange) {
        let Some(request) = exchange.request() else {
            return;
        };
        for tried in exchange
            .attempts
            .iter()
            .filter(|t| is_unconnected(&t.attempt))
        {
            self.led.truncate(KEPT - 1);
            self.led.push_front((tried.attempt.flow, request.clone()));
        }
    }

    /// The one that decided: it failed by itself, or waited longest. `None` where the proxy called
    /// several upstreams.
    fn deciding(&self, at: Nanos, response: &Response) -> Option<&Tried> {
        // Each of Envoy's threads has pools of its own; its health checks run in another.
        let own = |tried: &&Tried| {
            let attempt = &tried.attempt;
            (attempt.proxy, attempt.thread) == (response.proxy, response.thread)
        };
        // Of one begun after the request came a thread that has no CPU tells late.
        let since = response.request_at.unwrap_or(at);
        let late =
            |tried: &Tried| since <= tried.attempt.began && tried.at <= at && at - tried.at <= LATE;
        let now = |tried: &&Tried| own(tried) && at_once(tried.at, at);
        let any = self.recent.iter().any(|tried| now(&tried));
        let here = |tried: &&Tried| match any {
            true => now(tried),
            false => own(tried) && late(tried),
        };
        let deciding = self.recent.iter().filter(here).max_by_key(|tried| {
            let failed = matches!(tried.attempt.end, End::ConnectFailed { .. });
            (failed, tried.at.saturating_sub(tried.attempt.began))
        })?;
        let one = |tried: &Tried| tried.attempt.upstream == deciding.attempt.upstream;
        self.recent.iter().filter(here).all(one).then_some(deciding)
    }

    /// Those after which Varnish held back as this was asked and answered at once, the last one first. None
    /// where a connect failed meanwhile that is not held against anybody: it may have been this one's.
    fn held_back(&self, at: Nanos, response: &Response) -> Vec<&Tried> {
        let amid = |asked: Nanos| {
            self.recent.iter().any(|tried| {
                let held = match tried.attempt.end {
                    End::ConnectFailed { errno } => holds_back(errno).is_some(),
                    _ => false,
                };
                let own = tried.attempt.proxy == response.proxy;
                own && !held && between(tried.at, asked, at)
            })
        };
        let asked = response.request_at;
        let asked = asked.filter(|asked| at <= asked + LATE && !amid(*asked));
        let held = |tried: &&Tried, asked: Nanos| {
            let own = tried.attempt.proxy == response.proxy && tried.at <= at;
            match tried.attempt.end {
                End::ConnectFailed { errno } if own => {
                    holds_back(errno).is_some_and(|time| asked <= tried.at + time)
                }
                _ => false,
            }
        };
        let of = |asked| self.recent.iter().filter(move |tried| held(tried, asked));
        asked.into_iter().flat_map(of).collect()
    }

    /// Whether whichever connect Varnish held back for was this one, or like it.
    pub(super) fn only_held(&self, tried: &Tried, at: Nanos, response: &Response) -> bool {
        let this = &tried.attempt;
        let held = self.held_back(at, response);
        let same = |held: &&Tried| {
            (held.attempt.end, &held.attempt.upstream) == (this.end, &this.upstream)
        };
        !held.is_empty() && held.iter().all(same) && self.knows_held(response)
    }

    /// None was forgotten for which Varnish may have held back when this was asked.
    pub(super) fn knows_held(&self, response: &Response) -> bool {
        let longest = holds_back(99).unwrap_or(0);
        let asked = response.request_at.unwrap_or(0);
        self.forgotten == 0 || self.forgotten.saturating_add(longest) < asked
    }

    /// Whether each connect of its proxy to the same upstream that failed from its end until this moment
    /// ended as this one did.
    pub(super) fn ended_alike(&self, tried: &Tried, at: Nanos) -> bool {
        let this = &tried.attempt;
        self.all(tried, at, |other| {
            other.upstream != this.upstream || other.end == this.end
        })
    }

    /// Whether each connect of its proxy that failed then did, and called the same upstream.
    pub(super) fn only(&self, tried: &Tried, at: Nanos) -> bool {
        let this = &tried.attempt;
        self.all(tried, at, |other| {
            (other.end, &other.upstream) == (this.end, &this.upstream)
        })
    }

    /// The same, of all that failed since this moment.
    pub(super) fn only_since(&self, tried: &Tried, from: Nanos, at: Nanos) -> bool {
        let this = &tried.attempt;
        let own = |other: &&Tried| {
            other.attempt.proxy == this.proxy && other.at >= from && other.attempt.began <= at
        };
        let mut then = self.recent.iter().filter(own);
        then.all(|other| (other.attempt.end, &other.attempt.upstream) == (this.end, &this.upstream))
    }

    /// Whether each connect of its proxy that failed then ended as this one did, whomever it called.
    pub(super) fn all_ended_so(&self, tried: &Tried, at: Nanos) -> bool {
        self.all(tried, at, |other| other.end == tried.attempt.end)
    }

    fn all(&self, tried: &Tried, at: Nanos, like: impl Fn(&Attempt) -> bool) -> bool {
        let from = tried.at.min(at);
        // One that was begun after that moment is of a later request.
        let then = |other: &&Tried| {
            let own = other.attempt.proxy == tried.attempt.proxy;
            own && between(other.at, from, at) && other.attempt.began <= at
        };
        let known = !between(self.forgotten, from, at) && self.forgotten < from;
        let mut then = self.recent.iter().filter(then);
        known && then.all(|other| like(&other.attempt))
    }
}

impl Tracker {
    /// Adds the connect that decided a response which had none of its own, or one that was given up
    /// with the others.
    pub(super) fn share_connect(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let Some((at, Source::Kernel, response)) = &exchange.response else {
            return;
        };
        let own = match &exchange.attempts[..] {
            [] => None,
            [own] if own.attempt.end == End::ConnectGivenUp => Some(own.attempt.flow),
            // It has waited for others of the pool since.
            [own] if is_unconnected(&own.attempt) && own.at.saturating_add(LATE) < *at => {
                Some(own.attempt.flow)
            }
            _ => return,
        };
        let deciding = match self.proxy_of(exchange) {
            // What was refused of an answer is a 502.
            Some(Software::Envoy) if response.status != Some(502) => {
                self.connects.deciding(*at, response)
            }
            Some(Software::Varnish) => return self.hold_back(key),
            _ => return,
        };
        let Some(mut tried) = deciding.cloned() else {
            return;
        };
        if own == Some(tried.attempt.flow) {
            return;
        }
        tried.attempt.downstream = None;
        if let Some(exchange) = self.open.get_mut(&key) {
            exchange.adopt(tried);
        }
    }

    /// Whether this connect was made for a request below the same folder.
    fn was_for_alike(&self, connect: &Tried, response: &Response) -> bool {
        let flow = connect.attempt.flow;
        let open = self.by_flow.get(&flow).and_then(|key| self.open.get(key));
        let led = || self.connects.led.iter().find(|(of, _)| *of == flow);
        let asked = open.and_then(Exchange::request);
        let asked = asked.or_else(|| led().map(|(_, asked)| asked));
        folder(asked).is_some() && folder(asked) == folder(response.request.as_ref())
    }

    /// Gives a response of Varnish's for which nobody was asked the connect after which it held back. Where
    /// that was so for several upstreams, one of these would have been called.
    fn hold_back(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key).filter(|e| e.attempts.is_empty()) else {
            return;
        };
        let Some((at, _, response)) = &exchange.response else {
            return;
        };
        if self.moments.tried_meanwhile(*at, response) {
            return;
        }
        let mut held = self.connects.held_back(*at, response);
        // Its line may say which upstream it was, by a name that the VCL may have for another one since.
        let told = self.try_told(exchange);
        let told = told.and_then(|told| self.host.upstream_told(response.proxy, told));
        if let Some(told) = told {
            held.retain(|held| held.attempt.upstream == told);
        } else if self.host.has_several_backends(response.proxy) {
            // One of them was refused, of which this request need know nothing; so may one have been that was
            // checked.
            held.retain(|held| self.was_for_alike(held, response));
        }
        let Some(&last) = held.first() else {
            return;
        };
        let (mut tried, at) = (last.clone(), *at);
        let upstreams: BTreeSet<Address> = (held.iter())
            .map(|held| held.attempt.upstream.clone())
            .collect();
        let end = last.attempt.end;
        let alike = |held: &&Tried| held.attempt.end == end && !held.attempt.upstream.is_unix();
        let alike = held.iter().all(alike);
        let Some(exchange) = self.open.get_mut(&key) else {
            return;
        };
        if upstreams.len() == 1 {
            tried.attempt.downstream = None;
            exchange.adopt(tried);
        } else if let (Some((.., response)), true) = (&mut exchange.response, alike) {
            response.untied = Some(Untied {
                at,
                end,
                upstreams: upstreams.into_iter().take(NAMED).collect(),
                captured: true,
                waited_ns: 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::cause::Cause;
    use crate::signal::Nanos;
    use crate::track::{Decided, Tracker};
    use crate::verdict::Confidence;

    const MS: Nanos = 1_000_000;

    fn connect(flow: u64, upstream: &str, began: Nanos, end: Value) -> Value {
        json!({
            "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": 7, "downstream": null,
            "retry_of": null, "upstream": upstream, "local": null, "began": began,
            "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
            "request": null, "received": 0, "response": null, "end": end, "tcp": null,
            "peer": null, "queue": null,
        })
    }

    /// A response that waited for a connection of the pool, of its own or not.
    fn decided(software: &str, connects: Vec<Value>) -> Decided {
        decided_at(software, connects, (100 * MS + 1, 503))
    }

    fn decided_at(software: &str, connects: Vec<Value>, answer: (Nanos, u16)) -> Decided {
        decided_of(software, ended(connects), answer)
    }

    fn ended(connects: Vec<Value>) -> Vec<(Nanos, Value)> {
        let ended = connects.into_iter().map(|connect| (100 * MS, connect));
        ended.collect()
    }

    /// The same, with when each connect ended.
    fn decided_of(
        software: &str,
        connects: Vec<(Nanos, Value)>,
        (answered, status): (Nanos, u16),
    ) -> Decided {
        asked_at(90 * MS, software, connects, (answered, status))
    }

    fn asked_at(
        asked: Nanos,
        software: &str,
        connects: Vec<(Nanos, Value)>,
        (answered, status): (Nanos, u16),
    ) -> Decided {
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "proxy", "software": software,
            "settings": [], "started": 0, "netns": 0, "sagemaker": false,
        });
        let response = json!({
            "kind": "response_sent", "proxy": 1, "thread": 7, "downstream": 5, "ordinal": 1,
            "status": status, "client": null, "proxy_address": null, "request_at": asked,
            "request": {"protocol": "http_request", "method": "GET", "path": "/a",
                        "path_complete": true, "host": null},
            "adjacent": null, "last_attempt": null,
        });
        let mut tracker = Tracker::default();
        let mut out = Vec::new();
        let facts = std::iter::once((MS, process))
            .chain(connects)
            .chain([(answered, response)]);
        for (at, fact) in facts {
            let signal = json!({"at": at, "source": "kernel", "fact": fact});
            out.extend(tracker.observe(&serde_json::from_value(signal).unwrap()));
        }
        out.extend(tracker.finish());
        out.retain(|decided| decided.response.is_some());
        out.remove(0)
    }

    /// Envoy tries again with the pool's next connect, which was begun for another request.
    #[test]
    fn who_has_waited_since_fails_with_the_connect_that_failed_as_it_was_answered() {
        let refused = || json!({"how": "connect_failed", "errno": 111});
        let link = json!({
            "flow": 5, "ordinal": 1, "order": "after_read", "client": null,
            "proxy_address": null, "state": "open", "read_before_ns": null,
            "request": {"protocol": "http_request", "method": "GET", "path": "/a",
                        "path_complete": true, "host": null},
        });
        let mut own = connect(1, "10.0.0.2:80", 91 * MS, refused());
        own["downstream"] = link;
        let of = |software: &str, answered: Nanos| {
            let other = connect(2, "10.0.0.2:80", 80 * MS, refused());
            let connects = vec![(100 * MS, own.clone()), (answered, other)];
            let told = decided_of(software, connects, (answered + 1, 503));
            told.attempts
                .iter()
                .map(|t| t.attempt.flow)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("envoy", 200 * MS), [1, 2]);
        assert_eq!(of("envoy", 120 * MS), [1]);
        assert_eq!(of("haproxy", 200 * MS), [1]);
    }

    #[test]
    fn who_waits_for_a_pool_fails_with_its_connect() {
        let refused = || json!({"how": "connect_failed", "errno": 111});
        let given_up = || json!({"how": "connect_given_up"});
        // Begun before the request came: not its own.
        let failed = || connect(1, "10.0.0.2:80", 80 * MS, refused());
        for own in [None, Some(connect(2, "10.0.0.2:80", 91 * MS, given_up()))] {
            let connects = own.into_iter().chain([failed()]).collect();
            let shared = decided("envoy", connects);
            assert_eq!(shared.diagnosis.cause, Cause::ConnectionRefused);
            assert_eq!(shared.diagnosis.confidence, Confidence::Likely);
        }
        // A thread that has no CPU tells late of what began when the request had come.
        let began = |at: Nanos| vec![connect(1, "10.0.0.2:80", at, refused())];
        let late = |at: Nanos, status| {
            decided_at("envoy", began(at), (120 * MS, status))
                .diagnosis
                .cause
        };
        assert_eq!(late(91 * MS, 503), Cause::ConnectionRefused);
        assert_eq!(late(80 * MS, 503), Cause::Unknown);
        assert_eq!(late(91 * MS, 502), Cause::Unknown);
        // Which pool it was cannot be told; others have none of that kind.
        let two = vec![failed(), connect(3, "10.0.0.3:80", 80 * MS, refused())];
        assert_eq!(decided("envoy", two).diagnosis.cause, Cause::Unknown);
        assert_eq!(
            decided("haproxy", vec![failed()]).diagnosis.cause,
            Cause::Unknown
        );
    }

    /// Seen of Varnish 7.1: 503 within a millisecond, and no connect.
    #[test]
    fn who_holds_back_after_a_refusal_fails_of_it() {
        let failed = |upstream: &str, errno: i32| {
            let end = json!({"how": "connect_failed", "errno": errno});
            connect(errno as u64, upstream, 99 * MS, end)
        };
        let told = |software: &str, connects: Vec<Value>, asked: Nanos, took: Nanos| {
            let decided = asked_at(asked, software, ended(connects), (asked + took, 503));
            (decided.diagnosis.cause, decided.diagnosis.confidence)
        };
        let refused = || vec![failed("10.0.0.2:80", 111)];
        let varnish = |connects, asked| told("varnish", connects, asked, MS / 10);
        let (likely, unknown) = (Confidence::Likely, (Cause::Unknown, Confidence::Unknown));
        assert_eq!(
            varnish(refused(), 340 * MS),
            (Cause::ConnectionRefused, likely)
        );
        assert_eq!(varnish(refused(), 360 * MS), unknown);
        assert_eq!(told("go", refused(), 340 * MS, MS / 10), unknown);
        // Something took its time: an attempt that was not seen, say.
        assert_eq!(told("varnish", refused(), 340 * MS, 60 * MS), unknown);
        // A route that is missing, and one that leads to nobody: after that it connects again.
        assert_eq!(
            varnish(vec![failed("10.0.0.2:80", 101)], 340 * MS),
            (Cause::HostUnreachable, likely)
        );
        assert_eq!(varnish(vec![failed("10.0.0.2:80", 113)], 340 * MS), unknown);
        // Local errors are held against an upstream for longer.
        assert_eq!(
            varnish(vec![failed("10.0.0.2:80", 99)], 9000 * MS),
            (Cause::PortsExhausted, likely)
        );
        // Which of two is not told; nor is the cause, where they differ, or one is a Unix socket.
        let two = |upstream: &str, errno: i32| {
            let other = Value::from(2);
            let mut failed = vec![failed("10.0.0.2:80", 111), failed(upstream, errno)];
            failed[1]["flow"] = other;
            asked_at(340 * MS, "varnish", ended(failed), (341 * MS, 503))
        };
        let alike = two("10.0.0.3:80", 111);
        assert_eq!(alike.diagnosis.cause, Cause::ConnectionRefused);
        assert_eq!(alike.diagnosis.confidence, likely);
        assert!(alike.attempts.is_empty());
        assert_eq!(two("10.0.0.3:80", 101).diagnosis.cause, Cause::Unknown);
        assert_eq!(two("unix:/a.sock", 111).diagnosis.cause, Cause::Unknown);
        // A connect failed meanwhile of what is held against nobody.
        let mut missing = failed("unix:/a.sock", 2);
        missing["flow"] = 9.into();
        let both = vec![refused().remove(0), missing];
        assert_eq!(told("varnish", both, 100 * MS + MS, MS), unknown);
        // The same was asked of somebody meanwhile.
        let mut other = connect(7, "10.0.0.4:80", 98 * MS, json!({"how": "peer_closed"}));
        other["request"] = json!({
            "at": 98 * MS, "bytes": 50, "write_errno": null,
            "opening": {"protocol": "http_request", "method": "GET", "path": "/a",
                        "path_complete": true, "host": null},
        });
        let both = [refused(), vec![other]].concat();
        assert_eq!(told("varnish", both, 99 * MS + MS / 2, MS), unknown);
        assert_eq!(
            told("varnish", refused(), 99 * MS + MS / 2, MS),
            (Cause::ConnectionRefused, likely)
        );
    }
}
