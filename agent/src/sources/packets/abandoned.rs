//! What a proxy gave up without a sign on the wire, for clients that cannot be read: connects that
//! nobody answered, and requests that nobody acknowledged.
//!
//! A client that is read tells by its failed response when the proxy gave up. One that comes by TLS
//! or HTTP/2 does not, and a connect that is given up ends with a SYN that does not come again.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use crate::signal::{End, Nanos, Signal};

use super::exchange::{Ended, Exchange};
use super::flow::{Direction, Flow, NONE};
use super::order::Connect;
use super::{AT_ONCE, LOOKED_THROUGH, Packets, SECOND, SKEW, SUSPECTS};

/// The first SYN is repeated after a second, by older systems after three.
const FIRST_WAIT: Nanos = 3 * SECOND;
/// Timers fire late on a busy host.
const LATE: Nanos = SECOND / 2;
/// A request that was sent so often, and acknowledged by nothing, is not on its way any more.
const SENT_IN_VAIN: u16 = 4;

/// When the next SYN would have come at the latest: a wait is at most twice the one before, and
/// none is shorter than a second.
fn next_syn(flow: &Flow) -> Nanos {
    let waited = flow.seen_at.saturating_sub(flow.syn_at);
    let before = u64::from(flow.syns.saturating_sub(2)) * SECOND;
    let longest = 2 * waited.saturating_sub(before);
    flow.seen_at + longest.max(FIRST_WAIT) + LATE
}

/// The server that an address asked last, and the last other one.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    last: (SocketAddr, Nanos),
    before: (SocketAddr, Nanos),
}

impl Asked {
    fn new(server: SocketAddr, at: Nanos) -> Asked {
        let one = (server, at);
        Asked {
            last: one,
            before: one,
        }
    }

    fn note(&mut self, server: SocketAddr, at: Nanos) {
        if self.last.0 != server {
            self.before = self.last;
        }
        self.last = (server, at);
    }

    /// Another server than this one was asked after that time.
    fn other_since(&self, server: SocketAddr, since: Nanos) -> bool {
        let other = |asked: (SocketAddr, Nanos)| asked.0 != server && asked.1 > since;
        other(self.last) || other(self.before)
    }
}

impl Packets {
    /// Watches a connect that gets no answer until no further SYN comes.
    pub(super) fn watch_suspect(&mut self, index: u32) {
        if self.abandoned.len() < SUSPECTS {
            let flow = self.flows.at(index);
            let due = (next_syn(flow), index, flow.id);
            self.abandoned.push(Reverse(due));
        }
    }

    /// Tells of connects that are given up by now.
    pub(super) fn tell_abandoned(&mut self, out: &mut Vec<Signal>) {
        if self.suspect_count == 0 {
            self.asked.clear();
        }
        while let Some(&Reverse((due, index, flow_id))) = self.abandoned.peek() {
            if due > self.now {
                break;
            }
            self.abandoned.pop();
            let waits = |flow: &&Flow| flow.id == flow_id && flow.oldest != NONE;
            let Some(flow) = self.flows.peek(index).filter(waits) else {
                continue;
            };
            if next_syn(flow) > self.now {
                self.watch_suspect(index);
            } else {
                self.connect_abandoned(flow.oldest, out);
            }
        }
    }

    /// Tells of a connect that nobody answered, if only a client that cannot be read can have asked
    /// for it, and nothing tells that another upstream was asked instead.
    pub(super) fn connect_abandoned(&mut self, id: u32, out: &mut Vec<Signal>) {
        let Some(connect) = self.connect(id) else {
            return;
        };
        let Some(flow) = self.flow_of(self.exchanges.at(id)) else {
            return;
        };
        let (last, answered) = (flow.seen_at, flow.to_client().is(Direction::SYN));
        let over = answered || self.exchanges.at(id).ended.is_some();
        if over || next_syn(flow) > self.now || !self.is_for_unread(&connect, last) {
            return;
        }
        self.end_unanswered(id, last);
        self.tell_orphan(id, End::ConnectGivenUp, None, false, true, out);
        self.drop_bare(id);
    }

