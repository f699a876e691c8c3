//! What connects without a connection say about a request: which were its own, and how sure that is.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::signal::{Address, End, Nanos, Untied};

use super::exchange::Exchange;
use super::flow::Flow;
use super::order::{Connect, Wait, same_wait};
use super::ties::Tie;
use super::{AT_ONCE, LOOKED_THROUGH, Packets, SECOND, SETTLE, SKEW, UNANSWERED};

/// A response that may hide a failure is told this much later: until then it may show that its
/// proxy answers without any upstream.
const HIDDEN: Nanos = SECOND;
/// Servers named where it is not clear which one was meant.
const NAMED: usize = 8;

/// What the connects of its time say about a request.
pub(super) enum Connects {
    None,
    /// These were made for it.
    Tied(Vec<Tie>),
    /// They failed alike, but it is not clear which were its own; these are used up by it.
    Untied(Vec<Tie>, Untied),
    /// Not clear yet: to be looked at again at this time.
    Later(Nanos),
}

impl Packets {
    /// What an upstream answers by itself is no connect's failure.
    pub(super) fn is_downstream(&self, id: u32) -> bool {
        let flow = self.flow_of(self.exchanges.at(id));
        flow.is_some_and(|flow| {
            let asked = || flow.is(Flow::UPSTREAM) || self.is_attempt(id);
            self.hosts.may_be_proxy(flow.server_ip())
                && !self.is_ours(self.exchanges.at(id).flow)
                && (self.is_to_proxy(id) || !asked())
        })
    }

