//! Joins signals into exchanges and decides when a verdict is due. Pure: time comes with signals.

mod adopt;
mod exchange;
mod give_back;
pub mod host;
mod lines;
mod logs;
mod met;
mod moments;
mod named;
mod pools;
pub mod render;
mod seen;
mod surely;
mod threads;
pub mod told;
mod tries;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::diagnose::{self, Case, Diagnosis, Tried};
use crate::signal::{
    Attempt, End, Fact, FlowId, LinkOrder, Nanos, Opening, Response, Signal, Source,
};
use crate::verdict::Kind;
use exchange::Exchange;
use host::Host;
use lines::Failed;
pub(crate) use logs::ServerLines;
use logs::{Logs, ToldId};
use moments::Moments;
use pools::Connects;
use seen::Seen;
use told::Told;

/// The time given to facts that come after the response: an exit comes 40 ms later, a reset one
/// round trip.
const SETTLE: Nanos = 250_000_000;
/// The same where the proxy's lines are in a journal, whose daemon tells its readers of them every 250 ms.
const JOURNAL: Nanos = 3 * SETTLE;
/// An exchange without any response: the next attempt's connect may take a minute.
const ABANDONED: Nanos = 90_000_000_000;
/// Longer than any proxy lets an attempt take by default.
const RETRYING: Nanos = 20 * ABANDONED;
/// A client that left is not answered; what else its attempts tell comes within this time.
const LEFT: Nanos = 300_000_000;
/// Exchanges open at once; the oldest is decided with what is there.
const OPEN: usize = 20_000;

/// What identifies an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    /// The nth request of an HTTP/1 client connection.
    Request(FlowId, u32),
    /// Known by its first attempt alone: the downstream's bytes are not to be understood.
    Attempt(FlowId, Nanos),
    /// Known by lines of logs alone.
    Logged(ToldId),
}

/// An exchange that is decided.
#[derive(Debug)]
pub struct Decided {
    pub kind: Kind,
    pub attempts: Vec<Tried>,
    /// The diagnosis of each attempt, `None` for one that was answered well.
    pub causes: Vec<Option<Diagnosis>>,
    pub response: Option<(Nanos, Source, Response)>,
    pub diagnosis: Diagnosis,
    pub advice: crate::verdict::Advice,
    pub lost: u64,
    /// What lines of logs say about it.
    pub told: Option<Told>,
    /// The client's status is the log's word.
    pub status_of_log: bool,
    /// The moment of the response, or of the last attempt's end.
    pub at: Nanos,
    /// When it was decided.
    pub decided: Nanos,
}

/// Joins signals into exchanges.
#[derive(Debug, Default)]
pub struct Tracker {
    pub host: Host,
    open: HashMap<Key, Exchange>,
    /// Where an attempt's later facts belong.
    by_flow: HashMap<FlowId, Key>,
    /// Exchanges whose response has come, by the time at which waiting ends.
    due: BTreeSet<(Nanos, Key)>,
    moments: Moments,
    connects: Connects,
    logs: Logs,
    /// Decided a moment ago without their lines: these tell nothing new when they come.
    recent: VecDeque<Seen>,
    /// Exchanges that another source saw, and that had failed.
    failed: VecDeque<Failed>,
    /// Exchanges in a row whose lines did not come in time: a proxy may hold its lines back.
    late_lines: u32,
    now: Nanos,
    last_sweep: Nanos,
    /// What had to be forgotten for want of room.
    dropped: BTreeMap<&'static str, u64>,
}