    pub(super) fn end_unanswered(&mut self, id: u32, at: Nanos) {
        let flow = self.flow_of(self.exchanges.at(id));
        let syns = flow.map_or(0, |flow| flow.syns);
        self.exchanges.at_mut(id).ended = Some(Box::new(Ended {
            at,
            how: End::ConnectGivenUp,
            acked: 0,
            retransmits: u16::from(syns.saturating_sub(1)),
            zero_window: false,
            received: 0,
            response: None,
        }));
    }

    /// Somebody waited by TLS or HTTP/2 when the connect began, nobody in the clear, and no other
    /// server was asked after its last SYN.
    fn is_for_unread(&self, connect: &Connect, last: Nanos) -> bool {
        if self.exchanges.live() > LOOKED_THROUGH {
            return false;
        }
        let mut waited_for = false;
        for id in self.exchanges.ids() {
            let exchange = self.exchanges.at(id);
            let since = exchange.at <= connect.began + SKEW && !exchange.is(Exchange::BARE);
            let Some(flow) = self.flow_of(exchange).filter(|_| since) else {
                continue;
            };
            if !self.may_ask(id, connect) {
                continue;
            }
            let until = exchange.over_at().is_none_or(|over| over >= last);
            if exchange.content != 0 {
                if until && self.is_downstream(id) {
                    return false;
                }
            } else if flow.is(Flow::OPAQUE) {
                let several = flow.carries_several();
                let asked = several && flow.to_server().last_at + AT_ONCE >= connect.began;
                // What came may have been session tickets.
                let waits = until || exchange.is(Exchange::DOUBTFUL);
                if asked || (waits && !several) {
                    waited_for = true;
                }
            }
        }
        let elsewhere = |ip: &IpAddr| {
            let asked = self.asked.get(ip);
            asked.is_some_and(|asked| asked.other_since(connect.server, last))
        };
        let own = self.hosts.addresses_of(connect.client);
        waited_for && !own.iter().any(elsewhere)
    }

    /// While connects wait for answers: who asks which server.
    #[cold]
    pub(super) fn note_asked(&mut self, index: u32, at: Nanos) {
        let flow = self.flows.at(index);
        let (client, server) = (flow.client_ip(), flow.server());
        let to_front = || {
            let front = self.hosts.get(server.ip()).and_then(|host| host.encrypted);
            let front = front.and_then(|index| self.flows.peek(index));
            front.is_some_and(|front| front.server() == server)
        };
        // On loopback the proxy's own clients have its address.
        if client == server.ip() && to_front() {
            return;
        }
        if self.asked.len() < SUSPECTS || self.asked.contains_key(&client) {
            let new = || Asked::new(server, at);
            self.asked
                .entry(client)
                .or_insert_with(new)
                .note(server, at);
        }
    }

    /// At the capture's end: a request that was sent again and again and acknowledged by nothing.
    /// What holds it back holds back the FIN of who gives it up.
    pub(super) fn request_unacknowledged(&mut self, id: u32, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at(id);
        let Some(flow) = self.flow_of(exchange) else {
            return;
        };
        let up = flow.to_server();
        let untaken = up.is(Direction::ACKED) && up.acked == exchange.start;
        let in_vain = untaken && flow.by_client().retransmits >= SENT_IN_VAIN;
        let open = exchange.content != 0 && exchange.over_at().is_none() && !flow.incomplete();
        let unread = self.encrypted_downstream(flow.client_ip(), flow.server());
        if in_vain && open && flow.oldest == id && unread && !self.is_attempt(id) {
            self.failed(exchange.flow, End::GivenUp, self.now);
            self.as_attempt(id, true, out);
        }
    }
}
