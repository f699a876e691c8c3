//! Which side is which: ties failed responses to the attempts that led there, by content, address and time.
//!
//! The proxy is the address that serves one connection and asks on another for the same request.
//! A tie is firm only where no other request in flight could be meant.

use std::net::IpAddr;

use crate::signal::{End, Nanos, Signal};

use super::exchange::Exchange;
use super::flow::{Direction, Flow, NONE};
use super::{MILLISECOND, Packets, SECOND, SETTLE, SUSPECTS};

/// Two interfaces' clocks may differ by this much when a response is compared with what led to it.
const SKEW: Nanos = MILLISECOND / 2;
/// A connect without an answer for so long may be why its downstream fails.
const UNANSWERED: Nanos = 200 * MILLISECOND;
/// Connects watched for that at once.
const CONNECTS: usize = 65_536;
/// A proxy answers, or tries again, this soon after an attempt failed.
const AT_ONCE: Nanos = 20 * MILLISECOND;
/// A proxy passes a request on this soon, where its address does not say that it is one.
const FORWARDED: Nanos = 100 * MILLISECOND;
/// A failed connect waits for its downstream's answer as long as others may be tried.
const TRIED: Nanos = 90 * SECOND;
/// More requests of one content than this are not compared with each other one by one.
const ALIKE: usize = 128;
/// More exchanges than this are not all looked through for a connect's downstream.
const LOOKED_THROUGH: usize = 1024;

/// An attempt that belongs to a downstream's request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie {
    pub id: u32,
    /// No other request in flight could be meant.
    pub firm: bool,
}

impl Packets {
    /// All facts about this exchange are in, as far as they will come.
    pub(super) fn judge(&mut self, id: u32, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        if exchange.is(Exchange::TOLD) || self.flow_of(exchange).is_none() {
            self.exchanges.at_mut(id).clear(Exchange::AWAITED);
            self.exchanges.release(id);
            return;
        }
        if !self.ending && self.put_off(id) {
            return;
        }
        if exchange_over(self.exchanges.at(id)) {
            self.as_downstream(id, out);
        }
        if !self.exchanges.at(id).is(Exchange::TOLD) && self.exchanges.at(id).ended.is_some() {
            self.as_attempt(id, false, out);
        }
        self.exchanges.release(id);
    }

    /// What never ended within the capture, but has attempts that did.
    pub(super) fn judge_open(&mut self, out: &mut Vec<Signal>) {
        let ids: Vec<u32> = self.exchanges.ids().collect();
        for &id in &ids {
            let exchange = self.exchanges.at(id);
            let untold = exchange.is(Exchange::ATTEMPTED) && !exchange.is(Exchange::TOLD);
            let open = untold && exchange.answered_at == 0;
            if open && self.flow_of(exchange).is_some() {
                let ties = self.attempts_of(id);
                if self.any_failed(&ties) {
                    self.tell_group(id, &ties, false, out);
                }
            }
        }
        for &id in &ids {
            let exchange = self.exchanges.at(id);
            let untold = !exchange.is(Exchange::TOLD) && self.flow_of(exchange).is_some();
            if untold && exchange.ended.is_some() {
                self.as_attempt(id, true, out);
            } else if untold && exchange.is(Exchange::BARE) {
                self.connect_unanswered(id, out);
            }
        }
    }

    /// The reset that answers a request comes one round trip later: waits for it once.
    fn put_off(&mut self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let Some(over) = exchange.over_at() else {
            return false;
        };
        if exchange.is(Exchange::PUT_OFF) {
            return false;
        }
        let own = self.flow_of(exchange).map_or(0, |f| f.round_trip_us);
        let ties = match exchange.is(Exchange::ATTEMPTED) {
            true => self.attempts_of(id),
            false => Vec::new(),
        };
        let of_attempt = |tie: &Tie| {
            let flow = self.flow_of(self.exchanges.at(tie.id));
            flow.map_or(0, |f| f.round_trip_us)
        };
        let longest = ties.iter().map(of_attempt).max().unwrap_or(0).max(own);
        let due = over + 2 * u64::from(longest) * 1000 + SETTLE / 5;
        if due <= over + SETTLE {
            return false;
        }
        self.exchanges.at_mut(id).set(Exchange::PUT_OFF);
        self.queue(id, due);
        true
    }

