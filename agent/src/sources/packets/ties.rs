//! Which side is which: ties attempts to the requests that they were made for, by content, address and time.
//!
//! The proxy is the address that serves one connection and asks on another for the same request.
//! A tie is firm only where no other request in flight could be meant.

use std::net::IpAddr;

use crate::signal::{End, Nanos};

use super::exchange::Exchange;
use super::exchanges::Ids;
use super::flow::Flow;
use super::{AT_ONCE, LOOKED_THROUGH, MILLISECOND, Packets, SECOND, SKEW, TRIED};

/// A proxy passes a request on this soon, where its address does not say that it is one.
const FORWARDED: Nanos = 100 * MILLISECOND;
/// More requests of one content than this are not compared with each other one by one.
const ALIKE: usize = 128;

/// An attempt that belongs to a downstream's request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie {
    pub id: u32,
    /// No other request in flight could be meant.
    pub firm: bool,
}

impl Packets {
    /// Whether a proxy in this capture made this request for one of its clients.
    pub(super) fn is_attempt(&self, id: u32) -> bool {
        !self.downstreams_of(id, true).is_empty()
    }

    /// The requests in flight that this one may have been made for, by content and address; without
    /// any, those to one server by content alone. `ever`: also those that were over before it ended.
    pub(super) fn downstreams_of(&self, id: u32, ever: bool) -> Ids {
        let (related, strangers) = self.alike_before(id, ever);
        match related.is_empty() && self.are_to_one(&strangers) {
            true => strangers,
            false => related,
        }
    }

