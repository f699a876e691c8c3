//! Attempts that cannot be read: tied to requests in the clear by address and time alone.
//!
//! An encrypted attempt shows no request. It is a response's own where it is the only one of its
//! proxy that may be, and failed just before that; else all that is known is that there were some.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::signal::{Address, Nanos, Signal, Unread};

use super::exchange::Exchange;
use super::flow::Flow;
use super::ties::Tie;
use super::{AT_ONCE, LOOKED_THROUGH, Packets, SECOND, SKEW, TRIED};

/// Failed ones are remembered for so long, and so many.
const KEPT: Nanos = 5 * SECOND;
const REMEMBERED: usize = 16_384;
/// Upstreams named where it is not clear which one was asked.
const NAMED: usize = 8;

/// One that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    ended: Nanos,
    id: u32,
    flow_id: u64,
}

/// What attempts that cannot be read say about a failed response.
pub(super) enum Behind {
    /// There were none.
    Nothing,
    /// These were made for it.
    Own(Vec<Tie>),
    /// One of these may have been.
    Unclear(Vec<u32>),
}

impl Packets {
    fn is_unread(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let may_be = |flow: &Flow| flow.is(Flow::OPAQUE) && flow.may_carry_attempts();
        exchange.content == 0
            && !exchange.is(Exchange::BARE)
            && self.flow_of(exchange).is_some_and(may_be)
    }

    pub(super) fn keep_unread(&mut self, id: u32, ended: Nanos) {
        if !self.is_unread(id) {
            return;
        }
        let old = |f: &Failed| f.ended + KEPT < ended;
        while self.unread.len() >= REMEMBERED || self.unread.front().is_some_and(old) {
            self.unread.pop_front();
        }
        let flow_id = self.exchanges.at(id).flow_id;
        self.unread.push_back(Failed { ended, id, flow_id });
    }

    /// Those that the request's proxy may have made for it, failed or not.
    fn unread_of(&self, id: u32) -> Vec<u32> {
        let this = self.exchanges.at(id);
        let Some(mine) = self.flow_of(this) else {
            return Vec::new();
        };
        let over = this.over_at().unwrap_or(Nanos::MAX);
        let may_be = |u: &u32| {
            let other = self.exchanges.at(*u);
            let Some(flow) = self.flow_of(other).filter(|_| self.is_unread(*u)) else {
                return false;
            };
            let before = other.at <= over.saturating_add(SKEW);
            // A stream may have begun on a connection that had others.
            let within = flow.carries_several() && flow.to_server().last_at + SKEW >= this.at;
            before && (other.at + SKEW >= this.at || within) && self.may_have_asked(flow, mine)
        };
        self.exchanges.ids().filter(may_be).collect()
    }

    fn may_have_asked(&self, flow: &Flow, downstream: &Flow) -> bool {
        let (client, proxy) = (flow.client_ip(), downstream.server_ip());
        // Whoever is asked on loopback may ask from any of the host's addresses.
        let from = self.hosts.same(client, proxy) || (proxy.is_loopback() && !client.is_loopback());
        from && flow.server() != downstream.server() && !flow.is_elsewhere(downstream)
    }

