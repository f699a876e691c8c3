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
    /// Watches a connect that gets no answer until no further SYN comes, if only a client that cannot
    /// be read can have asked for it.
    pub(super) fn watch_suspect(&mut self, index: u32) {
        let flow = self.flows.at(index);
        let due = (next_syn(flow), index, flow.id);
        let connect = self.connect(flow.oldest);
        if self.abandoned.len() < SUSPECTS && connect.is_some_and(|c| self.is_for_unread(&c)) {
            self.abandoned.push(Reverse(due));
        }
    }

    /// Tells of connects that are given up by now, unless another upstream was asked since.
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
            let (id, last, next) = (flow.oldest, flow.seen_at, next_syn(flow));
            let answered = flow.to_client().is(Direction::SYN);
            let Some(connect) = self.connect(id).filter(|_| !answered) else {
                continue;
            };
            if next > self.now {
                self.abandoned.push(Reverse((next, index, flow_id)));
            } else if self.exchanges.at(id).ended.is_none() && !self.went_elsewhere(&connect, last)
            {
                self.end_unanswered(id, last);
                self.tell_orphan(id, End::ConnectGivenUp, None, false, true, out);
                self.drop_bare(id);
            }
        }
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

    /// When the connect began somebody waited by TLS or HTTP/2, and nobody in the clear.
    fn is_for_unread(&self, connect: &Connect) -> bool {
        if self.exchanges.live() > LOOKED_THROUGH {
            return false;
        }
        let mut waited_for = false;
        for id in self.exchanges.ids() {
            let exchange = self.exchanges.at(id);
            let Some(flow) = self.flow_of(exchange).filter(|_| self.may_ask(id, connect)) else {
                continue;
            };
            let before = exchange.at <= connect.began + SKEW;
            let until = exchange.over_at().is_none_or(|at| at >= connect.began);
            if exchange.content != 0 {
                if before && until && self.is_downstream(id) {
                    return false;
                }
            } else if flow.is(Flow::OPAQUE) {
                // What came may have been session tickets. Of several requests at once it is known
                // only when something was sent last.
                waited_for |= match flow.carries_several() {
                    true => {
                        flow.syn_at <= connect.began
                            && flow.to_server().last_at + AT_ONCE >= connect.began
                    }
                    false => before && (until || exchange.is(Exchange::DOUBTFUL)),
                };
            }
        }
        waited_for
    }

    /// Its client asked another server after this time.
    fn went_elsewhere(&self, connect: &Connect, last: Nanos) -> bool {
        let asked = |ip: &IpAddr| {
            let asked = self.asked.get(ip);
            asked.is_some_and(|asked| asked.other_since(connect.server, last))
        };
        self.hosts.addresses_of(connect.client).iter().any(asked)
    }

    /// While connects wait for answers: who asks which server.
    #[cold]
    pub(super) fn note_asked(&mut self, index: u32, at: Nanos) {
        let flow = self.flows.at(index);
        let (client, server) = (flow.client_ip(), flow.server());
        // Only of those whose connects wait; under which of a host's addresses is not asked here.
        if !self.suspects.contains_key(&client) && !self.hosts.several_addresses() {
            return;
        }
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
        let unread = self.hosts.encrypted_beside(flow.client_ip(), flow.server());
        if in_vain && open && flow.oldest == id && unread && !self.is_attempt(id) {
            self.failed(exchange.flow, End::GivenUp, self.now);
            self.as_attempt(id, true, out);
        }
    }
}