impl Tracker {
    /// Takes in one signal; returns the exchanges that it decides.
    pub fn observe(&mut self, signal: &Signal) -> Vec<Decided> {
        // A loss may be told ahead of what was saved from it: it must be known to every decision,
        // and must hurry none.
        if let Fact::SignalsLost { .. } = signal.fact {
            self.host.observe(signal);
            return Vec::new();
        }
        if let Fact::AttemptEnded(attempt) = &signal.fact
            && attempt.upstream.is_name_service()
        {
            return Vec::new();
        }
        let mut out = Vec::new();
        // What was due before this signal is decided without it, however rarely time is told.
        self.decide_overdue(signal.at, &mut out);
        self.now = self.now.max(signal.at);
        self.host.observe(signal);
        match &signal.fact {
            Fact::AttemptEnded(attempt) => {
                let key = self.attempt_ended(signal, attempt);
                self.decide_if_settled(key, &mut out);
            }
            Fact::ResponseSent(response) => {
                let key = self.response_sent(signal, response);
                self.decide_if_settled(key, &mut out);
            }
            Fact::AttemptRetried { flow } => {
                let key = self.by_flow.get(flow);
                if let Some(exchange) = key.and_then(|key| self.open.get_mut(key)) {
                    exchange.retried = true;
                }
            }
            Fact::FlowClosed(closed) => {
                if let Some(&key) = self.by_flow.get(&closed.flow) {
                    if let Some(exchange) = self.open.get_mut(&key) {
                        exchange.flow_closed(signal.at, closed);
                    }
                    self.decide_if_settled(key, &mut out);
                }
            }
            Fact::RequestMetClose(attempt) => out.push(self.met_close(signal, attempt)),
            Fact::Logged(line) => self.logged(signal.at, line, &mut out),
            Fact::ProcessExited(_) | Fact::OomKilled { .. } | Fact::ProcessSampled(_) => {
                let waiting: Vec<Key> = self.due.iter().map(|(_, key)| *key).collect();
                for key in waiting {
                    self.decide_if_settled(key, &mut out);
                }
            }
            _ => {}
        }
        out
    }

    /// No more signals will come: decide everything with what is there.
    pub fn finish(&mut self) -> Vec<Decided> {
        let mut out = Vec::new();
        self.take_nameless(true, &mut out);
        let mut keys: Vec<(Nanos, Key)> = self.open.iter().map(|(k, e)| (e.touched, *k)).collect();
        keys.sort_unstable();
        // Before an attempt is decided that a response of them is looking for.
        for (_, key) in &keys {
            self.adopt(*key);
        }
        for (_, key) in &keys {
            self.adjoin(*key);
            self.tie(*key);
            self.exchange_given(*key);
        }
        for (_, key) in keys {
            self.decide(key, true, &mut out);
        }
        // What was given back meanwhile.
        let mut left: Vec<Key> = self.open.keys().copied().collect();
        left.sort_unstable();
        for key in left {
            self.decide(key, true, &mut out);
        }
        // Before an access line is decided that a line of them is looking for.
        let mut parted = true;
        while parted {
            parted = false;
            for id in self.logs.ids() {
                parted |= self.part_lines(id, &mut out);
            }
        }
        for id in self.logs.ids() {
            self.decide_told(id, self.now, &mut out);
        }
        out
    }

    fn attempt_ended(&mut self, signal: &Signal, attempt: &Attempt) -> Key {
        self.moments.ended(signal.at, attempt);
        self.connects.ended(signal.at, signal.source, attempt);
        let retried = attempt
            .retry_of
            .and_then(|flow| self.by_flow.get(&flow).copied());
        // It ended before, and its connection has now.
        let known = self.by_flow.get(&attempt.flow).copied();
        let known = known.filter(|key| self.open.get(key).is_some_and(|e| e.knows(attempt)));
        let key = known
            .or(retried.filter(|key| self.open.contains_key(key)))
            .unwrap_or_else(|| match self.misled(signal.source, attempt) {
                true => own_key(attempt),
                false => key_of(attempt),
            });
        let exchange = self.exchange(key);
        let forgotten = exchange.add(signal.at, signal.source, attempt.clone());
        let (opaque, distance) = (exchange.opaque(), exchange.round_trip());
        let wait = self.patience(distance);
        if opaque {
            self.due.insert((signal.at + wait, key));
        }
        self.forget(forgotten);
        self.by_flow.insert(attempt.flow, key);
        key
    }

    /// For how long further facts about an exchange are waited for.
    fn patience(&self, round_trip: Nanos) -> Nanos {
        let lines = match self.host.sees("journal") {
            true => JOURNAL,
            false => SETTLE,
        };
        lines.max(2 * round_trip)
    }

