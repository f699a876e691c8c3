//! Finds the attempt of a response whose proxy works on several requests at once. Pure.
//!
//! What such a thread read last says nothing of what it sends next, but what it sends does: the same
//! method and path. Connects that failed carry no request; they began when it was read, and the
//! response follows at once. Others may be meant that are alike: what is proven by it is told by
//! `moments`.

use super::exchange::Exchange;
use super::moments::at_once;
use super::{Key, SETTLE, Tracker};
use crate::diagnose::{Tried, same_request};
use crate::signal::{Attempt, End, LinkOrder, Nanos, Opening, Response, Software, Source};

/// With more exchanges open than this none is looked for: it would take long, and be doubtful.
const CROWD: usize = 2048;
/// A connect's failure and the response that it led to are told so soon after each other.
const SOON: Nanos = 5_000_000;

/// By what an attempt fits a response, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Content,
    Thread,
    Time,
}

/// Where the C library asks the name service, which is no upstream.
const NSCD: &str = "unix:/var/run/nscd/socket";

/// How a proxy's threads share its work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// Each finishes with what it has read before it reads on.
    InTurn,
    /// Each serves one client after another, and waits for each.
    Blocking,
    /// Each has its own clients, several at once.
    Own,
    /// Any of them goes on with what another began, as in Go.
    Any,
}

impl Threads {
    fn of(software: Option<Software>) -> Threads {
        match software {
            Some(Software::Nginx) => Threads::InTurn,
            Some(Software::Apache) => Threads::Blocking,
            Some(Software::Caddy | Software::Traefik | Software::Go | Software::Other) | None => {
                Threads::Any
            }
            Some(_) => Threads::Own,
        }
    }
}

impl Tracker {
    pub(super) fn threads(&self, exchange: &Exchange) -> Threads {
        Threads::of(self.proxy_of(exchange))
    }

    /// Whether its proxy may have tried again, and been answered well, without a trace of it here: nginx
    /// alone is seen to do so.
    pub(super) fn tries_again_unseen(&self, exchange: &Exchange) -> bool {
        exchange.source() == Source::Kernel && self.threads(exchange) != Threads::InTurn
    }

    /// Whether what its thread read last may not be what the attempt was begun for.
    pub(super) fn misled(&self, source: Source, attempt: &Attempt) -> bool {
        let software = self
            .host
            .process(attempt.proxy)
            .map(|process| process.software);
        let read = attempt
            .downstream
            .as_ref()
            .and_then(|link| link.request.as_ref());
        source == Source::Kernel
            && Threads::of(software) == Threads::Any
            && matches!(read, Some(Opening::HttpRequest { .. }))
            && !same_request(attempt, read)
    }

    /// What tells that an attempt and a response have only each other may still come. nginx works on
    /// one request at a time, and ends an attempt before it answers.
    pub(super) fn awaits_others(&self, key: Key) -> bool {
        let Some(exchange) = self.open.get(&key) else {
            return false;
        };
        let adjacent = exchange
            .response
            .as_ref()
            .is_some_and(|(.., r)| r.adjacent.is_some());
        exchange.source() == Source::Kernel
            && match self.threads(exchange) {
                Threads::InTurn => false,
                Threads::Blocking | Threads::Own => !adjacent,
                Threads::Any => true,
            }
    }

