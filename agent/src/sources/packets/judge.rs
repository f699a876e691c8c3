//! What is told of each exchange: as a request to the proxy with its attempts, or as an attempt alone.

use std::net::IpAddr;

use crate::signal::{End, Signal};

use super::exchange::{Ended, Exchange};
use super::flow::{Direction, Flow, before};
use super::owners::Connects;
use super::ties::Tie;
use super::unread::Behind;
use super::{AT_ONCE, Packets, SECOND, SETTLE, SKEW, TRIED};

impl Packets {
    /// All facts about this exchange are in, as far as they will come.
    pub(super) fn judge(&mut self, id: u32, out: &mut Vec<Signal>) {
        if self.flow_of(self.exchanges.at(id)).is_none() {
            self.no_longer_awaited(id);
            self.exchanges.release(id);
            return;
        }
        if !self.ending && self.put_off(id) {
            return;
        }
        let exchange = self.exchanges.at(id);
        let doubtful = self.is_doubtful(id);
        let looked_at = exchange.is(Exchange::JUDGED | Exchange::AWAITED);
        let ours = self.is_ours(exchange.flow);
        if exchange_over(exchange) && !looked_at && !doubtful && !ours {
            self.as_downstream(id, out);
        }
        let exchange = self.exchanges.at(id);
        if exchange.ended.is_some() && !exchange.is(Exchange::TOLD) && self.is_untold(id) {
            self.as_attempt(id, false, out);
        }
        self.exchanges.release(id);
    }

    /// One that was told as a request to a proxy may be another proxy's attempt as well.
    fn is_untold(&self, id: u32) -> bool {
        !self.exchanges.at(id).is(Exchange::JUDGED) || self.is_attempt(id)
    }