    fn response_sent(&mut self, signal: &Signal, response: &Response) -> Key {
        self.moments.answered(signal.at, response);
        let by_adjacency = response
            .adjacent
            .and_then(|flow| self.by_flow.get(&flow).copied());
        let key = by_adjacency
            .filter(|key| self.open.contains_key(key))
            .unwrap_or(Key::Request(response.downstream, response.ordinal));
        let exchange = self.exchange(key);
        exchange.respond(signal.at, signal.source, response);
        let mut forgotten = None;
        if let Some(last) = response
            .last_attempt
            .as_ref()
            .filter(|a| !is_anothers_still(signal, response, a))
            .filter(|a| !a.upstream.is_name_service())
        {
            let its = match self.misled(signal.source, last) || self.is_anothers(signal, response) {
                true => own_key(last),
                false => key,
            };
            let before = own_key(last);
            // What its connection's end told of it tells more.
            let told = self
                .open
                .get(&before)
                .filter(|e| before != its && e.led_by_no_request());
            let told = told.is_some().then(|| self.open.remove(&before)).flatten();
            let exchange = self.exchange(its);
            for tried in told.into_iter().flat_map(|e| e.attempts) {
                exchange.adopt(tried);
            }
            forgotten = exchange.add(signal.at, signal.source, (**last).clone());
            self.by_flow.insert(last.flow, its);
        }
        let distance = self.exchange(key).round_trip();
        let wait = self.patience(distance);
        self.due.insert((signal.at + wait, key));
        self.forget(forgotten);
        key
    }

    fn forget(&mut self, flow: Option<FlowId>) {
        if let Some(flow) = flow {
            self.by_flow.remove(&flow);
            *self.dropped.entry("attempts").or_default() += 1;
        }
    }

