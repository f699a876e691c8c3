//! Connects that got no connection: kept until it is known for which request they were made.
//!
//! `owners` finds which request that is.

use std::net::IpAddr;

use crate::signal::{End, Nanos, Signal};

use super::exchange::{Ended, Exchange};
use super::flow::{Direction, Flow, NONE};
use super::{AT_ONCE, LOOKED_THROUGH, Packets, SETTLE, SKEW, SUSPECTS, UNANSWERED};

/// Connects watched for that at once.
const CONNECTS: usize = 65_536;

impl Packets {
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
            // The answer itself may be missing from the capture.
            const ANSWERED: u8 = Direction::SYN | Direction::FOLLOWED | Direction::ACKED;
            let waits = |flow: &Flow| {
                flow.id == id
                    && !flow.to_client().is(ANSWERED)
                    && !flow.is(Flow::SUSPECT | Flow::TWIN | Flow::OVER)
            };
            if self.flows.peek(index).is_some_and(waits) {
                self.suspect(index);
            }
        }
    }

    /// A connect that gets no answer: it may turn out to be why its downstream failed.
    pub(super) fn suspect(&mut self, index: u32) {
        self.begin_suspect(index);
        let id = self.flows.at(index).oldest;
        if id != NONE
            && let Some(connect) = self.connect(id)
        {
            self.order.keep_unanswered(connect);
        }
    }

    fn begin_suspect(&mut self, index: u32) {
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
        self.note_asked(index, at);
        self.watch_suspect(index);
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
        self.begin_suspect(index);
        let flow = self.flows.at_mut(index);
        flow.reset_at = at;
        flow.set(Flow::OVER);
        let id = flow.oldest;
        let syns = flow.syns;
        if id == NONE || self.exchanges.at(id).ended.is_some() {
            return;
        }
        self.exchanges.at_mut(id).ended = Some(Box::new(Ended {
            at,
            how: End::ConnectFailed { errno },
            acked: 0,
            retransmits: u16::from(syns.saturating_sub(1)),
            zero_window: false,
            received: 0,
            response: None,
        }));
        if let Some(connect) = self.connect(id) {
            self.order.keep_failed(connect);
        }
        // After the response that it led to, which claims it.
        self.queue(id, at + SETTLE + AT_ONCE + SKEW);
    }

    /// At the capture's end: a connect that got no answer, its downstream not in the capture.
    pub(super) fn connect_unanswered(&mut self, id: u32, out: &mut Vec<Signal>) {
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return;
        };
        if flow.to_client().is(Direction::SYN) || self.exchanges.at(id).ended.is_some() {
            return;
        }
        let (client, at) = (flow.client_ip(), flow.seen_at);
        let asks = self.hosts.may_be_asker(client, flow.server());
        if asks && !self.hosts.serves_beside(client, flow.server()) {
            self.end_unanswered(id, at);
            self.tell_orphan(id, End::ConnectGivenUp, None, false, true, out);
        }
    }
}
