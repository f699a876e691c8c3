//! Finds the attempt of a response whose proxy works on several requests at once. Pure.
//!
//! What such a thread read last says nothing of what it sends next, but what it sends does: the same
//! method and path. Connects that failed carry no request; they began when it was read, and the
//! response follows at once. Others may be meant that are alike: what is proven by it is told by
//! `moments`.

use std::collections::BTreeSet;

use super::exchange::Exchange;
use super::give_back::may_tell_of;
use super::moments::{LATE, at_once, is_unconnected};
use super::{Key, SETTLE, Tracker};
use crate::cause::Cause;
use crate::diagnose::{self, Tried, refuses_with, same_request};
use crate::signal::{
    Attempt, End, FlowId, LinkOrder, Nanos, Opening, Response, Said, Signal, Software, Source,
};
use crate::verdict::Confidence;

/// With more exchanges open than this none is looked for: it would take long, and be doubtful.
const CROWD: usize = 2048;
/// With more attempts alike none is looked at.
const ALIKE: usize = 16;
/// A connect's failure and the response that it led to are told so soon after each other.
const SOON: Nanos = 5_000_000;

/// By what an attempt fits a response, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Content,
    /// On a connection that was begun for another request.
    Given,
    Thread,
    Time,
    Late,
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
            // One thread of Varnish's reads from a client and answers it, another one asks the upstream.
            Some(
                Software::Caddy
                | Software::Traefik
                | Software::Go
                | Software::Varnish
                | Software::Other,
            )
            | None => Threads::Any,
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

    /// Whether the attempt that its thread ties to this response asked for something else.
    pub(super) fn is_anothers(&self, signal: &Signal, response: &Response) -> bool {
        let process = self.host.process(response.proxy);
        let any = Threads::of(process.map(|process| process.software)) == Threads::Any;
        let otherwise = |last| asked_otherwise(last, response.request.as_ref());
        any && signal.source == Source::Kernel
            && response.last_attempt.as_deref().is_some_and(otherwise)
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
        // A connect that failed long before the response was followed by another.
        let before = exchange
            .attempts
            .last()
            .map(|last| (last.at, &last.attempt));
        let long_before = |(ended, last): &(Nanos, &Attempt)| {
            threads == Threads::Own && is_unconnected(last) && ended.saturating_add(LATE) < *at
        };
        let told = (!crowded).then(|| self.try_told(exchange)).flatten();
        let named = told.filter(|told| told.local.is_some() && told.upstream.is_some());
        let is_named = |attempt: &Attempt| {
            named.is_some_and(|told| {
                told.local == attempt.local && told.upstream.as_ref() == Some(&attempt.upstream)
            })
        };
        // The line names another connection: nothing else is looked for then.
        let mistaken = named.is_some() && before.as_ref().is_some_and(|(_, b)| !is_named(b));
        // Its thread had read this client last, and sent another's request: one that sent this one is its own.
        let strayed = threads == Threads::Own
            && before.is_some_and(|(_, last)| asked_otherwise(last, response.request.as_ref()));
        let looks_on = mistaken || strayed || before.as_ref().is_some_and(long_before);
        let complete = before.is_some() && !looks_on;
        if threads == Threads::Any && !crowded && before.is_some() && !mistaken {
            self.adopt_tries(key);
            return;
        }
        if threads == Threads::InTurn || complete || crowded {
            return;
        }
        let asked = response.request_at.unwrap_or(*at);
        let software = self.proxy_of(exchange);
        let surely = self.surely_said(exchange);
        let tells = tells_timeouts(software);
        let fits = |(key, other): (&Key, &Exchange)| {
            let alone = matches!(key, Key::Attempt(..)) && other.response.is_none();
            let [tried] = &other.attempts[..] else {
                return None;
            };
            let fit = fit(tried, response, *at, software).filter(|_| alone)?;
            if surely.is_some_and(|told| !may_tell_of(told, &tried.attempt)) {
                return None;
            }
            let unnamed = !is_named(&tried.attempt);
            let said = told.and_then(|told| told.said);
            let connect =
                |said: &Said| matches!(said, Said::ConnectFailed { .. } | Said::ConnectTimedOut);
            let said = said.filter(connect);
            let denied = said.is_some_and(|said| !diagnose::ended_so(said, tried.attempt.end));
            if mistaken && unnamed || denied {
                return None;
            }
            // Who has no connection is told so by another status.
            let unconnected = fit >= Fit::Thread;
            if strayed && (unconnected || contradicts(&tried.attempt, response, software)) {
                return None;
            }
            let elsewhere = before.is_some_and(|(_, b)| b.upstream != tried.attempt.upstream);
            if unconnected && elsewhere {
                return None;
            }
            if tells && unconnected && response.status == Some(502) {
                return None;
            }
            // Requests alike are sent in the order in which they were read.
            let order = sent_since(&tried.attempt, asked).abs_diff(asked);
            let less_apt = contradicts(&tried.attempt, response, software);
            // What a timer ended nobody else calls unavailable.
            let surely = tells || tried.attempt.end == End::GivenUp && response.status == Some(503);
            if less_apt && surely {
                return None;
            }
            // One whose answer was refused, as it seems: another client's may have been taken.
            let doubtful = tried.attempt.received > 0 && answered_well(&tried.attempt);
            // Varnish ends an attempt before it answers.
            let later = software == Some(Software::Varnish) && tried.at > *at;
            // Of several tries for one request the last one led to the response.
            let earlier = !at_once(tried.at, *at);
            let distance = tried.at.abs_diff(*at);
            let whose = (later, earlier, order, distance);
            Some((
                (named.is_some() && unnamed, fit),
                less_apt,
                doubtful,
                whose,
                *key,
            ))
        };
        let Some((.., found)) = self.open.iter().filter_map(fits).min() else {
            return;
        };
        let Some(mut tried) = self.open.remove(&found).and_then(|mut e| e.attempts.pop()) else {
            return;
        };
        tried.attempt.downstream = None;
        if strayed {
            self.take_last_back(key);
        }
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
        let alone = self.alone_of_its_kind(exchange);
        let flow = tried.attempt.flow;
        // A connect says nothing of what it is for: a proxy's own check of a server fails as well, at
        // the moment at which it answers that it has none.
        let tells_nothing = tried.attempt.request.is_none();
        let said = !tells_nothing
            || threads == Threads::Blocking
            || calls_for_requests_alone(self.proxy_of(exchange));
        let software = self.proxy_of(exchange);
        let contradicted = contradicts(&tried.attempt, response, software);
        let said = said && !(tells_timeouts(software) && contradicted);
        let adjacent = match threads {
            // The thread read one client, began an attempt, and answered that client when it ended.
            Threads::Blocking | Threads::Own => alone || (begun_for_it && at_once(tried.at, *at)),
            _ => alone,
        };
        let Some(exchange) = self.open.get_mut(&key) else {
            return;
        };
        if threads == Threads::Own && said && tells_nothing {
            exchange.tie_alone(alone);
        }
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

    /// Whether its last attempt and its response have only each other; or whichever attempt it was of
    /// those that can be meant, all of them failed of the same.
    fn alone_of_its_kind(&self, exchange: &Exchange) -> bool {
        let (Some((at, _, response)), Some(tried)) = (&exchange.response, exchange.attempts.last())
        else {
            return false;
        };
        let Some(others) = self.moments.others(&exchange.attempts, *at, response) else {
            return false;
        };
        self.all_fail_alike(exchange, tried, &others)
    }

    /// Whether these attempts have all surely failed of the same as this one.
    pub(super) fn all_fail_alike(
        &self,
        exchange: &Exchange,
        tried: &Tried,
        others: &BTreeSet<(FlowId, Nanos)>,
    ) -> bool {
        if others.is_empty() {
            return true;
        }
        let Some(own) = self.proves(exchange, exchange, tried) else {
            return false;
        };
        let alike = |other: &(FlowId, Nanos)| {
            let open = self
                .by_flow
                .get(&other.0)
                .and_then(|key| self.open.get(key));
            let this = |t: &&Tried| (t.attempt.flow, t.attempt.began) == *other;
            let tried = open.and_then(|e| e.attempts.iter().find(this));
            match open.zip(tried) {
                Some((other, tried)) => self.proves(exchange, other, tried) == Some(own),
                None => self.moments.told(*other) == Some((own, Confidence::Proven)),
            }
        };
        others.len() <= ALIKE && others.iter().all(alike)
    }

    /// What an attempt of another exchange has surely failed of; where that one has no response (yet), if
    /// the attempt led to this one's.
    fn proves(&self, this: &Exchange, other: &Exchange, tried: &Tried) -> Option<Cause> {
        let mut case = self.case_of_facts(other, true);
        let response = this.response.as_ref().map(|(.., response)| response);
        case.response = case.response.or(response);
        let told = diagnose::diagnose_attempt(&case, tried)?;
        (told.confidence == Confidence::Proven).then_some(told.cause)
    }
}