    /// What was forgotten for want of room so far, by what it was.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let own = self.dropped.iter().map(|(what, count)| (*what, *count));
        let lines = Some(("log_exchanges", self.logs.dropped)).filter(|(_, count)| *count > 0);
        own.chain(lines).chain(self.host.dropped())
    }

    fn exchange(&mut self, key: Key) -> &mut Exchange {
        let now = self.now;
        self.open.entry(key).or_insert_with(|| Exchange::new(now))
    }

    fn decide_if_settled(&mut self, key: Key, out: &mut Vec<Decided>) {
        if self.open.get(&key).is_some_and(|e| e.response.is_some()) {
            self.decide(key, false, out);
        }
    }

    fn decide_overdue(&mut self, now: Nanos, out: &mut Vec<Decided>) {
        while let Some(&(at, key)) = self.due.first() {
            if at > now {
                break;
            }
            self.now = self.now.max(at);
            self.due.pop_first();
            if self.open.get(&key).is_some_and(|e| e.response.is_none()) {
                // What the log says of it decides whether it has failed.
                self.tie(key);
            }
            let ended =
                |e: &&Exchange| e.response.is_some() || e.failed_unseen(self.tries_again_unseen(e));
            let Some(exchange) = self.open.get(&key).filter(ended) else {
                continue;
            };
            let answered = exchange.answered_at();
            // Whose process that is may be known by an attempt that is still another's.
            self.adopt(key);
            self.adjoin(key);
            match self.awaits_exit(key) {
                Some(time) if at < answered + time => {
                    self.due.insert((answered + time, key));
                }
                _ => self.decide(key, true, out),
            }
        }
        self.take_nameless(false, out);
        while let Some((at, id)) = self.logs.overdue(now) {
            self.now = self.now.max(at);
            self.decide_told(id, now, out);
        }
        self.now = self.now.max(now);
        // Exchanges without a response are looked through now and then.
        let crowded = self.open.len() > OPEN;
        let soon = self.now < self.last_sweep + SETTLE / 5;
        if soon && self.open.len() <= OPEN + OPEN / 4 {
            return;
        }
        self.last_sweep = self.now;
        let mut over: Vec<(Nanos, Key)> = self
            .open
            .iter()
            .filter(|(_, e)| e.response.is_none())
            .filter(|(_, e)| {
                let patience = match (e.retried, e.client_left()) {
                    // A retry tells of itself when it ends, unless it is answered behind TLS.
                    (true, _) if !e.opaque() => RETRYING,
                    (false, true) => LEFT,
                    _ if e.led_by_no_request() => LEFT,
                    _ => ABANDONED,
                };
                self.now > e.touched + patience
            })
            .map(|(key, e)| (e.touched, *key))
            .collect();
        over.sort_unstable();
        if crowded && over.is_empty() {
            // Make room at once for many: the search looks at every exchange.
            let mut oldest: Vec<_> = self.open.iter().map(|(k, e)| (e.touched, *k)).collect();
            oldest.sort_unstable();
            oldest.truncate(OPEN / 4);
            *self.dropped.entry("exchanges").or_default() += oldest.len() as u64;
            over = oldest;
        }
        for (_, key) in over {
            self.decide(key, true, out);
        }
    }

    fn case<'a>(&'a self, exchange: &'a Exchange, deadline_passed: bool) -> Case<'a> {
        let surely_told = self.names_exchange(exchange);
        Case {
            surely_told,
            named: self.names_attempt(exchange, surely_told),
            ..self.case_of_facts(exchange, deadline_passed)
        }
    }

    /// Without what the proxy's own line proves.
    fn case_of_facts<'a>(&'a self, exchange: &'a Exchange, deadline_passed: bool) -> Case<'a> {
        Case {
            attempts: &exchange.attempts,
            response: exchange.response.as_ref().map(|(_, _, response)| response),
            answered_at: exchange.answered_at(),
            source: exchange.source(),
            told: exchange.told.as_ref(),
            surely_told: false,
            named: false,
            host: &self.host,
            lost: self.host.lost_since(exchange.began()),
            deadline_passed,
        }
    }

    fn awaits_exit(&self, key: Key) -> Option<Nanos> {
        let exchange = self.open.get(&key)?;
        diagnose::diagnose(&self.case(exchange, false)).awaits_exit
    }

    fn decide(&mut self, key: Key, deadline_passed: bool, out: &mut Vec<Decided>) {
        if self.awaits_others(key) && !deadline_passed {
            return;
        }
        self.adopt(key);
        self.share_connect(key);
        self.adjoin(key);
        self.tie(key);
        self.exchange_given(key);
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let case = self.case(exchange, deadline_passed);
        let lost = case.lost;
        let diagnosis = diagnose::diagnose(&case);
        let awaits = !diagnosis.settled
            || self.awaits_line(exchange, &diagnosis)
            || self.awaits_count(exchange, &diagnosis);
        if awaits && !deadline_passed {
            return;
        }
        let in_vain = deadline_passed && diagnosis.settled && exchange.told.is_none();
        if in_vain && self.awaits_line(exchange, &diagnosis) {
            self.late_lines += 1;
        }
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        let case = self.case(exchange, deadline_passed);
        let causes: Vec<Option<Diagnosis>> = exchange
            .attempts
            .iter()
            .map(|t| diagnose::diagnose_attempt(&case, t))
            .collect();
        let advice = diagnose::advise(&case, &diagnosis);
        // That the client was served well may be all that tells of the answer.
        let unseen = self.tries_again_unseen(exchange) || lost > 0;
        let kind = kind(exchange, unseen, self.host.sees("access_log"));
        let Some(exchange) = self.open.remove(&key) else {
            return;
        };
        let led_by_none = exchange.led_by_no_request() || self.failed_beside(&exchange);
        if !led_by_none {
            self.part(key, &exchange);
        }
        for (tried, told) in exchange.attempts.iter().zip(&causes) {
            if let Some(told) = told {
                (self.moments).decided(&tried.attempt, told.cause, told.confidence);
            }
            // A pooled connection may carry a newer exchange by now.
            if self.by_flow.get(&tried.attempt.flow) == Some(&key) {
                self.by_flow.remove(&tried.attempt.flow);
            }
        }
        if led_by_none {
            return;
        }
        // Signals of the two halves may arrive a little apart: the response's time is the truth.
        let at = exchange.answered_at();
        out.push(Decided {
            kind,
            attempts: exchange.attempts,
            causes,
            response: exchange.response,
            diagnosis,
            advice,
            lost,
            told: exchange.told,
            status_of_log: exchange.status_of_log,
            at,
            decided: self.now,
        });
    }
}

