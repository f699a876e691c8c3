//! Which response a failed connect led to where several requests were in flight: by the order of things.
//!
//! A connect carries no request, but proxies work in order. What has waited longest without an
//! attempt is taken up first, and when a connect fails, the proxy answers or tries elsewhere at once.
//! That is no proof: other workers, and attempts that no capture shows, may come in between.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;

use crate::signal::Nanos;

use super::exchange::Exchange;
use super::key::space_of;
use super::ties::Tie;
use super::{AT_ONCE, LOOKED_THROUGH, MILLISECOND, Packets, SECOND, SKEW};

/// A proxy tries the next server this soon after the last one refused.
const NEXT: Nanos = 2 * MILLISECOND;
/// What has ended is remembered for so long,
const KEPT: Nanos = 5 * SECOND;
/// and what waits as long as a proxy may.
const WAITED: Nanos = 90 * SECOND;
/// Of each kind at most.
const REMEMBERED: usize = 16_384;
/// Different waits remembered.
const WAITS: usize = 64;

/// A connect that failed, or got no answer, whatever became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connect {
    pub id: u32,
    pub flow_id: u64,
    pub began: Nanos,
    /// Equal to `began` where there was no answer.
    pub ended: Nanos,
    pub client: IpAddr,
    pub server: SocketAddr,
}

/// A response that a connect may have led to.
#[derive(Debug)]
struct Answer {
    at: Nanos,
    id: u32,
    flow_id: u64,
    /// Since when the proxy had its request to take up; `None` within: nothing of it was left to
    /// connects. Looked up when it is first asked for.
    waits: Option<Option<Nanos>>,
    /// When the last connect that is its own failed; 0 without any.
    tried: Nanos,
}

/// How long a proxy waited for a connect.
#[derive(Debug)]
pub(super) struct Wait {
    pub proxy: SocketAddr,
    pub server: SocketAddr,
    pub waited: Nanos,
    pub at: Nanos,
}

/// What is remembered of connects and of the responses around them.
#[derive(Default)]
pub(super) struct Order {
    /// Failed connects whose responses may still come, in the order of their ends.
    loose: VecDeque<Connect>,
    /// Those that no failed response has claimed.
    unclaimed: VecDeque<Connect>,
    answers: VecDeque<Answer>,
    /// By response.
    owned: FxHashMap<u32, Vec<Connect>>,
    failed: VecDeque<Connect>,
    unanswered: VecDeque<Connect>,
    pub waits: Vec<Wait>,
}

impl Order {
    pub(super) fn owned_by(&self, response: u32) -> &[Connect] {
        self.owned.get(&response).map_or(&[], Vec::as_slice)
    }

    pub(super) fn forget(&mut self, response: u32) {
        self.owned.remove(&response);
    }

    pub(super) fn keep_failed(&mut self, connect: Connect) {
        let now = connect.ended;
        keep(&mut self.failed, connect, |c| c.ended + KEPT < now);
        keep(&mut self.loose, connect, |c| c.ended + WAITED < now);
    }

    pub(super) fn keep_unanswered(&mut self, connect: Connect) {
        let now = connect.began;
        keep(&mut self.unanswered, connect, |c| c.began + WAITED < now);
    }

    pub(super) fn keep_wait(&mut self, wait: Wait) {
        let now = wait.at;
        let known = self.waits.iter_mut().find(|w| {
            (w.proxy, w.server) == (wait.proxy, wait.server) && same_wait(w.waited, wait.waited)
        });
        match known {
            Some(known) => known.at = now,
            None => {
                self.waits.retain(|w| w.at + WAITED >= now);
                self.waits.truncate(WAITS - 1);
                self.waits.push(wait);
            }
        }
    }

    /// The servers of connects that began in this time and got no answer.
    pub(super) fn unanswered_in(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = &Connect> + '_ {
        let first = self.unanswered.partition_point(|c| c.began < from);
        let later = self.unanswered.range(first..);
        later.take_while(move |c| c.began <= to)
    }

    /// The responses of this time, each with its connection.
    pub(super) fn answers_in(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = (u32, u64)> + '_ {
        let first = self.answers.partition_point(|a| a.at < from);
        let later = self.answers.range(first..).take_while(move |a| a.at <= to);
        later.map(|a| (a.id, a.flow_id))
    }

    /// The connects that failed in this time.
    pub(super) fn failed_in(&self, from: Nanos, to: Nanos) -> impl Iterator<Item = &Connect> + '_ {
        let first = self.failed.partition_point(|c| c.ended < from);
        let later = self.failed.range(first..);
        later.take_while(move |c| c.ended <= to)
    }
}

/// Whether a timer fired after the same time.
pub(super) fn same_wait(a: Nanos, b: Nanos) -> bool {
    a.abs_diff(b) <= (a / 1000).max(AT_ONCE / 2)
}