    /// What never ended within the capture, but has attempts that did.
    pub(super) fn judge_open(&mut self, out: &mut Vec<Signal>) {
        self.tell_abandoned(out);
        let ids: Vec<u32> = self.exchanges.ids().collect();
        for &id in &ids {
            let exchange = self.exchanges.at(id);
            let untold = exchange.is(Exchange::ATTEMPTED) && !exchange.is(Exchange::JUDGED);
            let open = untold && exchange.answered_at == 0 && !self.is_ours(exchange.flow);
            if open && self.flow_of(exchange).is_some() {
                let mut ties = self.attempts_of(id);
                if let Connects::Tied(connects) = self.connects_of(id, &ties) {
                    ties.extend(connects);
                }
                if self.any_failed(&ties) {
                    self.tell_group(id, &ties, None, false, out);
                }
            }
        }
        for &id in &ids {
            let exchange = self.exchanges.at(id);
            let untold =
                !exchange.is(Exchange::TOLD | Exchange::JUDGED) && self.flow_of(exchange).is_some();
            if untold && exchange.ended.is_some() {
                self.as_attempt(id, true, out);
            } else if untold && exchange.is(Exchange::BARE) {
                self.connect_unanswered(id, out);
            } else if untold {
                self.request_unacknowledged(id, out);
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
        let mut ties = self.attempts_of(id);
        if ties.is_empty() {
            ties = self.rewritten_of(id);
        }
        if (1..500).contains(&status) {
            // What still went on behind a good answer did not fail for it.
            ties.retain(|tie| self.was_over_by(tie.id, id));
            self.leave_given_up(id, &mut ties);
        }
        let responded = status != 0 && !self.was_unread(id);
        self.settle_connects();
        match self.connects_of(id, &ties) {
            Connects::Later(due) => {
                self.exchanges.at_mut(id).set(Exchange::LATER);
                return self.queue(id, due);
            }
            Connects::Untied(connects, untied) => {
                self.learn_wait(id, &connects);
                for connect in connects {
                    self.drop_bare(connect.id);
                }
                return self.tell_group(id, &ties, Some(untied), responded, out);
            }
            Connects::Tied(connects) => {
                self.learn_wait(id, &connects);
                ties.extend(connects);
                ties.sort_by_key(|tie| (self.exchanges.at(tie.id).at, tie.id));
            }
            Connects::None => self.look_at_proxy(id, &ties),
        }
        if !ties.is_empty() && (status >= 500 || self.any_failed(&ties)) {
            self.tell_group(id, &ties, None, responded, out);
            return;
        }
        if status < 500 {
            return;
        }
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return;
        };
        let (client, server) = (flow.client_ip(), flow.server());
        let by_proxy = self.is_to_proxy(id);
        let to_proxy = self.hosts.is_proxys(client);
        let told = self.exchanges.at(id).is(Exchange::TOLD);
        let passed_on = told || self.is_attempt(id) || self.may_be_passed_on(id);
        if !by_proxy && (to_proxy || passed_on) {
            // An upstream's own answer; where its downstream is seen, that tells of it.
            if to_proxy && !passed_on {
                self.tell_orphan(id, End::Answered, None, false, true, out);
            }
            return;
        }
        if !self.hosts.may_be_proxy(server.ip()) {
            return;
        }
        match self.behind(id) {
            Behind::Own(ties) => self.tell_group(id, &ties, None, responded, out),
            Behind::Unclear(possible) if responded => self.tell_unread(id, &possible, out),
            Behind::Nothing | Behind::Unclear(_) => {
                self.tell_group(id, &[], None, responded, out);
            }
        }
    }

    /// Nobody gives up at once what answers well without anything else having been tried: these were
    /// not made for it, but by clients of their own.
    fn leave_given_up(&mut self, id: u32, ties: &mut Vec<Tie>) {
        let at_once = |tie: &Tie| {
            let exchange = self.exchanges.at(tie.id);
            let given_up = |e: &&Ended| e.how == End::GivenUp && e.at < exchange.at + SECOND;
            exchange.ended.as_deref().filter(given_up).is_some()
        };
        if !ties.iter().all(at_once) {
            return;
        }
        for tie in ties.drain(..) {
            if self.downstreams_of(tie.id, true)[..] == [id] {
                self.no_longer_awaited(tie.id);
                self.exchanges.release(tie.id);
            }
        }
    }

    /// The attempt was over when this was answered or a moment after, or had been answered with
    /// something.
    fn was_over_by(&self, attempt: u32, id: u32) -> bool {
        let Some(answered) = self.exchanges.at(id).over_at() else {
            return false;
        };
        let attempt = self.exchanges.at(attempt);
        let first = attempt.first_byte_at;
        // An answer that came later did not lead to this one; what is given up is closed a moment later.
        let soon = match &attempt.ended {
            Some(ended) if matches!(ended.how, End::GivenUp | End::ConnectGivenUp) => AT_ONCE,
            // The upstream's own end came later: it was still waited for.
            Some(_) => 0,
            None => SKEW,
        };
        attempt.over_at().is_some_and(|at| at <= answered + soon)
            || (first != 0 && first <= answered)
    }

    /// The client had ended its connection, and acknowledged nothing of the response: it was written
    /// to nobody. Who closes its sending side alone acknowledges what it still reads.
    fn was_unread(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return false;
        };
        let left = flow.to_server().is(Direction::FIN) || flow.is(Flow::RESET_BY_CLIENT);
        let down = flow.to_client();
        let acks = flow.is(Flow::RESET_BY_CLIENT) && flow.is(Flow::RESET_ACK);
        let reset = acks.then_some(flow.reset_ack);
        let known = down.is(Direction::ACKED).then_some(down.acked);
        let read = |ack: u32| before(exchange.response_start, ack);
        left && !flow.incomplete() && !known.into_iter().chain(reset).any(read)
    }