    fn any_failed(&self, ties: &[Tie]) -> bool {
        ties.iter().any(|tie| self.exchanges.at(tie.id).status == 0)
    }

    /// The proxy's answer to this request, and the attempts behind it.
    fn as_downstream(&mut self, id: u32, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        let status = exchange.status;
        let wanted = status >= 500 || exchange.is(Exchange::ATTEMPTED) || self.suspect_count > 0;
        if !wanted {
            return;
        }
        let ties = self.attempts_of(id);
        let responded = status != 0;
        if !ties.is_empty() && (status >= 500 || self.any_failed(&ties)) {
            self.tell_group(id, &ties, responded, out);
            return;
        }
        if status < 500 {
            return;
        }
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return;
        };
        let (client, server) = (flow.client_ip(), flow.server());
        let by_proxy = self.hosts.is_proxy(server);
        let to_proxy = self.hosts.is_proxys(client);
        if !by_proxy && (to_proxy || self.is_attempt(id)) {
            // An upstream's own answer; where its downstream is seen, that tells of it.
            if to_proxy && !self.is_attempt(id) {
                self.tell_orphan(id, End::Answered, None, false, true, out);
            }
            return;
        }
        if self.hosts.may_be_proxy(server.ip()) {
            self.tell_group(id, &[], true, out);
        }
    }

    /// Whether a proxy in this capture made this request for one of its clients.
    fn is_attempt(&self, id: u32) -> bool {
        !self.downstreams_of(id, true).is_empty()
    }

    /// A request that its connection left without an answer.
    fn as_attempt(&mut self, id: u32, last: bool, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return;
        };
        let (client, server) = (flow.client_ip(), flow.server());
        let Some(ended) = &exchange.ended else { return };
        let (ended_at, how, began) = (ended.at, ended.how, exchange.at);
        let bare = exchange.is(Exchange::BARE);
        if !self.hosts.may_be_proxy(client) {
            return self.drop_bare(id);
        }
        let waiting = self.downstreams_of(id, true);
        if !waiting.is_empty() && !last {
            let still = |d: &u32| {
                let d = self.exchanges.at(*d);
                d.is(Exchange::QUEUED) || !exchange_over(d)
            };
            if waiting.iter().any(still) {
                self.exchanges.at_mut(id).set(Exchange::AWAITED);
            }
            return;
        }
        let serves = self.hosts.serves_beside(client, server);
        let encrypted = self.encrypted_downstream(client, server);
        let named = self.hosts.is_proxys(client);
        if serves && !encrypted {
            // Its clients' requests are seen, and none is this one.
            let waited = self.now.saturating_sub(ended_at);
            if bare && !last && waited < TRIED {
                if !self.ending {
                    self.queue(id, ended_at + TRIED);
                }
                return;
            }
            if named && !self.hosts.is_proxy(server) {
                self.tell_orphan(id, how, None, false, false, out);
            }
            return self.drop_bare(id);
        }
        if !named && !encrypted {
            // No address here is known to be a proxy's. A server that asks others is one itself,
            // and then this is its client; a client that ends its own wait early may be anyone.
            let of_client = self.hosts.asks_beside(server.ip(), server);
            let impatient = matches!(how, End::GivenUp | End::ConnectGivenUp)
                && ended_at.saturating_sub(began) < SECOND;
            let silent = bare && !self.hosts.get(client).is_some_and(|h| h.requests);
            if of_client || impatient || silent {
                return self.drop_bare(id);
            }
        }
        let retry_of = self.tried_before(id);
        let retried = self.tried_again(id);
        self.tell_orphan(id, how, retry_of, retried, true, out);
        self.drop_bare(id);
    }

    pub(super) fn drop_bare(&mut self, id: u32) {
        if self.exchanges.at(id).is(Exchange::BARE) {
            let flow = self.exchanges.at(id).flow;
            self.forget_suspect(id);
            if self.flow_of(self.exchanges.at(id)).is_some() {
                let flow = self.flows.at_mut(flow);
                (flow.oldest, flow.newest) = (NONE, NONE);
            }
            self.exchanges.at_mut(id).set(Exchange::DONE);
            self.exchanges.release(id);
        }
    }

    /// Whether clients come to this address by TLS or HTTP/2, other than to `server`.
    fn encrypted_downstream(&self, ip: IpAddr, server: std::net::SocketAddr) -> bool {
        let host = self.hosts.get(ip);
        let Some(index) = host.and_then(|h| h.encrypted) else {
            return false;
        };
        self.flows
            .peek(index)
            .is_none_or(|flow| flow.server() != server)
    }

    /// The requests in flight that this one may have been made for, by content and address; without
    /// any, the only one by content alone. `ever`: also those that were over before it ended.
    pub(super) fn downstreams_of(&self, id: u32, ever: bool) -> Vec<u32> {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return Vec::new();
        };
        let (mine, client, server, at) = (flow, flow.client_ip(), flow.server(), exchange.at);
        let fits = |d: &u32| {
            let other = self.exchanges.at(*d);
            if *d == id || other.flow_id == exchange.flow_id || other.at > at {
                return false;
            }
            let over = other.over_at().is_some_and(|over| over < at);
            let early = !ever && other.over_at().is_some();
            let Some(flow) = self.flow_of(other).filter(|_| !over && !early) else {
                return false;
            };
            flow.server() != server
                && !flow.is_elsewhere(mine)
                && self.hosts.may_be_proxy(flow.server_ip())
        };
        let mut alike = self.exchanges.alike(exchange.content);
        if alike.len() > ALIKE {
            // The nearest before it, as if there were several.
            let near = alike.partition_point(|d| self.exchanges.at(*d).at <= at);
            alike = alike[near.saturating_sub(ALIKE)..near].to_vec();
        }
        alike.retain(fits);
        let related: Vec<u32> = alike
            .iter()
            .copied()
            .filter(|d| self.related(*d, client))
            .collect();
        if !related.is_empty() {
            return related;
        }
        // A host with several addresses: the request came to one, and went on from another.
        let stranger = |d: &u32| {
            let before = self.exchanges.at(*d).at;
            before <= at && at - before < FORWARDED
        };
        alike.retain(stranger);
        match alike.len() {
            1 => alike,
            _ => Vec::new(),
        }
    }

    /// The request's server is known to be the host that asks from this address.
    fn related(&self, downstream: u32, client: IpAddr) -> bool {
        let flow = self.flow_of(self.exchanges.at(downstream));
        flow.is_some_and(|flow| self.hosts.same(flow.server_ip(), client))
    }

    /// A connection's first requests tell whether its client is a proxy.
    pub(super) fn check_role(&mut self, index: u32, id: u32) {
        const FIRST: u32 = 8;
        let flow = self.flows.at_mut(index);
        if flow.is(Flow::ROLE_CHECKED) {
            return;
        }
        if flow.requests >= FIRST {
            flow.set(Flow::ROLE_CHECKED);
        }
        let client = flow.client_ip();
        let Some(&downstream) = self.downstreams_of(id, false).first() else {
            return;
        };
        let exchange = self.exchanges.at(downstream);
        let (Some(proxy), serving) = (self.flow_of(exchange).map(Flow::server), exchange.flow)
        else {
            return;
        };
        let content = self.exchanges.at(id).content;
        if self.hosts.same(proxy.ip(), client) || self.hosts.coincide(proxy.ip(), client, content) {
            self.flows
                .at_mut(index)
                .set(Flow::UPSTREAM | Flow::ROLE_CHECKED);
            self.hosts.learn(proxy, client);
            self.asks_on(index, serving);
        }
    }

    /// A failed attempt's downstream will be looked at when it is answered.
    pub(super) fn mark_downstream(&mut self, id: u32) {
        for downstream in self.downstreams_of(id, true) {
            self.exchanges.at_mut(downstream).set(Exchange::ATTEMPTED);
        }
    }

    /// The attempts made for this request, in order.
    fn attempts_of(&self, id: u32) -> Vec<Tie> {
        let downstream = self.exchanges.at(id);
        let Some(flow) = self.flow_of(downstream) else {
            return Vec::new();
        };
        let (mine, proxy, server) = (flow, flow.server_ip(), flow.server());
        if !self.hosts.may_be_proxy(proxy) {
            return Vec::new();
        }
        let began = downstream.at;
        let over = downstream.over_at().unwrap_or(Nanos::MAX);
        let fits = |u: u32| {
            let other = self.exchanges.at(u);
            let Some(flow) = self.flow_of(other) else {
                return false;
            };
            u != id
                && other.flow_id != downstream.flow_id
                && !other.is(Exchange::TOLD)
                && other.at >= began
                && other.at <= over
                && flow.server() != server
                && !flow.is_elsewhere(mine)
        };
        let client_of = |u: u32| self.flow_of(self.exchanges.at(u)).map(Flow::client_ip);
        let known = |u: u32| client_of(u).is_some_and(|client| self.hosts.same(client, proxy));
        let alike = self.exchanges.alike(downstream.content);
        let several = alike.len() > ALIKE;
        let mut candidates: Vec<u32> = alike.into_iter().filter(|u| fits(*u)).collect();
        if candidates.iter().any(|u| known(*u)) {
            candidates.retain(|u| known(*u));
        }
        let mut ties: Vec<Tie> = if several {
            Vec::new()
        } else {
            candidates.retain(|u| self.downstreams_of(*u, true).contains(&id));
            let only = |u: u32| self.downstreams_of(u, true).len() == 1;
            candidates
                .iter()
                .map(|&id| Tie {
                    id,
                    firm: known(id) && only(id),
                })
                .collect()
        };
        if several || ties.iter().any(|tie| known(tie.id) && !tie.firm) {
            candidates.retain(|u| known(*u));
            ties = self.nearest(id, &candidates).into_iter().collect();
        }
        // What an upstream answers by itself is no connect's failure.
        if self.hosts.is_proxy(server) || !self.is_attempt(id) {
            ties.extend(self.connects_of(id, &ties, &fits));
        }
        ties.sort_by_key(|tie| (self.exchanges.at(tie.id).at, tie.id));
        ties
    }

    /// Of several attempts for equal requests in flight: the one that was over just before this was
    /// answered; else the first that still waits.
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
        let before = soon.iter().copied().max_by_key(|u| ended(*u));
        // Nothing else ended in this time: what the proxy did next was its answer.
        let firm = soon.len() == 1;
        let waiting = || {
            let open = |u: &u32| self.exchanges.at(*u).over_at().is_none_or(|at| at > over);
            candidates
                .iter()
                .copied()
                .find(|u| status >= 500 && open(u))
        };
        before
            .map(|id| Tie { id, firm })
            .or_else(|| waiting().map(|id| Tie { id, firm: false }))
    }

    /// Connects that got no connection: they carry no request, so only address and time tie them.
    fn connects_of(&self, id: u32, ties: &[Tie], fits: &dyn Fn(u32) -> bool) -> Vec<Tie> {
        if self.suspect_count == 0 {
            return Vec::new();
        }
        let downstream = self.exchanges.at(id);
        let Some(flow) = self.flow_of(downstream) else {
            return Vec::new();
        };
        let proxy = flow.server_ip();
        let candidates: Vec<u32> = self
            .suspects
            .iter()
            // Whoever is asked on loopback may ask from any of the host's addresses.
            .filter(|(ip, _)| proxy.is_loopback() || self.hosts.same(**ip, proxy))
            .flat_map(|(_, ids)| ids.iter().copied())
            .filter(|u| fits(*u))
            .collect();
        if candidates.is_empty() {
            return Vec::new();
        }
        if self.only_one_open(id) {
            let known = |u: u32| {
                let flow = self.flow_of(self.exchanges.at(u));
                flow.is_some_and(|flow| self.hosts.same(flow.client_ip(), proxy))
            };
            let tie = |&id: &u32| Tie {
                id,
                firm: known(id),
            };
            return candidates.iter().map(tie).collect();
        }
        if !ties.is_empty() || downstream.status < 500 {
            return Vec::new();
        }
        let over = downstream.over_at().unwrap_or(Nanos::MAX);
        let ended = |u: &u32| {
            self.exchanges
                .at(*u)
                .over_at()
                .filter(|at| *at <= over + SKEW)
        };
        let soon: Vec<u32> = candidates
            .iter()
            .copied()
            .filter(|u| ended(u).is_some_and(|at| over.saturating_sub(at) <= AT_ONCE))
            .collect();
        let one = soon.iter().copied().max_by_key(|u| ended(u)).or_else(|| {
            // The first that was begun for a request of this time and still waits.
            let began = |u: &u32| self.exchanges.at(*u).at;
            candidates.iter().copied().min_by_key(began)
        });
        one.map(|id| Tie { id, firm: false }).into_iter().collect()
    }

    /// No other request to this proxy was in flight in this one's time.
    fn only_one_open(&self, id: u32) -> bool {
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
            let meanwhile =
                exchange.at <= over && exchange.over_at().is_none_or(|at| at >= this.at);
            let Some(flow) = self.flow_of(exchange).filter(|_| meanwhile && other != id) else {
                return false;
            };
            // Its own attempts may go to a server of the same address.
            let equal = exchange.content == this.content;
            let own = equal && self.hosts.same(flow.client_ip(), proxy);
            let upstream = own || flow.is(Flow::UPSTREAM) || exchange.is(Exchange::BARE);
            !upstream && self.hosts.same(flow.server_ip(), proxy) && !flow.is_elsewhere(mine)
        })
    }

    /// In a capture without the downstream: the failed attempt that this one repeats.
    fn tried_before(&self, id: u32) -> Option<u32> {
        let exchange = self.exchanges.at(id);
        self.siblings(id).into_iter().find(|other| {
            let ended = self.exchanges.at(*other).ended.as_ref();
            ended.is_some_and(|e| (e.at..=e.at + AT_ONCE).contains(&exchange.at))
        })
    }

    /// In a capture without the downstream: whether the request was tried again.
    fn tried_again(&self, id: u32) -> bool {
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
    fn siblings(&self, id: u32) -> Vec<u32> {
        let exchange = self.exchanges.at(id);
        let Some(mine) = self.flow_of(exchange) else {
            return Vec::new();
        };
        let client = mine.client_ip();
        let mut alike = self.exchanges.alike(exchange.content);
        alike.retain(|other| {
            let other = self.exchanges.at(*other);
            let of_client = |f: &Flow| f.client_ip() == client && !f.is_elsewhere(mine);
            other.flow_id != exchange.flow_id && self.flow_of(other).is_some_and(of_client)
        });
        alike
    }

    /// Watches a new connect for its answer.
    pub(super) fn connecting(&mut self, index: u32, at: Nanos) {
        if self.connects.len() >= CONNECTS {
            self.connects.pop_front();
            self.counts.connects += 1;
        }
        let id = self.flows.at(index).id;
        self.connects.push_back((at, index, id));
    }

    /// Those without an answer after a while may be why their downstreams fail.
    pub(super) fn unanswered(&mut self) {
        while let Some(&(at, index, id)) = self.connects.front() {
            if at + UNANSWERED > self.now {
                break;
            }
            self.connects.pop_front();
            let waits = |flow: &Flow| {
                flow.id == id
                    && !flow.to_client().is(Direction::SYN)
                    && !flow.is(Flow::SUSPECT | Flow::TWIN | Flow::OVER)
            };
            if self.flows.peek(index).is_some_and(waits) {
                self.suspect(index);
            }
        }
    }

    /// A connect that gets no answer: it may turn out to be why its downstream failed.
    pub(super) fn suspect(&mut self, index: u32) {
        let flow = self.flows.at_mut(index);
        flow.set(Flow::SUSPECT);
        let (id, flow_id, at, client) = (flow.oldest, flow.id, flow.syn_at, flow.client_ip());
        if id != NONE {
            return;
        }
        let id = self.exchanges.begin(index, flow_id, at);
        self.exchanges.at_mut(id).set(Exchange::BARE);
        let flow = self.flows.at_mut(index);
        (flow.oldest, flow.newest) = (id, id);
        self.suspects.entry(client).or_default().push_back(id);
        self.suspect_count += 1;
        if self.suspect_count > SUSPECTS
            && let Some(list) = self.suspects.get(&client)
            && let Some(&oldest) = list.front()
        {
            self.counts.connects += 1;
            self.drop_bare(oldest);
        }
    }

    /// The connection came about after all, or is forgotten.
    pub(super) fn cleared(&mut self, index: u32) {
        let flow = self.flows.at_mut(index);
        flow.bits &= !Flow::SUSPECT;
        let id = flow.oldest;
        if id != NONE && self.exchanges.at(id).is(Exchange::BARE) {
            self.drop_bare(id);
        }
    }

    fn forget_suspect(&mut self, id: u32) {
        let exchange = self.exchanges.at(id);
        let client = self.flow_of(exchange).map(Flow::client_ip);
        let mut empty = None;
        for (ip, list) in &mut self.suspects {
            if client.is_some_and(|client| client != *ip) {
                continue;
            }
            if let Some(place) = list.iter().position(|other| *other == id) {
                list.remove(place);
                self.suspect_count -= 1;
                empty = list.is_empty().then_some(*ip);
                break;
            }
        }
        if let Some(ip) = empty {
            self.suspects.remove(&ip);
        }
    }

    /// Whether a connect may have failed for a request that went well in the end. In a crowd
    /// nothing would tie the two.
    pub(super) fn has_suspects(&self, index: u32) -> bool {
        if self.suspect_count == 0 || self.exchanges.live() > LOOKED_THROUGH {
            return false;
        }
        let proxy = self.flows.at(index).server_ip();
        let asks = |ip: &IpAddr| proxy.is_loopback() || self.hosts.same(*ip, proxy);
        self.suspects.keys().any(asks)
    }

    pub(super) fn connect_failed(&mut self, index: u32, errno: i32, at: Nanos) {
        self.suspect(index);
        let flow = self.flows.at_mut(index);
        flow.reset_at = at;
        flow.set(Flow::OVER);
        let id = flow.oldest;
        let syns = flow.syns;
        if id == NONE || self.exchanges.at(id).ended.is_some() {
            return;
        }
        self.exchanges.at_mut(id).ended = Some(Box::new(super::exchange::Ended {
            at,
            how: End::ConnectFailed { errno },
            acked: 0,
            retransmits: u16::from(syns.saturating_sub(1)),
            zero_window: false,
            received: 0,
            response: None,
        }));
        self.queue(id, at + SETTLE);
    }

    /// At the capture's end: a connect that got no answer, its downstream not in the capture.
    fn connect_unanswered(&mut self, id: u32, out: &mut Vec<Signal>) {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return;
        };
        if flow.to_client().is(Direction::SYN) || self.exchanges.at(id).ended.is_some() {
            return;
        }
        let (client, at) = (flow.client_ip(), flow.seen_at);
        let asks = self.hosts.get(client).is_some_and(|h| h.requests);
        if asks && !self.hosts.serves_beside(client, flow.server()) {
            let how = End::ConnectGivenUp;
            self.exchanges.at_mut(id).ended = Some(Box::new(super::exchange::Ended {
                at,
                how,
                acked: 0,
                retransmits: 1,
                zero_window: false,
                received: 0,
                response: None,
            }));
            self.tell_orphan(id, how, None, false, true, out);
        }
    }
}

fn exchange_over(exchange: &Exchange) -> bool {
    exchange.over_at().is_some()
}
