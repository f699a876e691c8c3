//! Ties lines of logs to the exchanges that other sources see, and tells those that none saw. Pure.
//!
//! Lines are tied anew with every fact, and for good when the exchange is decided: the line that fits
//! best may come last.

use super::exchange::Exchange;
use super::logs::{Followed, ToldId};
use super::seen::{Fit, Seen, wrote};
use super::told::{Told, port, same_request};
use super::{Decided, Key, Tracker};
use crate::cause::Cause;
use crate::diagnose::Diagnosis;
use crate::signal::{Address, FlowId, LogLine, Logged, LoggedTry, Nanos, Software, Source};

/// So many lines too late in a row, and no verdict waits for one.
const LATE: u32 = 32;
/// Decided exchanges whose lines may still come.
const RECENT: usize = 4096;
/// The same before any log was recognised, which may take until its first line.
const BEFORE: usize = 64;
/// The last of these may be meant by a line that fits an undecided one.
const LATELY: usize = 1024;
/// So many lines or exchanges that fit, and none is tied: it would be doubtful, and costs time.
pub(super) const CROWD: usize = 256;
/// So many lines that fit one exchange, and none proves anything: looking at all costs time.
pub(super) const ALIKE: usize = 64;
/// A failure that was seen, and the line about it.
const SLACK: Nanos = 100_000_000;
/// Numbers of flows that no kernel gives: those of exchanges that only a log tells of.
const LOGGED: FlowId = 1 << 63;
/// More attempts than an exchange keeps.
const LOGGED_STEP: FlowId = 64;

/// A decided exchange that another source saw.
#[derive(Debug)]
pub(super) struct Failed {
    at: Nanos,
    proxy: u32,
    client: Option<Address>,
}

fn near(at: Nanos, told: &Told) -> bool {
    at.saturating_add(SLACK) >= told.from && at <= told.to.saturating_add(SLACK)
}

impl Tracker {
    /// A line of a proxy's log: about an exchange that another source sees, or one that none does.
    pub(super) fn logged(&mut self, at: Nanos, line: &Logged, out: &mut Vec<Decided>) {
        // What answers in a thread is another source's to see.
        if line.is_of_thread() {
            return;
        }
        for (at, line) in self.logs.completed(self.now, at, line) {
            self.take_line(at, &line, out);
        }
    }

    /// Takes in lines that waited for another which has not come; `end`: none will.
    pub(super) fn take_nameless(&mut self, end: bool, out: &mut Vec<Decided>) {
        let until = if end { Nanos::MAX } else { self.now };
        for (at, line) in self.logs.named_too_late(until) {
            self.take_line(at, &line, out);
        }
    }

    fn take_line(&mut self, at: Nanos, line: &Logged, out: &mut Vec<Decided>) {
        self.join_line(at, line, out);
        if let Some((at, displaced)) = self.logs.take_displaced() {
            self.join_line(at, &displaced, out);
        }
    }

    fn join_line(&mut self, at: Nanos, line: &Logged, out: &mut Vec<Decided>) {
        let followed = Followed {
            access: self.host.sees("access_log"),
            error_of_apache: self.host.sees("apache_error_log"),
        };
        let nameless = line.line == LogLine::Error && line.request.is_none();
        let of_decided = nameless && self.is_of_seen(&Told::new(at, line));
        let id = (self.logs).line(self.now, at, line, of_decided, followed);
        let Some(told) = id.and_then(|id| self.logs.get(id)) else {
            return;
        };
        let fits = self.exchanges_of(told, self.errors_are_read());
        let fits: Vec<_> = fits.take(CROWD).collect();
        // Among equals the first, so that a replay chooses the same.
        let best = fits.iter().max_by(|(a, x), (b, y)| a.cmp(b).then(y.cmp(x)));
        if let Some(&(_, key)) = best.filter(|_| fits.len() < CROWD) {
            self.decide_if_settled(key, out);
        }
    }

    /// The undecided exchanges that these lines may be about.
    fn exchanges_of(&self, told: &Told, errors: bool) -> impl Iterator<Item = (Fit, Key)> {
        let open = self.open.iter();
        let others = open.filter(|(key, _)| !matches!(key, Key::Logged(_)));
        others.filter_map(move |(key, exchange)| Some((self.fit(exchange, told, errors)?, *key)))
    }

    pub(super) fn fit(&self, exchange: &Exchange, told: &Told, errors: bool) -> Option<Fit> {
        // Nobody's requests fail in it.
        if exchange.led_by_no_request() {
            return None;
        }
        let fit = self.fit_seen(exchange.seen(), told, errors)?;
        wrote(self.proxy_of(exchange), told.proxy).then_some(fit)
    }

