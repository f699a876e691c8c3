//! Finds the attempt of a response whose proxy works on several requests at once. Pure.
//!
//! What such a thread read last says nothing of what it sends next, but what it sends does: the same
//! method and path. Connects that failed carry no request; they began when it was read, and the
//! response follows at once. Others may be meant that are alike: what is proven by it is told by
//! `moments`.

mod fit;

use std::collections::BTreeSet;

use super::exchange::Exchange;
use super::give_back::may_tell_of;
use super::moments::{LATE, at_once, is_unconnected};
use super::threads::{Threads, asked_otherwise};
use super::{Key, Tracker};
use crate::cause::Cause;
use crate::diagnose::{self, Tried};
use crate::signal::{Attempt, End, FlowId, LinkOrder, Nanos, Said, Software, Source};
use crate::verdict::Confidence;
use fit::{
    Fit, answered_well, calls_for_requests_alone, contradicts, fit, sent_since, tells_timeouts,
};

/// With more exchanges open than this none is looked for: it would take long, and be doubtful.
const CROWD: usize = 2048;
/// With more attempts alike none is looked at.
const ALIKE: usize = 16;

impl Tracker {
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
        // Nor does a handshake in TLS.
        let tells_nothing = tried.attempt.request.is_none() || tried.attempt.unasked;
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

#[cfg(test)]
mod tests;