fn fit(tried: &Tried, response: &Response, at: Nanos, software: Option<Software>) -> Option<Fit> {
    let attempt = &tried.attempt;
    let near = tried.at.abs_diff(at);
    let asked = response.request_at.unwrap_or(at);
    let began = asked <= sent_since(attempt, asked) && attempt.began <= at;
    if !began || attempt.proxy != response.proxy || !passed_on(attempt, response, software) {
        return None;
    }
    if attempt.request.is_some() {
        let same = same_request(attempt, response.request.as_ref());
        let fit = match asked <= attempt.began {
            true => Fit::Content,
            false => Fit::Given,
        };
        return (same && near <= SETTLE).then_some(fit);
    }
    let failed = is_unconnected(attempt);
    let any = Threads::of(software) == Threads::Any;
    if !failed || !(any || led_by_none(attempt)) || attempt.upstream.0 == NSCD {
        return None;
    }
    let late = near > SOON;
    // A thread that is kept from its CPU answers late, but what it began at once was for this request.
    let prompt = attempt.began - asked <= SOON && tried.at <= at && near <= LATE;
    match attempt.thread == response.thread {
        _ if late => (prompt && (any || attempt.thread == response.thread)).then_some(Fit::Late),
        true => Some(Fit::Thread),
        false => any.then_some(Fit::Time),
    }
}

