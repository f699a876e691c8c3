//! Whether the proxy's own line surely tells of the attempt that an exchange was given. Pure.
//!
//! A connect that failed says nothing of what it was for, and what was asked may have been asked for
//! two clients. The proxy's log tells whose it was, where its line can be about no other exchange and
//! says of the same upstream what was seen of the attempt, and no other attempt there was can be meant.

use super::Tracker;
use super::exchange::Exchange;
use super::moments::{LATE, at_once};
use super::seen::{SLACK, is_address};
use super::told::{Told, port, same_request};
use crate::diagnose::{self, Tried};
use crate::signal::{Address, End, LoggedTry, Nanos, Opening, Response, Said, Software, Source};
use crate::track::host::SECOND;

/// `backend_local_error_holddown`, which is the longest, by default.
const HELD: Nanos = 10 * SECOND;

impl Tracker {
    /// Whether its lines name its request, and can be about no other exchange.
    pub(super) fn names_exchange(&self, exchange: &Exchange) -> bool {
        let (Some(told), Some((_, Source::Kernel, response))) =
            (&exchange.told, &exchange.response)
        else {
            return false;
        };
        // What is encrypted may be any request.
        let seen = matches!(response.request, Some(Opening::HttpRequest { .. }));
        let asked = seen
            && told.request.is_some()
            && same_request(response.request.as_ref(), told.request.as_ref());
        let client =
            (told.client.as_ref()).is_none_or(|a| same_client(a, response.client.as_ref()));
        !told.guessed && asked && client && self.surely_told(exchange, told)
    }

    /// Whether lines that name it are its own alone: by the client's port, or because nothing else was asked for
    /// and answered so then. Of those that requests alike share, an attempt that was given to one may be another's.
    fn names_it_alone(&self, exchange: &Exchange, told: &Told, response: &Response) -> bool {
        let from = told.from.saturating_sub(SLACK);
        let to = told.to.saturating_add(SLACK);
        let only = || self.moments.only_answer(response, from, to);
        // Whatever attempt it was given.
        let agreed = || {
            let errors = self.errors_are_read();
            exchange.seen().without_given().is_none_or(|seen| {
                let lines = self.logs.free().map(|(_, line)| line);
                let mut fit = lines.filter(|line| self.fit_seen(&seen, line, errors).is_some());
                fit.all(|line| line.says_the_same(told) && line.upstream() == told.upstream())
            })
        };
        port(told.client.as_ref()).is_some() || only() && agreed()
    }