    /// The same of one that may be decided. Each process writes of what it does itself.
    pub(super) fn fit_seen(&self, seen: &Seen, told: &Told, errors: bool) -> Option<Fit> {
        let fit = seen.fit(told, errors)?;
        let another = |proxy: u32| told.pid != 0 && self.host.are_apart(proxy, told.pid);
        (!seen.proxy.is_some_and(another)).then_some(fit)
    }

    pub(super) fn proxy_of(&self, exchange: &Exchange) -> Option<Software> {
        let response = exchange.response.as_ref().map(|(_, _, r)| r.proxy);
        let pid = response.or_else(|| exchange.attempts.last().map(|t| t.attempt.proxy))?;
        self.host.process(pid).map(|process| process.software)
    }

    /// The try by which Varnish's line says that this response came about: the line of the same client and
    /// port, request and status.
    pub(super) fn try_told(&self, exchange: &Exchange) -> Option<&LoggedTry> {
        let Some((at, Source::Kernel, response)) = &exchange.response else {
            return None;
        };
        let client = response
            .client
            .as_ref()
            .filter(|c| port(Some(c)).is_some())?;
        let its = |told: &&Told| {
            told.proxy == Some(Software::Varnish)
                && told.client.as_ref() == Some(client)
                && told.status == response.status
                && told.from.abs_diff(*at) <= SLACK
                && same_request(told.request.as_ref(), response.request.as_ref())
        };
        let mut lines = self.logs.free().map(|(_, told)| told).filter(its);
        let (told, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        told.tries.last().map(|(_, last)| last)
    }

    pub(super) fn errors_are_read(&self) -> bool {
        self.host.sees("nginx_error_log") || self.host.sees("apache_error_log")
    }

    /// Finds the lines about this exchange, among those that are about no other.
    pub(super) fn tie(&mut self, key: Key) {
        let Some(exchange) = self.open.get(&key) else {
            return;
        };
        if matches!(key, Key::Logged(_)) || !self.host.sees("proxy_log") {
            return;
        }
        let told = self.told_of(exchange);
        if let Some(exchange) = self.open.get_mut(&key) {
            exchange.take_told(told);
        }
    }

    fn told_of(&self, exchange: &Exchange) -> Option<(ToldId, Told)> {
        // The line of an earlier try is the response's.
        let is_try =
            |tried: &Exchange, of: &Exchange| tried.response.is_none() && tried.is_try_of(of);
        let unanswered = exchange.response.is_none();
        if unanswered && self.open.values().any(|other| is_try(exchange, other)) {
            return None;
        }
        let errors = self.errors_are_read();
        let fit = |(id, told)| Some((self.fit(exchange, told, errors)?, id, told));
        let fits = self.logs.free().filter_map(fit).take(CROWD);
        let mut fits: Vec<(Fit, ToldId, &Told)> = fits.collect();
        if fits.len() == CROWD {
            return None;
        }
        self.without_further_tries(&mut fits, |(.., told)| told);
        fits.sort_by_key(|(fit, id, _)| (std::cmp::Reverse(*fit), *id));
        for equal in fits.chunk_by(|(a, ..), (b, ..)| a == b) {
            let (fit, id, told) = equal[0];
            let mut exchanges = 0;
            let mut of_another = false;
            let mut all = 0;
            for (other, key) in self.exchanges_of(told, errors).take(CROWD) {
                all += 1;
                if self.open.get(&key).is_some_and(|e| is_try(e, exchange)) {
                    continue;
                }
                exchanges += usize::from(other == fit);
                of_another |= other > fit;
            }
            if all == CROWD {
                return None;
            }
            // Those that were decided before their lines came may still be meant.
            for seen in self.recent.iter().rev().take(LATELY) {
                let late = self.fit_seen(seen, told, errors);
                exchanges += usize::from(late == Some(fit));
                of_another |= late.is_some_and(|late| late > fit);
            }
            if of_another {
                continue;
            }
            let all_say_the_same = equal.iter().all(|(.., other)| told.says_the_same(other));
            let mut told = told.clone();
            // As many lines as exchanges that they fit: whichever is whose, it is this.
            told.ambiguous |= !all_say_the_same || equal.len() < exchanges;
            told.alone = equal.len() == 1 && exchanges == 1;
            return Some((id, told));
        }
        None
    }

    /// Of several, an error line of a request whose access line went to another try of it is none by itself.
    pub(super) fn without_further_tries<T>(&self, lines: &mut Vec<T>, told: impl Fn(&T) -> &Told) {
        let whole: Vec<Told> = match (2..ALIKE).contains(&lines.len()) {
            true => lines
                .iter()
                .map(&told)
                .filter(|t| t.has_access)
                .cloned()
                .collect(),
            false => return,
        };
        // What says something else, and is no pooled connection's failure, may be another request's.
        let adds = |line: &Told| !line.broke() && !whole.iter().any(|w| w.why().eq(line.why()));
        if !whole.is_empty() {
            lines.retain(|line| {
                let line = told(line);
                line.has_access || adds(line) || !self.logs.is_further_try(line)
            });
        }
    }

    /// The proxy writes a line about it as well, which may say otherwise.
    pub(super) fn awaits_line(&self, exchange: &Exchange, diagnosis: &Diagnosis) -> bool {
        // What an upstream answered makes no error.
        let error_comes = self.errors_are_read() && diagnosis.cause != Cause::UpstreamAnswered;
        let complete = |told: &Told| {
            let access = told.has_access || !self.host.sees("access_log");
            access && (told.has_error || !error_comes) && !told.ambiguous
        };
        let follows = self.host.sees("proxy_log") && self.late_lines < LATE;
        follows && !exchange.told.as_ref().is_some_and(complete)
    }

    /// Nothing but its line can say what it is part of, and more lines than this one, or more exchanges, fit:
    /// those that are about to be answered may make them as many.
    pub(super) fn awaits_count(&self, exchange: &Exchange, diagnosis: &Diagnosis) -> bool {
        let untied = |missing: &String| missing.starts_with("exchange_link");
        let crowded = exchange.told.as_ref().is_some_and(|told| !told.alone);
        crowded && diagnosis.missing.iter().any(untied)
    }

    /// Whether an exchange of a proxy that can have written these lines had failed then.
    fn failed_near(&self, told: &Told) -> bool {
        let its = |pid: u32| {
            let process = self.host.process(pid);
            wrote(process.map(|process| process.software), told.proxy)
        };
        let mut failed = self.failed.iter().rev();
        failed.any(|failed| near(failed.at, told) && its(failed.proxy))
    }

    /// Whether an error line without a request is of an exchange that was seen: it names that one's
    /// connection.
    fn is_of_seen(&self, error: &Told) -> bool {
        let client = error.client.as_ref();
        let named = error.has_error && port(client).is_some();
        let mut failed = self.failed.iter().rev();
        named && failed.any(|failed| failed.client.as_ref() == client && near(failed.at, error))
    }

    /// Parts an access line and an error line that only their moment joined, where one of them is of an
    /// exchange that was seen, and the two together are of none: only an access line that nothing else
    /// explains is such an error's. Whether it did.
    pub(super) fn part_lines(&mut self, id: ToldId, out: &mut Vec<Decided>) -> bool {
        if !self.logs.is_free(id) || !self.is_joined_in_vain(id) {
            return false;
        }
        let Some((at, error)) = self.logs.part_by_moment(id) else {
            return false;
        };
        if self.is_of_seen(&Told::new(at, &error)) {
            *self.dropped.entry("doubtful_log_lines").or_default() += 1;
            return true;
        }
        // The access line is of what was seen; the error may have another one.
        if let Some(told) = self.logs.remove(id) {
            self.decide_lines(id, told, out);
        }
        self.join_line(at, &error, out);
        true
    }

    fn is_joined_in_vain(&self, id: ToldId) -> bool {
        let (Some((access, error)), Some(both)) = (self.logs.apart(id), self.logs.get(id)) else {
            return false;
        };
        let errors = self.errors_are_read();
        let seen = |told: &Told| self.recent.iter().any(|s| s.fit(told, errors).is_some());
        !self.host.kernel_told(both.proxy, both.from)
            && (self.is_of_seen(&error) || seen(&access))
            && !seen(both)
    }

    /// It is decided: its lines are no other's; those that did not come may still.
    pub(super) fn part(&mut self, key: Key, exchange: &Exchange) {
        if matches!(key, Key::Logged(_)) {
            return;
        }
        self.connects.led_to(exchange);
        let proxy = exchange.response.as_ref().map(|(.., r)| r.proxy);
        let proxy = proxy.or_else(|| exchange.attempts.last().map(|t| t.attempt.proxy));
        if let Some(proxy) = proxy {
            if self.failed.len() >= RECENT {
                self.failed.pop_front();
            }
            self.failed.push_back(Failed {
                at: exchange.answered_at(),
                proxy,
                client: exchange.client().cloned(),
            });
        }
        if let (Some(id), Some(told)) = (exchange.told_id, &exchange.told) {
            self.logs.claim(id);
            if told.ambiguous {
                // Those left over may be this one's, and this one's another's; but for those that fit
                // another one better.
                let errors = self.errors_are_read();
                let fit = self.fit(exchange, told, errors);
                let better = |(other, _): (Fit, Key)| Some(other) > fit;
                let equal = |(_, other): &(ToldId, &Told)| {
                    !other.ambiguous
                        && self.fit(exchange, other, errors) == fit
                        && !self.exchanges_of(other, errors).any(better)
                };
                let left: Vec<_> = self.logs.free().filter(equal).map(|(id, _)| id).collect();
                self.logs.doubt(&left);
            } else if !told.names_nothing()
                && let Some(seen) = exchange.seen().without_given()
            {
                // Its attempt may be another's, and so its line: what says otherwise may be this one's.
                let errors = self.errors_are_read();
                let otherwise = |(_, other): &(ToldId, &Told)| {
                    let differs = !other.says_the_same(told) && !other.client_left();
                    differs && self.fit_seen(&seen, other, errors).is_some()
                };
                let left = self.logs.free().filter(otherwise).map(|(id, _)| id);
                let left: Vec<_> = left.take(CROWD).collect();
                self.logs.doubt(&left);
            }
            self.late_lines = 0;
            // The access line of Apache's error that names no request may go to another such error.
            let whole = !told.has_error || told.has_access || told.request.is_some();
            if whole || told.names_nothing() {
                return;
            }
        }
        let answered = exchange.response.is_some();
        if !answered && self.open.values().any(|other| exchange.is_try_of(other)) {
            // The line is the response's.
            return;
        }
        let kept = match self.host.sees("proxy_log") {
            true => RECENT,
            false => BEFORE,
        };
        if self.recent.len() >= kept {
            self.recent.pop_front();
        }
        self.recent.push_back(exchange.seen().clone());
    }

    /// An exchange that these lines may be about is undecided yet: it may still be saved by another attempt,
    /// or waits for a fact that comes late, such as a process's exit.
    fn is_awaited(&self, id: ToldId) -> bool {
        let Some(told) = self.logs.get(id) else {
            return false;
        };
        let retried = |e: &&Exchange| e.retried && e.response.is_none();
        let retried = self.open.values().filter(retried);
        let waiting = self.due.iter().filter_map(|(_, key)| self.open.get(key));
        let errors = self.errors_are_read();
        retried
            .chain(waiting)
            .any(|exchange| self.fit(exchange, told, errors).is_some())
    }

    /// No more lines are to be expected about it.
    pub(super) fn decide_told(&mut self, id: ToldId, now: Nanos, out: &mut Vec<Decided>) {
        let free = self.logs.is_free(id);
        if free && self.is_awaited(id) {
            self.logs.postpone(id, now + super::SETTLE);
            return;
        }
        self.part_lines(id, out);
        if let Some(told) = self.logs.remove(id).filter(|_| free) {
            self.decide_lines(id, told, out);
        }
    }

    fn decide_lines(&mut self, id: ToldId, told: Told, out: &mut Vec<Decided>) {
        if self.logs.is_further_try(&told) {
            return;
        }
        let errors = self.errors_are_read();
        // Apache's refusal names no request: the access line that it was given may be another's, as may
        // be one of requests alike. The kernel has told that failure.
        let doubtful = told.guessed || told.request.is_none();
        // Go's line names nothing: it is of a failure that was seen at its moment, if there was one. Of a
        // client that left it tells nothing new.
        let untold = told.names_nothing() && !told.client_left();
        let seen = || !untold || self.failed_near(&told);
        let seen_by_kernel = || self.host.kernel_told(told.proxy, told.from) && seen();
        if doubtful && (seen_by_kernel() || told.request.is_none() && self.is_of_seen(&told)) {
            *self.dropped.entry("doubtful_log_lines").or_default() += 1;
            return;
        }
        let late = |seen: &Seen| self.fit_seen(seen, &told, errors).is_some();
        if let Some(place) = self.recent.iter().position(late) {
            self.recent.remove(place);
            *self.dropped.entry("late_log_lines").or_default() += 1;
            return;
        }
        let key = Key::Logged(id);
        let exchange = Exchange::of_log(told, LOGGED | (id * LOGGED_STEP));
        self.open.insert(key, exchange);
        self.decide(key, true, out);
    }
}

#[cfg(test)]
mod tests;