    /// Gives a response without attempts the one that fits it best, of those that no response has.
    pub(super) fn adopt(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let Some((at, Source::Kernel, response)) = &exchange.response else {
            return;
        };
        let threads = self.threads(exchange);
        let crowded = self.open.len() > CROWD;
        if threads == Threads::InTurn || !exchange.attempts.is_empty() || crowded {
            return;
        }
        let asked = response.request_at.unwrap_or(*at);
        let tells = tells_timeouts(self.proxy_of(exchange));
        let fits = |(key, other): (&Key, &Exchange)| {
            let alone = matches!(key, Key::Attempt(..)) && other.response.is_none();
            let [tried] = &other.attempts[..] else {
                return None;
            };
            let fit = fit(tried, response, *at, threads).filter(|_| alone)?;
            // Requests alike are sent in the order in which they were read.
            let order = tried.attempt.began.abs_diff(asked);
            let less_apt = tells && contradicts(&tried.attempt, response);
            Some((fit, less_apt, order, tried.at.abs_diff(*at), *key))
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

    /// Says that the attempt and the response belong together, where their moment tells.
    pub(super) fn adjoin(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let threads = self.threads(exchange);
        let (Some((at, Source::Kernel, response)), Some(tried)) =
            (&exchange.response, exchange.attempts.last())
        else {
            return;
        };
        if threads == Threads::InTurn {
            return;
        }
        let link = tried.attempt.downstream.as_ref();
        let begun_for_it = link.is_some_and(|link| {
            let this = (link.flow, link.ordinal) == (response.downstream, response.ordinal);
            this && link.order != LinkOrder::Unclear
        });
        let alone = self.moments.alone(&exchange.attempts, *at, response);
        let flow = tried.attempt.flow;
        // A connect says nothing of what it is for: a proxy's own check of a server fails as well, at
        // the moment at which it answers that it has none.
        let said = tried.attempt.request.is_some() || threads == Threads::Blocking;
        let tells = tells_timeouts(self.proxy_of(exchange));
        let said = said && !(tells && contradicts(&tried.attempt, response));
        let adjacent = match threads {
            // The thread read one client, began an attempt, and answered that client when it ended.
            Threads::Blocking | Threads::Own => alone || (begun_for_it && at_once(tried.at, *at)),
            _ => alone,
        };
        let Some(exchange) = self.open.get_mut(&key) else {
            return;
        };
        if threads == Threads::Any {
            // Which thread it was says nothing.
            for tried in &mut exchange.attempts {
                if let Some(link) = &mut tried.attempt.downstream {
                    link.order = LinkOrder::Unclear;
                }
            }
            exchange.tie_alone(alone && said);
        }
        if let Some((_, _, response)) = &mut exchange.response {
            let known = response.adjacent.filter(|_| threads != Threads::Any);
            let tied = known.or(adjacent.then_some(flow));
            response.adjacent = tied.filter(|_| said);
        }
    }
}

fn fit(tried: &Tried, response: &Response, at: Nanos, threads: Threads) -> Option<Fit> {
    let attempt = &tried.attempt;
    let near = tried.at.abs_diff(at);
    let began = response.request_at.unwrap_or(at) <= attempt.began && attempt.began <= at;
    if !began || attempt.proxy != response.proxy || !passed_on(attempt, response) {
        return None;
    }
    if attempt.request.is_some() {
        let same = same_request(attempt, response.request.as_ref());
        return (same && near <= SETTLE).then_some(Fit::Content);
    }
    let failed = matches!(attempt.end, End::ConnectFailed { .. } | End::ConnectGivenUp);
    let any = threads == Threads::Any;
    if !failed || near > SOON || !(any || led_by_none(attempt)) || attempt.upstream.0 == NSCD {
        return None;
    }
    match attempt.thread == response.thread {
        true => Some(Fit::Thread),
        false => any.then_some(Fit::Time),
    }
}

/// Whether it answers 504 where its timer ended an attempt, and nowhere else.
fn tells_timeouts(software: Option<Software>) -> bool {
    matches!(software, Some(Software::Haproxy | Software::Envoy))
}

/// What such a proxy does not answer to an end like this: of requests alike it is another's, whose
/// client has left.
fn contradicts(attempt: &Attempt, response: &Response) -> bool {
    let timed_out = response.status == Some(504);
    match attempt.end {
        End::GivenUp => attempt.received == 0 && !timed_out,
        End::PeerClosed | End::Reset => timed_out,
        _ => false,
    }
}

/// An upstream's own error is the response only with its own status.
fn passed_on(attempt: &Attempt, response: &Response) -> bool {
    match attempt.response {
        Some(Opening::HttpResponse { status: 500.. }) if attempt.end == End::Answered => {
            attempt.response.as_ref().map(status_of) == Some(response.status)
        }
        _ => true,
    }
}

fn status_of(opening: &Opening) -> Option<u16> {
    match opening {
        Opening::HttpResponse { status } => Some(*status),
        _ => None,
    }
}

/// It was not begun for the request of another response, as far as the order of things tells: what its
/// thread had read long before it tried again is no sign.
fn led_by_none(attempt: &Attempt) -> bool {
    let link = attempt.downstream.as_ref();
    link.is_none_or(|link| link.order == LinkOrder::Unclear) && attempt.retry_of.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cause::Cause;
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

    fn all_of(software: &str, signals: &[(Nanos, Value)]) -> Vec<Decided> {
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "proxy", "software": software,
            "settings": [], "started": 0, "netns": 0, "sagemaker": false,
        });
        let mut tracker = Tracker::default();
        let mut out = Vec::new();
        for (at, fact) in std::iter::once(&(MS, process)).chain(signals) {
            let signal = json!({"at": at, "source": "kernel", "fact": fact});
            let signal: Signal = serde_json::from_value(signal).unwrap();
            out.extend(tracker.observe(&signal));
        }
        out.extend(tracker.finish());
        out
    }