/// When it was begun for a request that came then: a connection that was begun before may have been given
/// to it.
fn sent_since(attempt: &Attempt, asked: Nanos) -> Nanos {
    match &attempt.request {
        Some(request) if attempt.began < asked => request.at,
        _ => attempt.began,
    }
}

/// Whether it answers 504 where its timer ended an attempt, and nowhere else.
fn tells_timeouts(software: Option<Software>) -> bool {
    matches!(software, Some(Software::Haproxy | Software::Envoy))
}

/// Whether it connects for nothing but a client's request, at once, and limits none: it checks no
/// server's health and has no queue.
fn calls_for_requests_alone(software: Option<Software>) -> bool {
    software == Some(Software::H2o)
}

/// Both requests can be read, and differ.
fn asked_otherwise(attempt: &Attempt, asked: Option<&Opening>) -> bool {
    let sent = attempt.request.as_ref().map(|request| &request.opening);
    let http = |opening: Option<&Opening>| matches!(opening, Some(Opening::HttpRequest { .. }));
    http(sent) && http(asked) && !same_request(attempt, asked)
}

/// What such a proxy does not answer to an end like this: of requests alike it is another's, whose
/// client has left. Varnish has one status for all.
fn contradicts(attempt: &Attempt, response: &Response, software: Option<Software>) -> bool {
    if software == Some(Software::Varnish) {
        return false;
    }
    let timed_out = response.status == Some(504);
    match attempt.end {
        End::GivenUp => attempt.received == 0 && !timed_out,
        End::PeerClosed | End::Reset => timed_out,
        _ => false,
    }
}

/// No error of the upstream's own.
fn answered_well(attempt: &Attempt) -> bool {
    let status = attempt.response.as_ref().and_then(status_of);
    status.is_none_or(|status| status < 500)
}

/// An upstream's own error is the response only with its own status. One for a head that was refused is
/// the proxy's own; that a beginning alone came is told in several ways.
fn passed_on(attempt: &Attempt, response: &Response, software: Option<Software>) -> bool {
    match attempt.response {
        Some(Opening::HttpResponse { status: ..500 }) if attempt.end == End::Answered => {
            [Some(500), Some(refuses_with(software))].contains(&response.status)
        }
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
mod tests;