impl Tracker {
    /// Its client was served well, and what failed then was a copy of its request, for a mirror say: an attempt
    /// of that client's which is not its own.
    fn failed_beside(&self, exchange: &Exchange) -> bool {
        let Some((.., response)) = exchange.response.as_ref().filter(|_| exchange.went_well())
        else {
            return false;
        };
        let beside = |tried: &Tried| {
            let link = tried.attempt.downstream.as_ref();
            link.is_some_and(|link| {
                link.flow == response.downstream && link.ordinal == response.ordinal
            })
        };
        self.open
            .values()
            .any(|other| other.attempts.iter().any(beside))
    }
}

/// A response that no upstream saved is a failure; a failed attempt without a failed response is not.
/// `unseen`: it may have been saved by what was not seen. `accounted`: a line tells of each response.
fn kind(exchange: &Exchange, unseen: bool, accounted: bool) -> Kind {
    if let (Source::Log, Some(told)) = (exchange.source(), &exchange.told) {
        // Of a try whose request no line names nothing says that it failed in the end.
        let of_a_try = accounted && !told.has_access && told.request.is_none();
        return match told.saved() || told.client_left() || of_a_try {
            true => Kind::NearMiss,
            false => Kind::Verdict,
        };
    }
    match &exchange.response {
        Some((_, _, response)) => {
            let failed_status = response.status.is_some_and(|status| status >= 500);
            let good_status = response.status.is_some_and(|status| status < 500);
            let saved = exchange.saved() && !failed_status;
            if saved || (unseen && good_status) || exchange.may_be_none() {
                Kind::NearMiss
            } else {
                Kind::Verdict
            }
        }
        None if exchange.failed_unseen(unseen) => Kind::Verdict,
        None => Kind::NearMiss,
    }
}

/// What an attempt was doing as a response began that surely was not its own: it has a connection and
/// carried nothing yet, or waits while its thread has just ended another one and answered that.
fn is_anothers_still(signal: &Signal, response: &Response, last: &Attempt) -> bool {
    let unused = last.end == End::Answered && last.request.is_none();
    let waits = matches!(last.end, End::GivenUp | End::ConnectGivenUp);
    let ended_another = response.adjacent.is_some_and(|flow| flow != last.flow);
    signal.source == Source::Kernel && (unused || waits && ended_another)
}

fn own_key(attempt: &Attempt) -> Key {
    Key::Attempt(attempt.flow, attempt.began)
}

/// The exchange an attempt belongs to, as far as it tells by itself.
fn key_of(attempt: &Attempt) -> Key {
    let own = own_key(attempt);
    let Some(link) = &attempt.downstream else {
        return own;
    };
    let Some(Opening::HttpRequest { path, .. }) = &link.request else {
        return own;
    };
    if link.order != LinkOrder::Unclear {
        return Key::Request(link.flow, link.ordinal);
    }
    // Order does not tell; the content may.
    match attempt.request.as_ref().map(|r| &r.opening) {
        Some(Opening::HttpRequest { path: sent, .. }) if sent == path => {
            Key::Request(link.flow, link.ordinal)
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_that_no_request_led_to_is_no_near_miss() {
        let near_misses = |upstream: &str, downstream: serde_json::Value| {
            let attempt = serde_json::from_value(serde_json::json!({
                "flow": 9, "proxy": 1, "thread": 1, "downstream": downstream, "retry_of": null,
                "upstream": upstream, "local": null, "began": 10,
                "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
                "request": null, "received": 0, "response": null,
                "end": {"how": "connect_failed", "errno": 2}, "tcp": null, "peer": null, "queue": null,
            }))
            .unwrap();
            let mut tracker = Tracker::default();
            tracker.observe(&Signal {
                at: 10,
                source: Source::Kernel,
                fact: Fact::AttemptEnded(Box::new(attempt)),
            });
            tracker.finish().len()
        };
        let own = "unix:/run/app.sock";
        assert_eq!(near_misses(own, serde_json::Value::Null), 0);
        let link = serde_json::json!({
            "flow": 5, "ordinal": 1, "order": "after_read", "client": null, "proxy_address": null,
            "request": null, "state": "open", "read_before_ns": null,
        });
        assert_eq!(near_misses(own, link.clone()), 1);
        // nginx asks for its user's number as it starts, others for names while they serve.
        assert_eq!(near_misses("unix:/var/run/nscd/socket", link), 0);
    }
}