    /// Equal requests in flight: to its own host as far as known, or else to another a moment ago. A
    /// host may have several addresses: the request came to one, and went on from another.
    pub(super) fn alike_before(&self, id: u32, ever: bool) -> (Ids, Ids) {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return Default::default();
        };
        let (mine, client, server, at) = (flow, flow.client_ip(), flow.server(), exchange.at);
        let just_left = |d: u32| {
            let ended = self.exchanges.at(d).ended.as_ref();
            ended.is_some_and(|e| e.how == End::GivenUp && e.at < at && at <= e.at + AT_ONCE)
        };
        let fits = |d: &u32| {
            let other = self.exchanges.at(*d);
            if *d == id || other.flow_id == exchange.flow_id || other.at > at {
                return false;
            }
            let over = other
                .over_at()
                .is_some_and(|over| over < at && !just_left(*d));
            let early = !ever && other.over_at().is_some();
            let Some(flow) = self.flow_of(other).filter(|_| !over && !early) else {
                return false;
            };
            flow.server() != server
                && !flow.is_elsewhere(mine)
                && !self.is_backward(mine, flow, exchange.content)
                && self.hosts.may_be_proxy(flow.server_ip())
        };
        // Of many the nearest before it, as if there were several.
        let mut alike = self.exchanges.alike_by(exchange.content, at, ALIKE);
        alike.retain(|d| fits(d));
        // A request whose client has just left is passed on before the proxy knows of that: beside another
        // one to the same server it may be the one that is meant.
        let beside = |d: u32| {
            let server = |d: u32| self.flow_of(self.exchanges.at(d)).map(Flow::server);
            let mut open = alike.iter().copied().filter(|o| !just_left(*o));
            open.any(|open| server(open) == server(d))
        };
        let alone: Ids = alike
            .iter()
            .copied()
            .filter(|d| just_left(*d) && !beside(*d))
            .collect();
        alike.retain(|d| !alone.contains(d));
        let (related, mut strangers): (Ids, Ids) =
            alike.into_iter().partition(|d| self.related(*d, client));
        // Whoever is asked on loopback may ask from any of the host's addresses, and the other way round.
        let one_host = |d: u32| {
            let flow = self.flow_of(self.exchanges.at(d));
            flow.is_some_and(|f| f.server_ip().is_loopback() != client.is_loopback())
        };
        strangers.retain(|d| {
            let before = self.exchanges.at(*d).at;
            before <= at && (at - before < FORWARDED || one_host(*d))
        });
        (related, strangers)
    }

    /// All were sent to one server.
    pub(super) fn are_to_one(&self, all: &[u32]) -> bool {
        let server = |d: &u32| self.flow_of(self.exchanges.at(*d)).map(Flow::server);
        all.windows(2).all(|two| server(&two[0]) == server(&two[1]))
    }

    /// The request's server is known to be the host that asks from this address.
    fn related(&self, downstream: u32, client: IpAddr) -> bool {
        let flow = self.flow_of(self.exchanges.at(downstream));
        flow.is_some_and(|flow| self.hosts.same(flow.server_ip(), client))
    }

    /// A failed attempt's downstream will be looked at when it is answered.
    pub(super) fn mark_downstream(&mut self, id: u32) {
        for downstream in self.downstreams_of(id, true) {
            self.exchanges.at_mut(downstream).set(Exchange::ATTEMPTED);
        }
    }

    /// The attempts made for this request, in order, as far as content tells.
    pub(super) fn attempts_of(&self, id: u32) -> Vec<Tie> {
        let downstream = self.exchanges.at(id);
        let Some(flow) = self.flow_of(downstream) else {
            return Vec::new();
        };
        let proxy = flow.server_ip();
        if !self.hosts.may_be_proxy(proxy) {
            return Vec::new();
        }
        let client_of = |u: u32| self.flow_of(self.exchanges.at(u)).map(Flow::client_ip);
        let known = |u: u32| client_of(u).is_some_and(|client| self.hosts.same(client, proxy));
        let alike = self.exchanges.alike(downstream.content);
        let several = alike.len() > ALIKE;
        let fits = |u: &u32| self.in_time_of(*u, id);
        let mut candidates: Vec<u32> = alike.into_iter().filter(fits).collect();
        if candidates.iter().any(|u| known(*u)) {
            candidates.retain(|u| known(*u));
        }
        let mut ties = Vec::new();
        let mut unclear = several;
        for &u in candidates.iter().filter(|_| !several) {
            let all = self.downstreams_of(u, true);
            let innermost = self.innermost(&all);
            if innermost.contains(&id) {
                let known = known(u);
                let firm = known && all.len() == 1;
                unclear |= innermost.len() > 1;
                ties.push(Tie { id: u, firm });
            }
        }
        if unclear {
            // What answered with this status, and can have been made for no other request.
            let status = downstream.status;
            let own = |tie: &&Tie| tie.firm && self.exchanges.at(tie.id).status == status;
            let own: Vec<u32> = ties.iter().filter(own).map(|tie| tie.id).collect();
            candidates.retain(|u| several || ties.iter().any(|tie| tie.id == *u));
            let of_all = self.nearest(id, &candidates);
            let of_own = (status != 0).then(|| self.nearest(id, &own)).flatten();
            let all_agree = of_all.as_ref().is_some_and(|all| all.firm);
            ties = (of_own
                .map(|own| Tie {
                    firm: own.firm && all_agree,
                    ..own
                })
                .or(of_all))
            .into_iter()
            .collect();
        }
        ties.sort_by_key(|tie| (self.exchanges.at(tie.id).at, tie.id));
        for tie in &mut ties {
            let cut = |id| self.exchanges.at(id).is(Exchange::CUT);
            tie.firm &= known(tie.id) && !cut(id) && !cut(tie.id);
        }
        ties
    }

    /// Whether an attempt began while the proxy had this request, and is not told of yet.
    pub(super) fn in_time_of(&self, attempt: u32, id: u32) -> bool {
        let (other, this) = (self.exchanges.at(attempt), self.exchanges.at(id));
        let meanwhile = other.at >= this.at && this.over_at().is_none_or(|over| other.at <= over);
        if !meanwhile || other.flow_id == this.flow_id || other.is(Exchange::TOLD) {
            return false;
        }
        match (self.flow_of(other), self.flow_of(this)) {
            (Some(to), Some(from)) => {
                to.server() != from.server()
                    && !to.is_elsewhere(from)
                    && !self.is_backward(to, from, other.content)
            }
            _ => false,
        }
    }

    /// The attempt goes to a proxy that was itself seen to ask the server of the downstream: of requests
    /// alike it is the next client's. Where both ends are of one host only that tells which came first.
    fn is_backward(&self, attempt: &Flow, downstream: &Flow, content: u64) -> bool {
        self.hosts.same(attempt.client_ip(), attempt.server_ip())
            && (self.hosts.passes).goes_on(attempt.server(), downstream.server(), content)
    }

    /// Of equal requests in flight, those that are not other proxies' way to the last of them: tiers
    /// on one host have one address.
    fn innermost(&self, all: &[u32]) -> Vec<u32> {
        if self.are_to_one(all) {
            return all.to_vec();
        }
        let inside = |inner: u32, outer: u32| {
            let (i, o) = (self.exchanges.at(inner), self.exchanges.at(outer));
            let (Some(to), Some(from)) = (self.flow_of(i), self.flow_of(o)) else {
                return false;
            };
            let before = match (i.over_at(), o.over_at()) {
                (Some(inner), Some(outer)) => inner <= outer + SKEW,
                (None, Some(_)) => false,
                (_, None) => true,
            };
            (i.at, inner) > (o.at, outer)
                && before
                && to.server() != from.server()
                && self.hosts.same(to.client_ip(), from.server_ip())
        };
        let outer = |d: &u32| all.iter().any(|other| inside(*other, *d));
        all.iter().copied().filter(|d| !outer(d)).collect()
    }

    /// Of several attempts for equal requests in flight: the one that failed or was answered alike just
    /// before this was answered; else the one whose answer became a failure, or the first that was waited
    /// for no longer. A good answer may be passed on long after its head came: where the head is long,
    /// or the proxy takes in all of the body first.
    fn nearest(&self, id: u32, candidates: &[u32]) -> Option<Tie> {
        let over = self.exchanges.at(id).over_at()?;
        let status = self.exchanges.at(id).status;
        let ended = |u: u32| {
            let exchange = self.exchanges.at(u);
            let same = exchange.status == status || (exchange.status == 0 && status >= 500);
            exchange.over_at().filter(|at| same && *at <= over + SKEW)
        };
        let soon: Vec<u32> = candidates
            .iter()
            .copied()
            .filter(|u| ended(*u).is_some_and(|at| over.saturating_sub(at) <= AT_ONCE))
            .collect();
        // What ended later is meant only where nothing ended before: by another interface's clock.
        let in_order = |u: &u32| ended(*u).is_some_and(|at| at <= over);
        let before = soon
            .iter()
            .copied()
            .max_by_key(|u| (in_order(u), ended(*u)));
        // Nothing else ended in this time: what the proxy did next was its answer.
        let firm = soon.len() == 1;
        let turned_down = || {
            let at = |u: u32| self.exchanges.at(u).answered_at;
            let refused = |u: &u32| status >= 500 && self.is_turned_down(*u, id);
            let just_before = |u: &u32| at(*u) <= over + SKEW && over <= at(*u) + AT_ONCE;
            let all = candidates.iter().copied();
            all.filter(|u| just_before(u) && refused(u))
                .max_by_key(|u| (at(*u) <= over, at(*u)))
        };
        let waiting = || {
            // What was answered later had not been given up.
            let open = |u: &u32| {
                let exchange = self.exchanges.at(*u);
                exchange.answered_at == 0 && exchange.over_at().is_none_or(|at| at > over)
            };
            candidates
                .iter()
                .copied()
                .find(|u| status >= 500 && open(u))
        };
        let passed_on = || {
            let tried = |u: &u32| self.exchanges.at(*u);
            let well = |u: &u32| tried(u).ended.is_none() && (1..500).contains(&tried(u).status);
            let all = candidates.iter().copied();
            all.filter(|u| (1..500).contains(&status) && well(u))
                .filter(|u| tried(u).answered_at <= over + SKEW)
                .max_by_key(|u| (tried(u).status == status, tried(u).answered_at))
        };
        before
            .map(|id| Tie { id, firm })
            .or_else(|| turned_down().map(|id| Tie { id, firm: false }))
            .or_else(|| waiting().map(|id| Tie { id, firm: false }))
            .or_else(|| passed_on().map(|id| Tie { id, firm: false }))
    }

    /// The attempt was answered well, and no request to this one's proxy got that answer.
    fn is_turned_down(&self, attempt: u32, id: u32) -> bool {
        let tried = self.exchanges.at(attempt);
        let server = |d: &Exchange| self.flow_of(d).map(Flow::server);
        let proxy = server(self.exchanges.at(id));
        let got = |d: u32| {
            let other = self.exchanges.at(d);
            let then = tried.answered_at.saturating_sub(SKEW)..=tried.answered_at + AT_ONCE;
            other.status == tried.status
                && then.contains(&other.answered_at)
                && server(other) == proxy
        };
        let well = tried.ended.is_none() && (1..500).contains(&tried.status);
        well && !self.exchanges.any_alike(tried.content).any(got)
    }

    /// No other request to this proxy was in flight in this one's time.
    pub(super) fn only_one_open(&self, id: u32) -> bool {
        if self.exchanges.live() > LOOKED_THROUGH {
            return false;
        }
        let this = self.exchanges.at(id);
        let Some(flow) = self.flow_of(this) else {
            return false;
        };
        let (mine, proxy) = (flow, flow.server_ip());
        let over = this.over_at().unwrap_or(Nanos::MAX);
        !self.exchanges.ids().any(|other| {
            let exchange = self.exchanges.at(other);
            // Only within one connection the order is sure.
            let skew = if exchange.flow_id == this.flow_id {
                0
            } else {
                SKEW
            };
            let before = exchange.at <= over.saturating_add(skew);
            let after = exchange.over_at().is_none_or(|at| at + skew >= this.at);
            let meanwhile = before && after;
            let Some(flow) = self.flow_of(exchange).filter(|_| meanwhile && other != id) else {
                return false;
            };
            if exchange.over_at().is_none() && self.may_be_over(flow) {
                return false;
            }
            // Its own attempts may go to a server of the same address.
            let equal = exchange.content == this.content && !this.is(Exchange::CUT);
            let own = equal && self.hosts.same(flow.client_ip(), proxy);
            let upstream = own || flow.is(Flow::UPSTREAM) || exchange.is(Exchange::BARE);
            !upstream && self.hosts.same(flow.server_ip(), proxy) && !flow.is_elsewhere(mine)
        })
    }

    /// Packets were lost since this connection was seen, its end perhaps among them, and its request
    /// could not have been tried for so long.
    fn may_be_over(&self, flow: &Flow) -> bool {
        flow.seen_at <= self.lost_at && self.lost_at + TRIED < self.now
    }

    /// In a capture without the downstream: the failed attempt that this one repeats.
    pub(super) fn tried_before(&self, id: u32) -> Option<u32> {
        let exchange = self.exchanges.at(id);
        self.siblings(id).into_iter().find(|other| {
            let ended = self.exchanges.at(*other).ended.as_ref();
            ended.is_some_and(|e| (e.at..=e.at + AT_ONCE).contains(&exchange.at))
        })
    }

    /// In a capture without the downstream: whether the request was tried again.
    pub(super) fn tried_again(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let Some(ended) = &exchange.ended else {
            return false;
        };
        let siblings = self.siblings(id);
        let soon =
            |other: &&u32| (ended.at..=ended.at + AT_ONCE).contains(&self.exchanges.at(**other).at);
        let near = |other: &&u32| {
            let at = self.exchanges.at(**other).at;
            at.abs_diff(ended.at) < SECOND
        };
        // Where equal requests come all the time, the next one says nothing.
        siblings.iter().any(|other| soon(&other)) && siblings.iter().filter(near).count() == 1
    }

    /// Equal requests from the same client on other connections.
    fn siblings(&self, id: u32) -> Ids {
        let exchange = self.exchanges.at(id);
        let Some(mine) = self.flow_of(exchange) else {
            return Ids::new();
        };
        let client = mine.client_ip();
        if exchange.is(Exchange::CUT) {
            return Ids::new();
        }
        let mut alike = self.exchanges.alike(exchange.content);
        alike.retain(|other| {
            let other = self.exchanges.at(*other);
            let of_client = |f: &Flow| f.client_ip() == client && !f.is_elsewhere(mine);
            other.flow_id != exchange.flow_id && self.flow_of(other).is_some_and(of_client)
        });
        alike
    }
}
