//! Takes back an attempt that a response was given, where the proxy's own line tells of another, or of none.
//! Pure.
//!
//! Requests alike fail at one moment, and a proxy's check of a server fails as those are told that waited for
//! the server: what ended then may have led to any of these responses. What the line says that names the
//! request decides.

use super::exchange::Exchange;
use super::moments::is_unconnected;
use super::seen::is_address;
use super::threads::Threads;
use super::told::Told;
use super::{Key, Tracker};
use crate::diagnose;
use crate::signal::{Attempt, Opening, Said};

impl Tracker {
    /// Takes an attempt back that was another's, and looks for its own.
    pub(super) fn exchange_given(&mut self, key: Key) {
        if self.give_back(key) {
            self.adopt(key);
            self.adjoin(key);
            self.tie(key);
        }
    }

    /// Whether an attempt was taken from it, which then is to be had by others.
    fn give_back(&mut self, key: Key) -> bool {
        let Some(exchange) = self.open.get(&key) else {
            return false;
        };
        let [tried] = &exchange.attempts[..] else {
            return false;
        };
        let given = exchange.response.is_some() && tried.attempt.downstream.is_none();
        if !given || self.threads(exchange) == Threads::InTurn {
            return false;
        }
        let Some(told) = self.surely_said(exchange) else {
            return false;
        };
        let case = self.case_of_facts(exchange, true);
        if may_tell_of(told, &tried.attempt) || diagnose::is_tied(&case, &tried.attempt) {
            return false;
        }
        self.take_last_back(key)
    }

    /// Takes its last attempt from it, which then stands for itself.
    pub(super) fn take_last_back(&mut self, key: Key) -> bool {
        let Some(mut tried) = self.open.get_mut(&key).and_then(Exchange::release) else {
            return false;
        };
        tried.attempt.downstream = None;
        // A connect of a pool was shared, and stands for itself as well.
        if self.by_flow.get(&tried.attempt.flow) == Some(&key) {
            let own = Key::Attempt(tried.attempt.flow, tried.attempt.began);
            self.by_flow.insert(tried.attempt.flow, own);
            self.exchange(own).adopt(tried);
        }
        true
    }
}

/// Whether these lines can tell of this attempt as of the last one.
pub(super) fn may_tell_of(told: &Told, attempt: &Attempt) -> bool {
    let Some((_, last)) = told.tries.last() else {
        return !told
            .said
            .is_some_and(|(_, said)| diagnose::asks_nobody(said));
    };
    let called = last.upstream.as_ref().filter(|address| is_address(address));
    let opening = attempt.request.as_ref().map(|request| &request.opening);
    let sent = matches!(opening, Some(Opening::HttpRequest { .. }));
    let ended = last.said.is_none_or(|said| match said {
        Said::ClientLeft => true,
        said if diagnose::asks_nobody(said) => true,
        // Or within a handshake.
        Said::NotConnected => is_unconnected(attempt) || !sent,
        Said::ConnectFailed { .. } | Said::ConnectTimedOut => diagnose::ended_so(said, attempt.end),
        // How a head that never became complete was taken, each calls as it likes.
        said => attempt.received > 0 || diagnose::ended_so(said, attempt.end),
    });
    ended && called.is_none_or(|address| *address == attempt.upstream)
}