fn keep<T>(list: &mut VecDeque<T>, new: T, is_old: impl Fn(&T) -> bool) {
    while list.len() >= REMEMBERED || list.front().is_some_and(&is_old) {
        list.pop_front();
    }
    list.push_back(new);
}

impl Packets {
    /// A response came that a connect may have led to.
    pub(super) fn answer_came(&mut self, id: u32, at: Nanos) {
        let order = &mut self.order;
        while let Some(answer) = order.answers.front() {
            if order.answers.len() < REMEMBERED && answer.at + KEPT >= at {
                break;
            }
            order.owned.remove(&answer.id);
            order.answers.pop_front();
        }
        let flow_id = self.exchanges.at(id).flow_id;
        order.answers.push_back(Answer {
            at,
            id,
            flow_id,
            waits: None,
            tried: 0,
        });
    }

    pub(super) fn connect(&self, id: u32) -> Option<Connect> {
        let exchange = self.exchanges.at(id);
        let flow = self.flow_of(exchange)?;
        exchange.is(Exchange::BARE).then(|| Connect {
            id,
            flow_id: flow.id,
            began: exchange.at,
            ended: exchange.ended.as_ref().map_or(exchange.at, |e| e.at),
            client: flow.client_ip(),
            server: flow.server(),
        })
    }

    /// Gives the failed connects whose responses must have come by now to those responses.
    pub(super) fn settle_connects(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        while let Some(first) = order.loose.front() {
            let until = first.ended + AT_ONCE;
            // Of all that ended until then the responses are there.
            if !self.ending && until + AT_ONCE + SKEW > self.now {
                break;
            }
            // Requests are taken up in the order of connects' beginnings, however long those take.
            let near = order.loose.iter().take(LOOKED_THROUGH);
            let near = near.take_while(|c| c.ended <= until).enumerate();
            let place = near.min_by_key(|(_, c)| c.began).map_or(0, |(i, _)| i);
            let Some(connect) = order.loose.remove(place) else {
                break;
            };
            let owner = self.owner_of(&connect, 0, &mut order);
            // On another interface the clock may be another one.
            match owner.or_else(|| self.owner_of(&connect, SKEW, &mut order)) {
                Some(place) => {
                    let answer = &mut order.answers[place];
                    answer.tried = connect.ended;
                    order.owned.entry(answer.id).or_default().push(connect);
                }
                None => {
                    if !self.any_open(&connect) {
                        self.hosts.checks(connect.client, connect.server);
                    }
                    let now = connect.ended;
                    keep(&mut order.unclaimed, connect, |c| c.ended + KEPT < now);
                }
            }
        }
        self.order = order;
    }

    /// The failed response that a connect led to: the one whose next attempt it was, else the one
    /// whose request had waited longest.
    fn owner_of(&self, connect: &Connect, skew: Nanos, order: &mut Order) -> Option<usize> {
        let answers = &mut order.answers;
        let first = answers.partition_point(|a| a.at + skew < connect.ended);
        let (mut oldest, mut next) = (None, None);
        for (place, answer) in answers.iter_mut().enumerate().skip(first) {
            if answer.at > connect.ended + AT_ONCE {
                break;
            }
            let waits = match answer.waits {
                _ if !self.is_same(answer) => None,
                Some(waits) => waits,
                None => self.waits_since(answer),
            };
            answer.waits = Some(waits);
            let exchange = self.exchanges.at(answer.id);
            let open = exchange.status >= 500 && !exchange.is(Exchange::JUDGED);
            let fits = |since: &Nanos| {
                open && *since <= connect.began + skew && self.may_ask(answer.id, connect)
            };
            let Some(since) = waits.filter(fits) else {
                continue;
            };
            if answer.tried == 0 {
                // What had waited for longer may have been with an upstream that no capture shows, or
                // have a connect that nobody answered; the connect may be one of the checks.
                let late = since + AT_ONCE < connect.began;
                let place = (late, since, place);
                let waited = || {
                    let mut unanswered = order.unanswered.iter();
                    unanswered.any(|c| self.may_wait_for(answer.id, since, c))
                };
                // Unless it had tried there at once, and tries again.
                let again = || {
                    let near = |c: &Connect| c.began <= since + AT_ONCE && c.began + SKEW >= since;
                    let mut failed = order.failed.iter();
                    failed.any(|c| c.server == connect.server && near(c) && c.id != connect.id)
                };
                let checks = || self.hosts.is_checked(connect.client, connect.server) || waited();
                let others = late && (self.is_secretive(answer.id) || (checks() && !again()));
                if !others && oldest.is_none_or(|o| place < o) {
                    oldest = Some(place);
                }
            } else if (answer.tried..=answer.tried + NEXT).contains(&connect.began) {
                let own = order.owned.get(&answer.id).map_or(&[][..], Vec::as_slice);
                // Nobody asks again at once where it was refused.
                if own.iter().all(|c| c.server != connect.server) {
                    next = next.max(Some((answer.tried, place)));
                }
            }
        }
        let next = next.map(|(_, place)| place);
        next.or(oldest.map(|(_, _, place)| place))
    }

