//! How a proxy's threads share its work, and what their order tells of whose attempt it was. Pure.

use super::exchange::Exchange;
use super::{Key, Tracker};
use crate::diagnose::same_request;
use crate::signal::{Attempt, Opening, Response, Signal, Software, Source};

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
    pub(super) fn of(software: Option<Software>) -> Threads {
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
}

/// Both requests can be read, and differ.
pub(super) fn asked_otherwise(attempt: &Attempt, asked: Option<&Opening>) -> bool {
    let sent = attempt.request.as_ref().map(|request| &request.opening);
    let http = |opening: Option<&Opening>| matches!(opening, Some(Opening::HttpRequest { .. }));
    http(sent) && http(asked) && !same_request(attempt, asked)
}