    fn verdicts_of(software: &str, signals: &[(Nanos, Value)]) -> Vec<Decided> {
        let mut out = all_of(software, signals);
        out.retain(|decided| decided.kind == Kind::Verdict);
        out
    }

    fn decided(signals: &[(Nanos, Value)]) -> Vec<Decided> {
        verdicts_of("haproxy", signals)
    }

    fn confidence(signals: &[(Nanos, Value)]) -> Vec<Confidence> {
        let decided = decided(signals);
        decided
            .iter()
            .map(|verdict| verdict.diagnosis.confidence)
            .collect()
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
            assert_eq!(response.adjacent, Some(flow));
        }
    }

    #[test]
    fn what_fails_as_a_request_leaves_its_queue_may_be_anothers() {
        let tied = |waited: Nanos, request: Value, how: &str, status: u16| {
            let mut one = attempt(1, 7, request, json!({"how": how, "errno": 111}));
            one["began"] = (9 * MS + waited).into();
            let end = 9 * MS + waited + MS;
            let mut answer = response(5, "/a");
            answer["status"] = status.into();
            let out = decided(&[(end, one), (end, answer)]);
            let [verdict] = &out[..] else {
                panic!("{out:?}");
            };
            let (_, _, response) = verdict.response.as_ref().unwrap();
            response.adjacent.is_some()
        };
        assert!(tied(MS, sent("/a"), "reset", 502));
        assert!(!tied(1000 * MS, sent("/a"), "reset", 502));
        // Another client's that was tried again, as this one found no room.
        assert!(!tied(MS, sent("/a"), "reset", 503));
        assert!(tied(MS, sent("/a"), "given_up", 504));
        // Its timer answers 504: the client of a request like this one has left.
        assert!(!tied(MS, sent("/a"), "given_up", 503));
        // What a connect is for cannot be told.
        assert!(!tied(MS, Value::Null, "connect_failed", 502));
    }

    #[test]
    fn nothing_is_adjacent_to_what_another_like_it_may_be() {
        let given_up = || json!({"how": "given_up"});
        let adjacent = |signals: &[(Nanos, Value)]| -> Vec<bool> {
            let tied = |d: &Decided| {
                d.response
                    .as_ref()
                    .is_some_and(|(.., r)| r.adjacent.is_some())
            };
            decided(signals).iter().map(tied).collect()
        };
        let alone = [
            (2000 * MS, response(5, "/a")),
            (2001 * MS, attempt(1, 7, sent("/a"), given_up())),
        ];
        assert_eq!(adjacent(&alone), [true]);
        // Two requests alike, with one attempt or two between them.
        let mut twins = alone.to_vec();
        twins.insert(1, (2000 * MS, response(6, "/a")));
        assert_eq!(adjacent(&twins), [false, false]);
        twins.push((2001 * MS, attempt(2, 7, sent("/a"), given_up())));
        assert_eq!(adjacent(&twins), [false, false]);
        let two_attempts = [alone[0].clone(), alone[1].clone(), twins[3].clone()];
        assert_eq!(adjacent(&two_attempts), [false]);
        // Too far apart: something else may have answered it.
        let later = [alone[0].clone(), (2010 * MS, alone[1].1.clone())];
        assert_eq!(adjacent(&later), [false]);
        assert_ne!(confidence(&later), [Confidence::Proven]);
    }

    #[test]
    fn of_requests_alike_the_one_read_first_is_sent_first() {
        let at = |flow: u64, began: Nanos| {
            let mut one = attempt(flow, 7, Value::Null, refused());
            one["began"] = began.into();
            one
        };
        let asked = |downstream: u64, at: Nanos| {
            let mut one = response(downstream, "/a");
            one["request_at"] = at.into();
            one
        };
        let out = decided(&[
            (20 * MS, at(1, 10 * MS)),
            (20 * MS + MS / 10, at(2, 12 * MS)),
            (20 * MS + MS / 5, asked(5, 9 * MS)),
            (20 * MS + MS / 4, asked(6, 11 * MS)),
        ]);
        let flows: Vec<_> = out.iter().map(|d| d.attempts[0].attempt.flow).collect();
        assert_eq!(flows, [1, 2]);
    }

    #[test]
    fn of_requests_alike_the_one_whose_client_left_is_another() {
        let upstream_ended = |status: u16| {
            let mut answer = response(5, "/a");
            answer["status"] = status.into();
            let out = decided(&[
                (
                    21 * MS,
                    attempt(1, 7, sent("/a"), json!({"how": "given_up"})),
                ),
                (
                    20 * MS,
                    attempt(2, 7, sent("/a"), json!({"how": "reset", "errno": 104})),
                ),
                (22 * MS, answer),
            ]);
            out[0].attempts[0].attempt.flow
        };
        assert_eq!(upstream_ended(503), 2);
        assert_eq!(upstream_ended(504), 1);
    }

    #[test]
    fn an_upstreams_own_error_is_found_by_its_request_and_status() {
        let answered = |status: u16| {
            let mut one = attempt(1, 7, sent("/a"), json!({"how": "answered"}));
            one["received"] = 100.into();
            one["response"] = json!({"protocol": "http_response", "status": status});
            decided(&[(2000 * MS, one), (2000 * MS + MS / 10, response(5, "/a"))])
        };
        let same = answered(504);
        assert_eq!(same[0].diagnosis.cause, Cause::UpstreamAnswered);
        assert!(answered(502)[0].attempts.is_empty(), "another's");
        // What nobody asked for (a health check) is nothing to tell.
        let mut check = attempt(1, 7, sent("/health"), json!({"how": "answered"}));
        check["response"] = json!({"protocol": "http_response", "status": 503});
        let mut tracker = Tracker::default();
        let signal = json!({"at": MS, "source": "kernel", "fact": check});
        tracker.observe(&serde_json::from_value(signal).unwrap());
        assert_eq!(tracker.finish().len(), 0);
    }

    fn of_go(signals: &[(Nanos, Value)]) -> Vec<Decided> {
        verdicts_of("other", signals)
    }

    fn refused() -> Value {
        json!({"how": "connect_failed", "errno": 111})
    }

    /// What the thread had read last when it began the attempt.
    fn read(downstream: u64, request: Value) -> Value {
        json!({
            "flow": downstream, "ordinal": 1, "order": "after_read", "client": null,
            "proxy_address": null, "request": request, "state": "open", "read_before_ns": null,
        })
    }

    #[test]
    fn threads_that_share_their_work_tie_nothing() {
        // Begun by a thread that had read another client last.
        let mut one = attempt(1, 7, sent("/a"), json!({"how": "given_up"}));
        one["downstream"] = read(6, asked("/b"));
        let out = of_go(&[
            (2000 * MS, response(5, "/a")),
            (2000 * MS, response(6, "/b")),
            (2001 * MS, one),
        ]);
        for verdict in &out {
            let (.., response) = verdict.response.as_ref().unwrap();
            assert_eq!(
                verdict.attempts.len(),
                usize::from(response.downstream == 5)
            );
        }
        // A connect that failed alone, in any thread; and one of two.
        let connect = |flow| attempt(flow, 8, Value::Null, refused());
        // Either may be one that the proxy made for itself: to check, or to tell of itself.
        let alone = of_go(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, connect(1))]);
        assert_eq!(alone[0].diagnosis.cause, Cause::ConnectionRefused);
        assert_eq!(alone[0].diagnosis.confidence, Confidence::Likely);
        let mut nscd = connect(1);
        nscd["upstream"] = NSCD.into();
        nscd["end"]["errno"] = 2.into();
        let asked = of_go(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, nscd)]);
        assert!(asked[0].attempts.is_empty());
        let two = of_go(&[
            (2000 * MS, response(5, "/a")),
            (2000 * MS + 1, connect(1)),
            (2000 * MS + 2, connect(2)),
        ]);
        assert_eq!(two[0].response.as_ref().unwrap().2.adjacent, None);
        assert_ne!(two[0].diagnosis.confidence, Confidence::Proven);
    }

    /// A refused connect that began when its thread had read this client.
    fn connect_for(client: Value) -> Value {
        let mut one = attempt(1, 7, Value::Null, refused());
        one["downstream"] = read(5, client);
        one
    }

    #[test]
    fn only_a_thread_that_waits_for_each_client_is_known_by_its_connect() {
        let tied = |software: &str| {
            let signals = [
                (10 * MS, connect_for(asked("/a"))),
                (10 * MS, response(5, "/a")),
            ];
            let out = verdicts_of(software, &signals);
            assert_eq!(
                out[0].diagnosis.cause,
                Cause::ConnectionRefused,
                "{software}"
            );
            out[0].diagnosis.confidence
        };
        assert_eq!(tied("apache"), Confidence::Proven);
        // The server may have been checked at the moment at which it answered that it has none.
        for software in ["haproxy", "envoy", "caddy"] {
            assert_eq!(tied(software), Confidence::Likely, "{software}");
        }
    }

    #[test]
    fn what_is_answered_well_after_another_try_that_nobody_saw_is_no_failure() {
        let kinds = |software: &str| -> Vec<Kind> {
            let mut good = response(5, "/a");
            good["status"] = 200.into();
            let signals = [(10 * MS, connect_for(asked("/a"))), (12 * MS, good)];
            all_of(software, &signals).iter().map(|d| d.kind).collect()
        };
        for software in ["haproxy", "envoy", "caddy", "apache"] {
            assert_eq!(kinds(software), [Kind::NearMiss], "{software}");
        }
        // Its next try would be known: this is an `error_page`.
        assert_eq!(kinds("nginx"), [Kind::Verdict]);
    }

    #[test]
    fn behind_tls_only_what_a_timer_ended_is_known_to_have_failed() {
        let kinds = |software: &str, request: Value, end: Value| -> Vec<Kind> {
            let mut one = attempt(1, 7, request, end);
            one["downstream"] = read(5, json!({"protocol": "tls"}));
            let signals = [(10 * MS, one), (2000 * MS, json!({"kind": "tick"}))];
            all_of(software, &signals).iter().map(|d| d.kind).collect()
        };
        assert_eq!(kinds("nginx", Value::Null, refused()), [Kind::Verdict]);
        assert_eq!(kinds("haproxy", Value::Null, refused()), [Kind::NearMiss]);
        let given_up = json!({"how": "given_up"});
        assert_eq!(kinds("haproxy", sent("/a"), given_up), [Kind::Verdict]);
    }

    #[test]
    fn a_connect_that_failed_belongs_to_what_its_thread_said_at_once() {
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

    #[test]
    fn what_is_tried_again_by_a_timer_belongs_to_no_client_read_before() {
        let led = |order: &str| {
            let mut one = attempt(1, 7, Value::Null, json!({"how": "connect_given_up"}));
            one["downstream"] = read(6, Value::Null);
            one["downstream"]["order"] = order.into();
            let out = decided(&[(2000 * MS, response(5, "/a")), (2000 * MS + 1, one)]);
            out[0].attempts.len()
        };
        assert_eq!(led("unclear"), 1);
        assert_eq!(led("after_read"), 0);
    }
}