    /// What this exchange's own line says, where it is surely that.
    pub(super) fn surely_said<'a>(&self, exchange: &'a Exchange) -> Option<&'a Told> {
        let (told, (.., response)) = (exchange.told.as_ref()?, exchange.response.as_ref()?);
        let own = self.names_it_alone(exchange, told, response) && self.names_exchange(exchange);
        own.then_some(told)
    }

    /// Whether it says so of the last attempt; `named`: whether they name the exchange.
    pub(super) fn names_attempt(&self, exchange: &Exchange, named: bool) -> bool {
        let (Some(told), Some((at, Source::Kernel, response))) =
            (&exchange.told, &exchange.response)
        else {
            return false;
        };
        let last = told.tries.last();
        let alone = named && self.names_it_alone(exchange, told, response);
        let Some(tried) = exchange.attempts.last() else {
            let said = last.and_then(|(_, last)| last.said);
            return alone && self.tells_of_held(said, told.proxy, response);
        };
        let tells = |(_, last): &(Nanos, LoggedTry)| {
            self.tells_of(exchange, (last, alone), tried, (*at, response))
        };
        // Go's line names nothing else than the connection that broke. Or there are as many lines as
        // failures, all alike: it does not matter which is whose. Not where failures show nowhere.
        let of_this = || last.is_some_and(|(_, last)| names_connection(last, tried));
        let all = || self.moments.reads_all(tried.attempt.proxy, *at);
        let its = || {
            alone
                || all()
                    && (named || told.names_nothing())
                    && (named || of_this() || self.surely_told(exchange, told))
        };
        tried.source == Source::Kernel && last.is_some_and(tells) && its()
    }

    /// Whether it says what was seen of all connects for one of which Varnish held back.
    fn tells_of_held(
        &self,
        said: Option<Said>,
        proxy: Option<Software>,
        response: &Response,
    ) -> bool {
        let end = response.untied.as_ref().map(|untied| untied.end);
        let (Some(End::ConnectFailed { errno }), Some(Software::Varnish)) = (end, proxy) else {
            return false;
        };
        said == Some(Said::ConnectFailed { errno }) && self.connects.knows_held(response)
    }

    /// Whether the try that failed can only be this attempt, which ended when the response began: who
    /// says at that moment that a connect failed has not failed of one before. `alone`: the line is of this
    /// exchange and no other.
    fn tells_of(
        &self,
        exchange: &Exchange,
        (told, alone): (&LoggedTry, bool),
        tried: &Tried,
        (until, response): (Nanos, &Response),
    ) -> bool {
        let attempt = &tried.attempt;
        let Some(said) = told
            .said
            .filter(|said| diagnose::ended_so(*said, attempt.end))
        else {
            return false;
        };
        // HAProxy has names of its own for its servers: whose address it was is not told. So has Varnish
        // where it got no connection, or one to a Unix socket.
        let this = told.upstream.as_ref() == Some(&attempt.upstream);
        let software = self.host.process(attempt.proxy).map(|p| p.software);
        let names_servers = match software {
            Some(Software::Haproxy) => true,
            // It did not connect at all, for a connect that failed before.
            Some(Software::Varnish) => said != Said::NotConnected,
            _ => false,
        };
        let unnamed = names_servers && !told.upstream.as_ref().is_some_and(is_address);
        // After one that failed Varnish makes no connect for a while, and says of each request that it failed.
        let since = response.request_at.unwrap_or(0).min(tried.at);
        let since = since.saturating_sub(HELD);
        let alone_since =
            || software != Some(Software::Varnish) || self.connects.only_since(tried, since, until);
        let connects = || {
            let its = this && self.connects.ended_alike(tried, until)
                || unnamed && self.connects.only(tried, until) && alone_since();
            // Which of several is whose lines of requests alike do not say, nor those without any.
            let like = || {
                self.moments
                    .tried_otherwise(&exchange.attempts, until, response)
            };
            its && (alone || self.connects.all_ended_so(tried, until) && !like())
        };
        // A line that names the connection tells of no other attempt, however late it is answered. Go's does
        // not say for which of requests alike.
        let since = response.request_at.unwrap_or(until);
        let then = (since..=until).contains(&tried.at);
        let its = names_connection(told, tried) && then;
        // Requests alike that one connection carried, each answered with this status, failed of the same.
        let answer = attempt.response == told.status.map(|status| Opening::HttpResponse { status });
        let passed_on = said == Said::Answered && answer && told.status == response.status;
        if its
            && (sent(said) || passed_on)
            && diagnose::same_request(attempt, response.request.as_ref())
        {
            let others = || self.moments.as_many(tried, until, response);
            let alike = |others| self.all_fail_alike(exchange, tried, &others);
            if alone || others().is_some_and(alike) {
                return true;
            }
        }
        // Varnish makes none for a while after one that was refused, and its line has that one's error.
        let held = || unnamed && software == Some(Software::Varnish);
        match attempt.end {
            End::ConnectFailed { errno }
                if said == (Said::ConnectFailed { errno })
                    && held()
                    && self.connects.only_held(tried, until, response) =>
            {
                true
            }
            _ if !at_once(tried.at, until) && !self.answers_late(tried, until, response) => false,
            End::ConnectFailed { errno } if said == (Said::ConnectFailed { errno }) => connects(),
            // What the line calls a connect may have been a handshake as well.
            End::ConnectFailed { .. } | End::ConnectGivenUp => {
                connects() && self.moments.no_handshake(tried, until)
            }
            _ => {
                let may_be = this || told.upstream.is_none() || unnamed;
                let same = diagnose::same_request(attempt, response.request.as_ref());
                let others = match alone && !tells_of_answer(said) {
                    true => self.moments.like(tried, until),
                    false => self.moments.as_many(tried, until, response),
                };
                let alike = |others| self.all_fail_alike(exchange, tried, &others);
                let sent = sent(said) || tells_of_answer(said) && attempt.end == End::Answered;
                sent && may_be && same && others.is_some_and(alike)
            }
        }
    }

    /// A thread that works for its own clients alone, and has no CPU, says late that what it did for a request
    /// has failed: what ended since is looked at as well.
    fn answers_late(&self, tried: &Tried, at: Nanos, response: &Response) -> bool {
        let attempt = &tried.attempt;
        let software = self.host.process(attempt.proxy).map(|p| p.software);
        let own = matches!(software, Some(Software::Haproxy | Software::Envoy));
        let since = response.request_at.unwrap_or(at);
        let sent = attempt.request.as_ref().map(|request| request.at);
        own && attempt.thread == response.thread
            && (since..=at).contains(&sent.unwrap_or(attempt.began))
            && (since..=at).contains(&tried.at)
            && at - tried.at <= LATE
    }
}

/// Whether the line names the attempt's connection, by both ends.
fn names_connection(told: &LoggedTry, tried: &Tried) -> bool {
    let upstream = told.upstream.as_ref() == Some(&tried.attempt.upstream);
    upstream && told.local.is_some() && told.local == tried.attempt.local
}

/// Whether it says this of a request that was sent. What is only called timed out may have had no
/// connection.
fn sent(said: Said) -> bool {
    said.broke() || said == Said::ReadTimedOut
}

/// Of an answer, taken or not: of such attempts not all are told.
fn tells_of_answer(said: Said) -> bool {
    matches!(said, Said::HeadRefused | Said::HeadInvalid | Said::Answered)
}

/// A client that the line names is the response's, at its port where the line has one.
fn same_client(told: &Address, seen: Option<&Address>) -> bool {
    seen.is_some_and(|seen| match port(Some(told)) {
        Some(_) => told == seen,
        None => told.ip() == seen.ip(),
    })
}

#[cfg(test)]
mod tests;
