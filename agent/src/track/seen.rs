//! Whether lines of a log and what another source saw are one exchange. Pure.

use super::exchange::Exchange;
use super::told::{Told, port, same_request};
use crate::signal::{Address, Nanos, Opening};

/// A line is written a moment after the response; two clocks of one host agree to less.
const SLACK: Nanos = 100_000_000;

/// What identifies an exchange that was seen otherwise.
#[derive(Debug)]
pub(super) struct Seen {
    /// When its attempts ended and its response began.
    times: Vec<Nanos>,
    client: Option<Address>,
    /// As the client sent it; `None` where that cannot be read.
    request: Option<Opening>,
    upstreams: Vec<Address>,
    status: Option<u16>,
}

/// How well the two go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    No,
    /// The log names another client, as behind a load balancer.
    Weak,
    Strong,
}

/// Whether anything of it happened when these lines say that theirs did: asked first, being cheap.
pub(super) fn about_then(exchange: &Exchange, told: &Told) -> bool {
    let attempts = exchange.attempts.iter().map(|t| t.at);
    let response = exchange.response.as_ref().map(|(at, _, _)| *at);
    attempts.chain(response).any(|at| within(at, told))
}

fn within(at: Nanos, told: &Told) -> bool {
    at.saturating_add(SLACK) >= told.from && at <= told.to.saturating_add(SLACK)
}

impl Seen {
    pub(super) fn of(exchange: &Exchange) -> Seen {
        let response = exchange.response.as_ref();
        let link = exchange
            .attempts
            .iter()
            .rev()
            .find_map(|t| t.attempt.downstream.as_ref());
        let times = exchange.attempts.iter().map(|t| t.at);
        let request = response
            .and_then(|(_, _, r)| r.request.clone())
            .or_else(|| link?.request.clone());
        let upstreams = exchange.attempts.iter().map(|t| t.attempt.upstream.clone());
        Seen {
            times: times.chain(response.map(|(at, _, _)| *at)).collect(),
            client: response
                .and_then(|(_, _, r)| r.client.clone())
                .or_else(|| link?.client.clone()),
            request: request.filter(|r| matches!(r, Opening::HttpRequest { .. })),
            upstreams: upstreams.collect(),
            status: response.and_then(|(_, _, r)| r.status),
        }
    }

    pub(super) fn matches(&self, told: &Told) -> Match {
        if !self.times.iter().any(|at| within(*at, told)) {
            return Match::No;
        }
        let statuses = matches!((self.status, told.status), (Some(a), Some(b)) if a != b);
        if statuses || !same_request(self.request.as_ref(), told.request.as_ref()) {
            return Match::No;
        }
        let addresses: Vec<&Address> = told
            .tries
            .iter()
            .filter_map(|(_, t)| t.upstream.as_ref())
            .collect();
        let named = addresses.iter().any(|a| is_address(a));
        if named
            && !self.upstreams.is_empty()
            && !addresses.iter().any(|a| self.upstreams.contains(a))
        {
            return Match::No;
        }
        match (self.client.as_ref(), told.client.as_ref()) {
            (Some(a), Some(b)) if a.ip() != b.ip() => {
                // Nothing but the moment would tie them.
                match self.request.is_some() || named {
                    true => Match::Weak,
                    false => Match::No,
                }
            }
            (a, b) => match (port(a), port(b)) {
                (Some(a), Some(b)) if a != b => Match::No,
                _ => Match::Strong,
            },
        }
    }
}

/// Not a name of the proxy's own.
fn is_address(address: &Address) -> bool {
    address.is_unix() || address.0.parse::<std::net::SocketAddr>().is_ok()
}