    /// Whether the request's proxy may have asked an upstream for it with what cannot be read.
    pub(super) fn has_unread(&self, id: u32) -> bool {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return false;
        };
        let proxy = flow.server_ip();
        self.hosts.asks_unread(proxy)
            && (self.exchanges.live() > LOOKED_THROUGH
                || self.hosts.asks_unfollowed(proxy)
                || !self.unread_of(id).is_empty())
    }

    pub(super) fn behind(&self, id: u32) -> Behind {
        let exchange = self.exchanges.at(id);
        let (Some(flow), Some(over)) = (self.flow_of(exchange), exchange.over_at()) else {
            return Behind::Nothing;
        };
        let proxy = flow.server_ip();
        if !self.hosts.asks_unread(proxy) {
            return Behind::Nothing;
        }
        if self.exchanges.live() > LOOKED_THROUGH {
            return Behind::Unclear(self.unread_before(id, over));
        }
        let possible = self.unread_of(id);
        if self.hosts.asks_unfollowed(proxy) {
            return Behind::Unclear(possible);
        }
        if possible.is_empty() {
            return Behind::Nothing;
        }
        match self.own_of(id, &possible, proxy, over) {
            Some(own) => Behind::Own(own),
            None => Behind::Unclear(possible),
        }
    }

    /// All that are possible, where they can only be this request's: one, or one after the other
    /// for the only request in flight.
    fn own_of(&self, id: u32, possible: &[u32], proxy: IpAddr, over: Nanos) -> Option<Vec<Tie>> {
        let mut own = Vec::with_capacity(possible.len());
        for &u in possible {
            let attempt = self.exchanges.at(u);
            let ended = attempt.ended.as_ref()?.at;
            let client = self.flow_of(attempt)?.client_ip();
            let fits = self.in_time_of(u, id) && !self.is_doubtful(u) && ended <= over + SKEW;
            if !fits || !self.hosts.same(client, proxy) {
                return None;
            }
            own.push((self.began(u), ended, u));
        }
        own.sort_unstable();
        let &(first, _, _) = own.first()?;
        let &(_, last, u) = own.last()?;
        let at_once = |from: Nanos, to: Nanos| from <= to + SKEW && to <= from + AT_ONCE;
        let alone = self.only_one_open(id);
        let in_turn = own.windows(2).all(|w| at_once(w[0].1, w[1].0));
        if !at_once(last, over) || (own.len() > 1 && !(alone && in_turn)) {
            return None;
        }
        if self.claims(u, last).any(|other| other != id) {
            return None;
        }
        let exchange = self.exchanges.at(id);
        // Of encrypted clients it is not sure how many requests are in flight.
        let in_clear = self.hosts.get(proxy).is_none_or(|h| h.encrypted.is_none());
        let soon = first + SKEW >= exchange.at && first <= exchange.at + AT_ONCE;
        let firm = alone && in_clear && soon && !exchange.is(Exchange::RESUMED);
        Some(own.iter().map(|o| Tie { id: o.2, firm }).collect())
    }

    /// Of a crowd: those that failed just before.
    fn unread_before(&self, id: u32, over: Nanos) -> Vec<u32> {
        let this = self.exchanges.at(id);
        let Some(mine) = self.flow_of(this) else {
            return Vec::new();
        };
        let first = self.unread.partition_point(|f| f.ended + AT_ONCE < over);
        self.unread
            .range(first..)
            .take_while(|f| f.ended <= over + SKEW)
            .filter(|f| {
                let other = self.exchanges.at(f.id);
                let asked = |flow: &Flow| self.may_have_asked(flow, mine);
                other.flow_id == f.flow_id
                    && other.ended.is_some()
                    && other.at + SKEW >= this.at
                    && self.flow_of(other).is_some_and(asked)
            })
            .map(|f| f.id)
            .collect()
    }

    /// Failed responses in the clear that a failed attempt may have led to.
    fn claims(&self, attempt: u32, ended: Nanos) -> impl Iterator<Item = u32> + '_ {
        let exchange = self.exchanges.at(attempt);
        let flow = self.flow_of(exchange);
        let answers = self
            .order
            .answers_in(ended.saturating_sub(SKEW), ended + AT_ONCE);
        answers
            .filter(|(id, flow_id)| self.exchanges.at(*id).flow_id == *flow_id)
            .map(|(id, _)| id)
            .filter(move |id| {
                let other = self.exchanges.at(*id);
                let asked = flow.zip(self.flow_of(other));
                other.status >= 500
                    && other.content != 0
                    && other.at <= exchange.at + SKEW
                    && asked.is_some_and(|(flow, mine)| self.may_have_asked(flow, mine))
                    && self.is_downstream(*id)
            })
    }

    /// Whether a request in the clear may still turn out to be what this failed attempt was for.
    pub(super) fn waits_for_clear(&self, attempt: u32) -> bool {
        let exchange = self.exchanges.at(attempt);
        let (Some(ended), true) = (&exchange.ended, self.is_unread(attempt)) else {
            return false;
        };
        let pending = |id: u32| {
            let claim = self.exchanges.at(id);
            claim.is(Exchange::QUEUED) && !claim.is(Exchange::JUDGED)
        };
        if self.claims(attempt, ended.at).any(pending) {
            return true;
        }
        if self.exchanges.live() > LOOKED_THROUGH || self.now > ended.at + TRIED {
            return false;
        }
        let Some(flow) = self.flow_of(exchange) else {
            return false;
        };
        let open = |id: u32| {
            let other = self.exchanges.at(id);
            let asked = |mine: &Flow| !mine.closed() && self.may_have_asked(flow, mine);
            other.content != 0
                && other.at <= exchange.at + SKEW
                && other.over_at().is_none()
                && self.flow_of(other).is_some_and(asked)
                && self.is_downstream(id)
                && self.attempts_of(id).is_empty()
        };
        self.exchanges.ids().any(open)
    }

    /// Tells of a failed response for which one of these may have been made. It uses up the one
    /// that failed last before it: what is told of a response is not told again of an attempt.
    pub(super) fn tell_unread(&mut self, id: u32, possible: &[u32], out: &mut Vec<Signal>) {
        let at = self.exchanges.at(id).answered_at;
        let failed = |u: &u32| {
            let other = self.exchanges.at(*u);
            let ended = other.ended.as_ref().map(|e| e.at)?;
            (!other.is(Exchange::TOLD) && ended <= at + SKEW).then_some((ended, *u))
        };
        let used = possible.iter().filter_map(failed).max();
        let server = |u: &u32| self.flow_of(self.exchanges.at(*u)).map(Flow::server);
        let servers: BTreeSet<SocketAddr> = possible.iter().filter_map(server).collect();
        let named = servers.iter().take(NAMED);
        let unread = Unread {
            at,
            upstreams: named.map(|s| Address(s.to_string())).collect(),
        };
        if let Some((_, used)) = used {
            self.told(used);
        }
        self.tell_response(id, unread, out);
    }
}