    /// The connect was made when the request had to be taken up, and nobody answers it.
    fn may_wait_for(&self, id: u32, since: Nanos, connect: &Connect) -> bool {
        connect.began.abs_diff(since) <= AT_ONCE
            && self.is_there(connect)
            && self.exchanges.at(connect.id).ended.is_none()
            && self.may_ask(id, connect)
    }

    /// The exchange is still that one.
    fn is_same(&self, answer: &Answer) -> bool {
        let exchange = self.exchanges.at(answer.id);
        exchange.flow_id == answer.flow_id && exchange.answered_at == answer.at
    }

    fn is_secretive(&self, id: u32) -> bool {
        let flow = self.flow_of(self.exchanges.at(id));
        flow.is_some_and(|flow| self.hosts.is_secretive(flow.server())) || self.has_unread(id)
    }

    fn waits_since(&self, answer: &Answer) -> Option<Nanos> {
        if !self.is_downstream(answer.id) {
            return None;
        }
        self.idle_since(answer.id, &self.attempts_of(answer.id))
    }

    /// Since when no attempt was open that carries the request; `None` if one was when it was answered.
    pub(super) fn idle_since(&self, id: u32, ties: &[Tie]) -> Option<Nanos> {
        let exchange = self.exchanges.at(id);
        let over = exchange.over_at()?;
        ties.iter().try_fold(exchange.at, |since, tie| {
            let ended = self.exchanges.at(tie.id).ended.as_ref()?;
            (ended.at <= over).then(|| since.max(ended.at))
        })
    }

    /// The connect goes to another server, and comes from an address that the request's proxy may have.
    pub(super) fn may_ask(&self, id: u32, connect: &Connect) -> bool {
        let flow = self.flow_of(self.exchanges.at(id));
        flow.is_some_and(|flow| {
            let proxy = flow.server_ip();
            // Whoever is asked on loopback may ask from any of the host's addresses.
            let from = proxy.is_loopback() || self.hosts.same(connect.client, proxy);
            let elsewhere = proxy.is_loopback()
                && connect.client.is_loopback()
                && connect.server.ip().is_loopback()
                && space_of(connect.flow_id) != flow.key.space();
            from && !elsewhere && flow.server() != connect.server
        })
    }

    /// Whether there was a request that the connect may have been made for.
    fn any_open(&self, connect: &Connect) -> bool {
        let open = |id: u32| {
            let exchange = self.exchanges.at(id);
            let over = exchange.over_at();
            !exchange.is(Exchange::BARE)
                && exchange.at <= connect.began + SKEW
                && over.is_none_or(|over| over + SKEW >= connect.ended)
                && self.may_ask(id, connect)
        };
        self.exchanges.live() > LOOKED_THROUGH || self.exchanges.ids().any(open)
    }

    /// Of responses that went well though nothing in the capture answered their requests, the one
    /// whose request had waited longest when the connect began.
    pub(super) fn hidden_behind(&self, connect: &Connect) -> Option<u32> {
        let answers = &self.order.answers;
        let first = answers.partition_point(|a| a.at + SKEW < connect.ended);
        answers
            .range(first..)
            .take_while(|a| a.at <= connect.ended + AT_ONCE)
            .filter(|a| {
                let exchange = self.exchanges.at(a.id);
                exchange.status < 500
                    && !exchange.is(Exchange::JUDGED)
                    && self.is_same(a)
                    && exchange.at <= connect.began + SKEW
                    && self.waits_since(a) == Some(exchange.at)
                    && self.may_ask(a.id, connect)
            })
            .min_by_key(|a| self.exchanges.at(a.id).at)
            .map(|a| a.id)
    }

    /// Failed connects that no failed response has claimed, and that a response at this time may hide.
    pub(super) fn unclaimed(&self, over: Nanos) -> impl Iterator<Item = &Connect> + '_ {
        let unclaimed = &self.order.unclaimed;
        let first = unclaimed.partition_point(|c| c.ended + AT_ONCE < over);
        unclaimed
            .range(first..)
            .take_while(move |c| c.ended <= over + SKEW)
            .filter(|c| self.is_there(c))
    }

    /// It has not been told of, nor forgotten.
    pub(super) fn is_there(&self, connect: &Connect) -> bool {
        let exchange = self.exchanges.at(connect.id);
        exchange.flow_id == connect.flow_id && exchange.is(Exchange::BARE)
    }
}
