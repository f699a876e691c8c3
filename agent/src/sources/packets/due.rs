//! Which exchanges are judged when: once the facts about them are in.

use std::cmp::Reverse;

use crate::signal::{Nanos, Signal};

use super::Packets;
use super::exchange::Exchange;

impl Packets {
    /// Has the exchange judged when its facts are in.
    pub(super) fn queue(&mut self, id: u32, due: Nanos) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.is(Exchange::QUEUED) {
            return;
        }
        exchange.set(Exchange::QUEUED);
        let (flow, flow_id) = (exchange.flow, exchange.flow_id);
        if self.flows.peek(flow).is_some_and(|f| f.id == flow_id) {
            let flow = self.flows.at_mut(flow);
            flow.queued = flow.queued.saturating_add(1);
        }
        self.due.push(Reverse((due, id)));
        self.next_due = self.next_due.min(due);
    }

    fn unqueue(&mut self, id: u32) {
        let exchange = self.exchanges.at_mut(id);
        exchange.clear(Exchange::QUEUED);
        let (flow, flow_id) = (exchange.flow, exchange.flow_id);
        if self.flows.peek(flow).is_some_and(|f| f.id == flow_id) {
            let flow = self.flows.at_mut(flow);
            flow.queued = flow.queued.saturating_sub(1);
        }
    }

    pub(super) fn judge_due(&mut self, now: Nanos, out: &mut Vec<Signal>) {
        while let Some(&Reverse((at, id))) = self.due.peek() {
            if at > now {
                break;
            }
            self.due.pop();
            self.unqueue(id);
            self.judge(id, out);
        }
        self.next_due = self.due.peek().map_or(Nanos::MAX, |Reverse((at, _))| *at);
    }
}
