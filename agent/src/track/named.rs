//! Whether the proxy's own line surely tells of the attempt that an exchange was given. Pure.
//!
//! A connect that failed says nothing of what it was for, and what was asked may have been asked for
//! two clients. The proxy's log tells whose it was, where its line can be about no other exchange and
//! says of the same upstream what was seen of the attempt, and no other attempt there was can be meant.

use super::Tracker;
use super::exchange::Exchange;
use super::moments::at_once;
use super::seen::is_address;
use super::told::{port, same_request};
use crate::diagnose::{self, Tried};
use crate::signal::{Address, End, LoggedTry, Nanos, Response, Said, Software, Source};

impl Tracker {
    /// Whether it says so of the last attempt.
    pub(super) fn names_attempt(&self, exchange: &Exchange) -> bool {
        let (Some(told), Some((at, Source::Kernel, response)), Some(tried)) =
            (&exchange.told, &exchange.response, exchange.attempts.last())
        else {
            return false;
        };
        if tried.source != Source::Kernel || told.guessed {
            return false;
        }
        let Some((_, last)) = told.tries.last() else {
            return false;
        };
        let asked = response.request.is_some()
            && told.request.is_some()
            && same_request(response.request.as_ref(), told.request.as_ref());
        let client =
            (told.client.as_ref()).is_none_or(|a| same_client(a, response.client.as_ref()));
        asked
            && client
            && self.tells_of(exchange, last, tried, (*at, response))
            && self.surely_told(exchange, told)
    }

    /// Whether the try that failed can only be this attempt, which ended when the response began: who
    /// says at that moment that a connect failed has not failed of one before.
    fn tells_of(
        &self,
        exchange: &Exchange,
        told: &LoggedTry,
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
        // HAProxy has names of its own for its servers: whose address it was is not told.
        let this = told.upstream.as_ref() == Some(&attempt.upstream);
        let software = self.host.process(attempt.proxy).map(|p| p.software);
        let unnamed =
            software == Some(Software::Haproxy) && !told.upstream.as_ref().is_some_and(is_address);
        match attempt.end {
            _ if !at_once(tried.at, until) => false,
            End::ConnectFailed { errno } if said == (Said::ConnectFailed { errno }) => {
                this && self.connects.ended_alike(attempt, until)
                    || unnamed && self.connects.only(attempt, until)
            }
            // What the line calls a connect may have been a handshake as well.
            End::ConnectFailed { .. } | End::ConnectGivenUp => {
                (this || unnamed)
                    && self.connects.only(attempt, until)
                    && self.moments.no_handshake(attempt, until)
            }
            // One that is called timed out may have had no connection, one whose head was refused was
            // answered: of such attempts not all are told.
            _ => {
                let broken = matches!(
                    said,
                    Said::PeerClosed | Said::Reset | Said::ClosedOrReset | Said::SendFailed { .. }
                );
                let may_be = this || told.upstream.is_none();
                let same = diagnose::same_request(attempt, response.request.as_ref());
                let others = self.moments.like(attempt, until);
                let alike = |others| self.all_fail_alike(exchange, tried, &others);
                broken && may_be && same && others.is_some_and(alike)
            }
        }
    }
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