    /// Whoever was asked is a proxy: it was seen to pass requests on, or is named. An upstream may have
    /// the named address as well, so that says nothing of what is asked from there.
    pub(super) fn is_to_proxy(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return false;
        };
        let server = flow.server();
        let asked = || {
            let own = flow.is(Flow::UPSTREAM) || exchange.is(Exchange::BARE);
            flow.client_ip() == server.ip() && (own || self.is_attempt(id))
        };
        self.hosts.passes.is_proxy(server) || (self.hosts.is_named(server) && !asked())
    }

    /// Who was asked asks nobody, as far as seen, and a proxy is beside it: this may be a check of that
    /// proxy's, which checks others as well.
    fn is_only_asked(&self, id: u32) -> bool {
        let flow = self.flow_of(self.exchanges.at(id));
        let passes = &self.hosts.passes;
        flow.is_some_and(|f| !passes.is_proxy(f.server()) && passes.has_proxy_beside(f.server()))
    }

    /// What connects without a connection say about a request with these attempts.
    pub(super) fn connects_of(&self, id: u32, ties: &[Tie]) -> Connects {
        if !self.is_downstream(id) {
            return Connects::None;
        }
        let exchange = self.exchanges.at(id);
        let status = exchange.status;
        if ties.is_empty() && (1..500).contains(&status) {
            return self.hidden_by(id);
        }
        let alone = self.suspect_count > 0 && self.only_one_open(id);
        if alone {
            let own = self.suspects_of(id, ties, |_| true);
            let failed = own.iter().any(|c| self.is_over(c));
            if failed || (status < 500 && !own.is_empty()) {
                if (1..500).contains(&status) && self.is_only_asked(id) {
                    return Connects::None;
                }
                let firm = self.at_once(id, ties, &own);
                return tied(&own, firm);
            }
        }
        if status < 500 {
            return Connects::None;
        }
        let (Some(since), Some(over)) = (self.idle_since(id, ties), exchange.over_at()) else {
            return Connects::None;
        };
        match self.refused_for(id, ties, since, over) {
            Connects::None => self.unanswered_for(id, ties, (since, over), alone),
            found => found,
        }
    }

    /// Connects of this kind that this request's proxy made in its time, while it had no other
    /// attempt: a proxy makes one after the other.
    fn suspects_of(
        &self,
        id: u32,
        ties: &[Tie],
        wanted: impl Fn(&Exchange) -> bool,
    ) -> Vec<Connect> {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return Vec::new();
        };
        let proxy = flow.server_ip();
        let apart = |c: &Connect| {
            let until = c.ended.max(self.last_seen(c.id));
            ties.iter().all(|tie| {
                let tried = self.exchanges.at(tie.id);
                // Behind a good answer nothing more is tried; a refusal may be tried elsewhere.
                let good = tried.ended.is_none() && (1..400).contains(&tried.status);
                let before = tried.over_at().is_some_and(|over| over <= c.began);
                until <= self.began(tie.id) || (before && !good)
            })
        };
        let mut own: Vec<Connect> = self
            .suspects
            .iter()
            // Whoever is asked on loopback may ask from any of the host's addresses.
            .filter(|(ip, _)| proxy.is_loopback() || self.hosts.same(**ip, proxy))
            .flat_map(|(_, ids)| ids.iter().copied())
            .filter(|u| wanted(self.exchanges.at(*u)) && self.in_time_of(*u, id))
            .filter_map(|u| self.connect(u))
            .filter(apart)
            .collect();
        own.sort_by_key(|c| (c.began, c.id));
        own
    }

    /// It was refused, or found unreachable.
    fn is_over(&self, connect: &Connect) -> bool {
        self.exchanges.at(connect.id).ended.is_some()
    }

    /// The only request in flight: whether its connects began and ended with what it was about, so
    /// that they are no health checks.
    fn at_once(&self, id: u32, ties: &[Tie], own: &[Connect]) -> bool {
        let exchange = self.exchanges.at(id);
        let unclear = exchange.is(Exchange::RESUMED | Exchange::CUT) || exchange.content == 0;
        let (Some(flow), false) = (self.flow_of(exchange), unclear) else {
            return false;
        };
        let (proxy, server) = (flow.server_ip(), flow.server());
        // An equal request that went on at another time: clocks differ, or packets are missing.
        let went_on = |u: u32| {
            let flow = self.flow_of(self.exchanges.at(u));
            let on = |f: &Flow| self.hosts.same(f.client_ip(), proxy) && f.server() != server;
            flow.is_some_and(on) && ties.iter().all(|tie| tie.id != u)
        };
        let mut others = self.exchanges.any_alike(exchange.content);
        let by_proxy = |c: &Connect| {
            self.hosts.same(c.client, proxy) && !self.hosts.is_checked(c.client, c.server)
        };
        let soon = |from: Nanos, to: Nanos| (from..=from + AT_ONCE).contains(&to);
        let over_at = |tie: &Tie| self.exchanges.at(tie.id).over_at();
        let (Some(first), Some(last)) = (own.first(), own.last()) else {
            return false;
        };
        let begins = soon(exchange.at, first.began)
            || (ties.iter().filter_map(over_at)).any(|at| soon(at, first.began));
        let answered = exchange.over_at().unwrap_or(Nanos::MAX).max(last.ended);
        let ends = !self.is_over(last)
            || soon(last.ended, answered)
            || (ties.iter()).any(|tie| soon(last.ended, self.began(tie.id)));
        begins && ends && own.iter().all(by_proxy) && !others.any(went_on)
    }

    /// When an attempt began: its connect, if that was made for it.
    pub(super) fn began(&self, id: u32) -> Nanos {
        let exchange = self.exchanges.at(id);
        let flow = self.flow_of(exchange);
        let connected = flow.map(|f| f.syn_at).filter(|at| *at != 0);
        match connected {
            Some(at) if exchange.ordinal == 1 => at,
            _ => exchange.at,
        }
    }

    /// The connects that order gives to this failed response.
    fn refused_for(&self, id: u32, ties: &[Tie], since: Nanos, over: Nanos) -> Connects {
        let own = self.order.owned_by(id).iter().copied();
        let own: Vec<Connect> = own.filter(|c| self.is_there(c)).collect();
        let Some(last) = own.last() else {
            return Connects::None;
        };
        let others: BTreeSet<SocketAddr> = self
            .order
            .failed_in(over.saturating_sub(AT_ONCE), over + SKEW)
            .filter(|c| c.began + SKEW >= since)
            .filter(|c| self.may_ask(id, c) && own.iter().all(|o| o.flow_id != c.flow_id))
            .map(|c| c.server)
            .collect();
        let how = self.exchanges.at(last.id).ended.as_ref().map(|e| e.how);
        if let Some(end) = how
            && ties.is_empty()
            && others.iter().any(|server| *server != last.server)
        {
            let mut servers = others;
            servers.extend(own.iter().map(|c| c.server));
            let said = untied(end, &servers, (since, over), true);
            return Connects::Untied(ties_of(&own, false), said);
        }
        tied(&own, false)
    }

    /// A connect that nobody answered until this failed response; or the time alone, if other
    /// connects of the same proxy were given up after as long.
    fn unanswered_for(
        &self,
        id: u32,
        ties: &[Tie],
        (since, over): (Nanos, Nanos),
        alone: bool,
    ) -> Connects {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return Connects::None;
        };
        if over.saturating_sub(since) < UNANSWERED {
            return Connects::None;
        }
        let proxy = flow.server();
        let waits: Vec<&Wait> = self
            .order
            .waits
            .iter()
            .filter(|w| w.proxy == proxy)
            .collect();
        let unanswered =
            |c: &Exchange| c.ended.is_none() && c.at + SKEW >= since && c.at + UNANSWERED <= over;
        let fits = |c: &Exchange| {
            let in_time = |w: &&Wait| same_wait(w.waited, over - c.at);
            unanswered(c) && (c.at <= since + AT_ONCE || waits.iter().any(in_time))
        };
        // Who asks again later had not given up.
        let given_up = |c: &Connect| self.last_seen(c.id) <= over + SKEW;
        let mut own = self.suspects_of(id, ties, fits);
        own.retain(given_up);
        if own.is_empty() && !self.hosts.is_secretive(proxy) && !self.has_unread(id) {
            // A proxy that reads a whole body first connects late.
            own = self.suspects_of(id, ties, unanswered);
            own.retain(given_up);
            if own.len() != 1 {
                own.clear();
            }
        }
        let Some(&one) = own.first() else {
            return self.given_up_as_others(id, ties, since, over);
        };
        if alone {
            // And where it tried next.
            let later = |c: &Exchange| unanswered(c) && c.at >= one.began;
            let own = self.suspects_of(id, ties, later);
            return tied(&own, self.at_once(id, ties, &own));
        }
        let began = (since.saturating_sub(SKEW), since + AT_ONCE);
        let mut servers: BTreeSet<SocketAddr> = self
            .order
            .unanswered_in(began.0, began.1)
            .filter(|c| self.may_ask(id, c))
            .map(|c| c.server)
            .collect();
        servers.insert(one.server);
        if servers.len() > 1 && ties.is_empty() {
            let said = untied(End::ConnectGivenUp, &servers, (since, over), true);
            return Connects::Untied(ties_of(&[one], false), said);
        }
        tied(&[one], false)
    }

    /// No connect of its own is in the capture (a filter on the proxy's host drops before that), but
    /// others of this proxy were given up after the same time.
    fn given_up_as_others(&self, id: u32, ties: &[Tie], since: Nanos, over: Nanos) -> Connects {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return Connects::None;
        };
        let proxy = flow.server();
        let unclear = self.hosts.is_secretive(proxy)
            || self.exchanges.live() > LOOKED_THROUGH
            || self.has_unread(id);
        let servers: BTreeSet<SocketAddr> = self
            .order
            .waits
            .iter()
            .filter(|w| w.proxy == proxy && same_wait(w.waited, over.saturating_sub(since)))
            .map(|w| w.server)
            .collect();
        if unclear || servers.is_empty() || !ties.is_empty() {
            return Connects::None;
        }
        let said = untied(End::ConnectGivenUp, &servers, (since, over), false);
        Connects::Untied(Vec::new(), said)
    }

    /// A failed connect that this good response may hide: nothing in the capture answered its request.
    fn hidden_by(&self, id: u32) -> Connects {
        let exchange = self.exchanges.at(id);
        let (Some(flow), Some(over)) = (self.flow_of(exchange), exchange.over_at()) else {
            return Connects::None;
        };
        let mut behind = self
            .unclaimed(over)
            // Nothing but the time ties them: within the clocks' doubt it is as well another's.
            .filter(|c| self.may_ask(id, c) && c.began >= exchange.at)
            .filter(|c| !self.hosts.is_checked(c.client, c.server));
        let Some(first) = behind.next() else {
            return Connects::None;
        };
        let answered = || self.has_unread(id) || self.is_answered_elsewhere(id);
        if self.hosts.is_secretive(flow.server()) || answered() {
            Connects::None
        } else if !exchange.is(Exchange::LATER) {
            Connects::Later(over + SETTLE + HIDDEN)
        } else if self.hidden_behind(first) == Some(id) && !self.is_only_asked(id) {
            tied(&[*first], false)
        } else {
            Connects::None
        }
    }

    fn last_seen(&self, connect: u32) -> Nanos {
        let flow = self.flow_of(self.exchanges.at(connect));
        flow.map_or(0, |flow: &Flow| flow.seen_at)
    }

    /// A proxy that answers without any attempt in the capture may do so for other requests, too.
    pub(super) fn look_at_proxy(&mut self, id: u32, ties: &[Tie]) {
        let exchange = self.exchanges.at(id);
        let (Some(flow), Some(over)) = (self.flow_of(exchange), exchange.over_at()) else {
            return;
        };
        let server = flow.server();
        let at_once = exchange.status < 500 || over < exchange.at + UNANSWERED;
        let alone = ties.is_empty() && exchange.status != 0 && at_once;
        if alone && self.is_downstream(id) && !self.has_unread(id) {
            self.hosts.answers_by_itself(server);
        }
    }

    /// Remembers how long the proxy waited for connects that this failed response was given.
    pub(super) fn learn_wait(&mut self, id: u32, connects: &[Tie]) {
        let exchange = self.exchanges.at(id);
        let (Some(flow), Some(over)) = (self.flow_of(exchange), exchange.over_at()) else {
            return;
        };
        let proxy = flow.server();
        if exchange.status < 500 {
            return;
        }
        let last = connects.last().and_then(|tie| self.connect(tie.id));
        let Some(last) = last.filter(|c| !self.is_over(c) && c.began + UNANSWERED <= over) else {
            return;
        };
        self.order.keep_wait(Wait {
            proxy,
            server: last.server,
            waited: over - last.began,
            at: over,
        });
    }
}

fn tied(own: &[Connect], firm: bool) -> Connects {
    Connects::Tied(ties_of(own, firm))
}

fn ties_of(own: &[Connect], firm: bool) -> Vec<Tie> {
    own.iter().map(|c| Tie { id: c.id, firm }).collect()
}

fn untied(
    end: End,
    servers: &BTreeSet<SocketAddr>,
    (since, at): (Nanos, Nanos),
    captured: bool,
) -> Untied {
    let named = servers.iter().take(NAMED);
    Untied {
        at,
        end,
        upstreams: named.map(|s| Address(s.to_string())).collect(),
        captured,
        waited_ns: at.saturating_sub(since),
    }
}