    /// A request that its connection left without an answer.
    pub(super) fn as_attempt(&mut self, id: u32, last: bool, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return;
        };
        let (client, server) = (flow.client_ip(), flow.server());
        let Some(ended) = &exchange.ended else { return };
        let (ended_at, how, began) = (ended.at, ended.how, exchange.at);
        let (bare, awaited) = (exchange.is(Exchange::BARE), exchange.is(Exchange::AWAITED));
        let unknown = flow.speaks_unknown();
        self.no_longer_awaited(id);
        if self.is_doubtful(id) {
            return;
        }
        if !self.hosts.may_be_proxy(client) {
            return self.drop_bare(id);
        }
        // Whatever else asks from a proxy's address: a worker its database, a cache.
        if unknown {
            return;
        }
        let asked_for = self.downstreams_of(id, true);
        if asked_for.is_empty() && self.is_ours(self.exchanges.at(id).flow) {
            return self.drop_bare(id);
        }
        if !last {
            let still = |d: &u32| {
                let d = self.exchanges.at(*d);
                d.is(Exchange::QUEUED) || !exchange_over(d)
            };
            let to_come = match asked_for.is_empty() {
                false => asked_for.iter().any(still),
                true => self.waits_for_clear(id) || self.waits_for_rewritten(id),
            };
            if to_come && self.await_response(id, ended_at) {
                return;
            }
            // What was over at the first look was told with its response, or left out of it.
            if !asked_for.is_empty() && !to_come && !awaited {
                return;
            }
        }
        // Clients may ask its host at another address than it asks from.
        let own = self.hosts.addresses_of(client);
        let any = |is: &dyn Fn(IpAddr) -> bool| own.iter().any(|ip| is(*ip));
        let serves = any(&|ip| self.hosts.serves_beside(ip, server));
        let encrypted = any(&|ip| self.hosts.encrypted_beside(ip, server));
        let named = any(&|ip| self.hosts.is_proxys(ip));
        let left_out = !last && !asked_for.is_empty();
        if left_out || (serves && !encrypted) {
            // Its clients' requests are seen, and none is this one, or it is told without it.
            let waited = self.now.saturating_sub(ended_at);
            if bare && !last && waited < TRIED {
                if !self.ending {
                    self.queue(id, ended_at + TRIED);
                }
                return;
            }
            if named && !self.is_to_proxy(id) {
                self.tell_orphan(id, how, None, false, false, out);
            }
            return match left_out {
                true => self.told(id),
                false => self.drop_bare(id),
            };
        }
        if !named && !encrypted {
            // No address here is known to be a proxy's. A server that asks others is one itself,
            // and then this is its client; a client that ends its own wait early may be anyone.
            let of_client = self.hosts.asks_beside(server.ip(), server);
            let impatient = matches!(how, End::GivenUp | End::ConnectGivenUp)
                && ended_at.saturating_sub(began) < SECOND;
            // Nor is a check in TLS that comes to nothing, on a host whose clients ask in the clear.
            let silent = match bare {
                true => !self.hosts.may_be_asker(client, server),
                false => self.is_within_handshake(id) && self.hosts.asked_on_loopback(),
            };
            if of_client || impatient || silent {
                return self.drop_bare(id);
            }
            // A proxy that has another address for its clients has checks that none of them asked for.
            let waited = self.now.saturating_sub(ended_at);
            let early = !last && !self.ending && waited < TRIED;
            if early && self.hosts.may_have_another(client) {
                return self.queue(id, ended_at + TRIED);
            }
        }
        let retry_of = self.tried_before(id);
        let retried = self.tried_again(id);
        // Where addresses are translated it may be a known one's other side; where the capture is not
        // in order, what says so may be still to come.
        let unseen = !(bare && (self.hosts.twins || self.clocks.stepped()));
        self.tell_orphan(id, how, retry_of, retried, unseen, out);
        self.drop_bare(id);
    }
}

fn exchange_over(exchange: &Exchange) -> bool {
    exchange.over_at().is_some()
}
