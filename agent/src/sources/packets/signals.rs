//! Tells of failed exchanges in the signals that the tracker knows.

use crate::signal::{
    ClosedBy, End, Fact, FlowClosed, IdleClose, Nanos, Opening, Response, Signal, Stall, Unread,
    Untied,
};

use super::Packets;
use super::exchange::Exchange;
use super::facts::{acked, address, reset_at};
use super::flow::ahead;
use super::outcome::Outcome;
use super::ties::Tie;

impl Packets {
    /// Tells of one request to a proxy: its attempts, and the response if there was one.
    pub(super) fn tell_group(
        &mut self,
        id: u32,
        ties: &[Tie],
        untied: Option<Untied>,
        responded: bool,
        out: &mut Vec<Signal>,
    ) {
        let server = self.served_by(self.exchanges.at(id).flow);
        let mut retry_of = None;
        let mut last = None;
        let mut adjacent = None;
        for (i, tie) in ties.iter().enumerate() {
            let is_last = i + 1 == ties.len();
            let outcome = self.outcome(tie.id, id);
            let mut attempt = self.attempt(tie.id, outcome);
            attempt.retry_of = retry_of;
            attempt.proxy = server.unwrap_or(attempt.proxy);
            attempt.downstream = Some(self.link(id, tie, i > 0, outcome.at));
            let flow = attempt.flow;
            let content = |id| self.exchanges.at(id).content;
            let rewritten = content(tie.id) != content(id);
            if outcome.how == End::Answered {
                // One that was answered matters only if its answer was passed on.
                if is_last && responded {
                    adjacent = retry_of.filter(|_| rewritten);
                    last = Some(Box::new(attempt));
                }
                self.told(tie.id);
                continue;
            }
            retry_of = Some(flow);
            let plain = matches!(
                attempt.request.as_ref().map(|r| &r.opening),
                Some(Opening::HttpRequest { .. })
            );
            // By its path it would be taken for another request's.
            if is_last && (tie.firm || !plain || rewritten) {
                adjacent = Some(flow);
            }
            self.tell(outcome.at, Fact::AttemptEnded(Box::new(attempt)), out);
            if !is_last {
                self.tell(outcome.at, Fact::AttemptRetried { flow }, out);
            }
            self.tell_flow_closed(tie.id, outcome, out);
            self.told(tie.id);
        }
        let response = responded.then(|| {
            let mut response = self.response(id, adjacent, last);
            response.untied = untied;
            response
        });
        self.judged(id, response, out);
    }

    /// Tells of a response for which no attempt can be named, though there were some.
    pub(super) fn tell_response(&mut self, id: u32, unread: Unread, out: &mut Vec<Signal>) {
        let mut response = self.response(id, None, None);
        response.unread = Some(unread);
        self.judged(id, Some(response), out);
    }

    fn judged(&mut self, id: u32, response: Option<Response>, out: &mut Vec<Signal>) {
        if let Some(response) = response {
            let at = self.exchanges.at(id).answered_at;
            self.tell(at, Fact::ResponseSent(Box::new(response)), out);
        }
        self.order.forget(id);
        let exchange = self.exchanges.at_mut(id);
        exchange.set(Exchange::JUDGED);
        self.exchanges.release(id);
        self.tell(self.now, Fact::Tick, out);
    }

    /// Tells of an attempt whose downstream is not known; `unseen`: because its side is not in the
    /// capture, or cannot be read.
    pub(super) fn tell_orphan(
        &mut self,
        id: u32,
        how: End,
        retry_of: Option<u32>,
        retried: bool,
        unseen: bool,
        out: &mut Vec<Signal>,
    ) {
        let exchange = self.exchanges.at(id);
        let at = exchange.over_at().unwrap_or(self.now);
        let outcome = Outcome { how, at };
        let mut attempt = self.attempt(id, outcome);
        attempt.retry_of = retry_of.map(|id| self.exchanges.at(id).flow_id);
        if unseen {
            let (link, server) = self.unseen_link(id);
            attempt.downstream = Some(link);
            attempt.proxy = server.unwrap_or(attempt.proxy);
        }
        let flow = attempt.flow;
        self.tell(at, Fact::AttemptEnded(Box::new(attempt)), out);
        if retried {
            self.tell(at, Fact::AttemptRetried { flow }, out);
        }
        self.tell_flow_closed(id, outcome, out);
        self.exchanges.at_mut(id).set(Exchange::TOLD);
        self.tell(self.now, Fact::Tick, out);
    }

    pub(super) fn told(&mut self, id: u32) {
        self.no_longer_awaited(id);
        let exchange = self.exchanges.at_mut(id);
        exchange.set(Exchange::TOLD);
        if exchange.is(Exchange::BARE) {
            self.drop_bare(id);
        } else {
            self.exchanges.release(id);
        }
    }

    fn tell_flow_closed(&self, id: u32, outcome: Outcome, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        let flow = self.flows.at(exchange.flow);
        if exchange.is(Exchange::BARE) {
            return;
        }
        let bytes = ahead(exchange.start, exchange.end);
        let reset_at = reset_at(exchange, flow);
        let at = flow
            .reset_at
            .max(flow.bounds[0].fin_at)
            .max(flow.bounds[1].fin_at)
            .max(outcome.at);
        let closed = FlowClosed {
            flow: flow.id,
            acked: u64::from(acked(exchange, flow).min(bytes)),
            reset_at,
            peer: None,
        };
        self.tell(at, Fact::FlowClosed(closed), out);
    }

    pub(super) fn tell_idle_close(
        &mut self,
        index: u32,
        by: ClosedBy,
        reset: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let proxy = self.asker(index);
        let flow = self.flows.at(index);
        let upstream = self.hosts.name(flow.server());
        let close = IdleClose {
            flow: flow.id,
            proxy,
            upstream,
            by,
            reset,
            idle_ns: at.saturating_sub(flow.last_payload()),
            requests: flow.requests,
            longest_reuse_ns: flow.longest_reuse,
        };
        self.tell(at, Fact::IdleClosed(close), out);
    }

    pub(super) fn tell_stall(
        &mut self,
        index: u32,
        waited_ns: Nanos,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let proxy = self.asker(index);
        let upstream = address(self.flows.at(index).server());
        let stall = Stall {
            proxy,
            upstream,
            waited_ns,
        };
        self.tell(at, Fact::FirstByteLate(stall), out);
    }
}
