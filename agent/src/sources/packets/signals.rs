//! Facts of failed exchanges as the signals that the tracker knows.

use std::net::SocketAddr;

use crate::signal::{
    Address, Attempt, ClosedBy, DownstreamState, End, Fact, Fin, FlowClosed, IdleClose, Link,
    LinkOrder, Nanos, Opening, RequestSent, Response, Signal, Stall, TcpFacts, Unread, Untied,
};

use super::Packets;
use super::exchange::Exchange;
use super::flow::{Direction, Flow, ahead, before};
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
        let exchange = self.exchanges.at_mut(id);
        exchange.set(Exchange::TOLD);
        exchange.clear(Exchange::AWAITED);
        if exchange.is(Exchange::BARE) {
            self.drop_bare(id);
        } else {
            self.exchanges.release(id);
        }
    }

    /// The process that serves this connection, where the host says so.
    pub(super) fn served_by(&self, index: u32) -> Option<u32> {
        let flow = self.flows.peek(index)?;
        self.owners.find(flow.server(), flow.seen_in)
    }

    /// A request was passed on from `downstream` to this connection: who serves the one asks on
    /// the other.
    pub(super) fn asks_on(&mut self, index: u32, downstream: u32) {
        let Some(pid) = self.served_by(downstream) else {
            return;
        };
        let known = self.askers.iter().position(|known| *known == pid);
        let place = known.unwrap_or_else(|| {
            self.askers.push(pid);
            self.askers.len() - 1
        });
        // More than fit are not remembered: then it is nobody.
        self.flows.at_mut(index).asker = u16::try_from(place + 1).unwrap_or(0);
    }

    /// The process that asks on this connection, else a number for its address.
    fn asker(&mut self, index: u32) -> u32 {
        let flow = self.flows.at(index);
        let place = usize::from(flow.asker).checked_sub(1);
        match place.and_then(|place| self.askers.get(place)) {
            Some(pid) => *pid,
            None => self.hosts.number(flow.client_ip(), flow.key.space()),
        }
    }

    fn attempt(&mut self, id: u32, outcome: Outcome) -> Attempt {
        let proxy = self.asker(self.exchanges.at(id).flow);
        let exchange = self.exchanges.at(id);
        // The flow is there: exchanges of flows that are gone are not judged.
        let flow = self.flows.at(exchange.flow);
        let bare = exchange.is(Exchange::BARE);
        let reused = !bare && (exchange.ordinal > 1 || flow.is(Flow::JOINED));
        let began = if reused || flow.syn_at == 0 {
            exchange.at
        } else {
            flow.syn_at
        };
        let bytes = ahead(exchange.start, exchange.end);
        let ended = exchange.ended.as_deref();
        let answered = outcome.how == End::Answered;
        let received = match ended {
            Some(ended) if !answered => ended.received,
            _ if exchange.first_byte_at != 0 && exchange.first_byte_at <= outcome.at => {
                ahead(exchange.response_start, flow.to_client().next)
            }
            _ => 0,
        };
        let response = match ended {
            Some(ended) => ended.response.clone(),
            None if exchange.status != 0 && exchange.answered_at <= outcome.at => {
                Some(Opening::HttpResponse {
                    status: exchange.status,
                })
            }
            None if received > 0 => exchange.answer.as_deref().cloned(),
            None => None,
        };
        Attempt {
            flow: flow.id,
            proxy,
            thread: 0,
            downstream: None,
            retry_of: None,
            upstream: address(flow.server()),
            local: Some(address(flow.client())),
            began,
            connected: (!reused && flow.established_at != 0).then_some(flow.established_at),
            reused,
            requests_before: exchange.ordinal.saturating_sub(1),
            idle_ns: exchange.idle(),
            request: (!bare).then(|| RequestSent {
                at: exchange.at,
                bytes: u64::from(bytes),
                opening: exchange.opening(),
                write_errno: None,
            }),
            received: u64::from(received),
            response,
            end: outcome.how,
            tcp: Some(tcp_facts(exchange, flow, outcome, bytes)),
            peer: None,
            queue: None,
            netns: 0,
            upstream_end: None,
            spoke_http: false,
            fault: None,
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

    fn link(&self, id: u32, tie: &Tie, retry: bool, ended: Nanos) -> Link {
        let exchange = self.exchanges.at(id);
        let flow = self.flows.at(exchange.flow);
        let order = match (tie.firm, retry) {
            (false, _) => LinkOrder::Unclear,
            (true, false) => LinkOrder::AfterRead,
            (true, true) => LinkOrder::Retry,
        };
        let up = flow.to_server();
        let unclear = exchange.is(Exchange::RESUMED) || exchange.content == 0;
        let state = if unclear || flow.incomplete() || answer_missing(exchange, flow) {
            // A response may be among what is missing.
            DownstreamState::Unknown
        } else if flow.is(Flow::RESET_BY_CLIENT) && flow.reset_at <= ended {
            DownstreamState::ResetByClient
        } else if up.is(Direction::FIN) && flow.by_client().fin_at <= ended {
            DownstreamState::ClosedByClient
        } else {
            DownstreamState::Open
        };
        Link {
            flow: flow.id,
            ordinal: exchange.ordinal,
            order,
            client: Some(address(flow.client())),
            proxy_address: Some(address(flow.server())),
            request: Some(exchange.opening()),
            state,
            read_before_ns: None,
        }
    }

    /// The downstream is TLS or HTTP/2, or not in the capture; the process that serves it.
    fn unseen_link(&self, id: u32) -> (Link, Option<u32>) {
        let exchange = self.exchanges.at(id);
        let flow = self.flows.at(exchange.flow);
        let host = self.hosts.get(flow.client_ip());
        // Of several clients nothing tells which one it was.
        let only = host
            .filter(|host| host.encrypted_count == 1)
            .and_then(|host| Some((host.encrypted?, self.flows.peek(host.encrypted?)?)))
            .filter(|(_, other)| other.is(Flow::OPAQUE) && other.id != flow.id);
        let server = only.and_then(|(index, _)| self.served_by(index));
        let mut link = Link {
            flow: 0,
            ordinal: 0,
            order: LinkOrder::Unclear,
            client: None,
            proxy_address: None,
            request: Some(Opening::Unseen),
            state: DownstreamState::Unknown,
            read_before_ns: None,
        };
        if let Some((_, other)) = only {
            let at = exchange.over_at().unwrap_or(self.now);
            link.flow = other.id;
            link.client = Some(address(other.client()));
            link.proxy_address = Some(address(other.server()));
            let up = other.to_server();
            if up.is(Direction::FIN) && other.by_client().fin_at <= at {
                link.state = DownstreamState::ClosedByClient;
            } else if other.is(Flow::RESET_BY_CLIENT) && other.reset_at <= at {
                link.state = DownstreamState::ResetByClient;
            }
        }
        (link, server)
    }

    fn response(
        &mut self,
        id: u32,
        adjacent: Option<u64>,
        last_attempt: Option<Box<Attempt>>,
    ) -> Response {
        let index = self.exchanges.at(id).flow;
        let flow = self.flows.at(index);
        let (ip, space) = (flow.server_ip(), flow.key.space());
        let number = self.hosts.number(ip, space);
        let proxy = self.served_by(index).unwrap_or(number);
        let exchange = self.exchanges.at(id);
        let flow = self.flows.at(exchange.flow);
        let opening = exchange.opening();
        let seen = opening != Opening::Other;
        Response {
            proxy,
            thread: 0,
            downstream: flow.id,
            ordinal: exchange.ordinal,
            status: Some(exchange.status),
            client: Some(address(flow.client())),
            proxy_address: Some(address(flow.server())),
            request: seen.then_some(opening),
            request_at: seen.then_some(exchange.at),
            adjacent,
            last_attempt,
            untied: None,
            unread: None,
        }
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

fn tcp_facts(exchange: &Exchange, flow: &Flow, outcome: Outcome, bytes: u32) -> TcpFacts {
    let ended = exchange.ended.as_deref().filter(|e| e.at <= outcome.at);
    let (up, down) = (flow.to_server(), flow.to_client());
    let by_peer = matches!(
        outcome.how,
        End::PeerClosed | End::Reset | End::SendFailed { .. }
    );
    let closed = flow.by_server();
    let fin = (down.is(Direction::FIN) && (by_peer || closed.fin_at <= outcome.at)).then(|| Fin {
        at: closed.fin_at,
        acked: u64::from(ahead(exchange.start, closed.fin_ack).min(bytes)),
        // What the request acknowledged says whether the FIN had arrived when it was written,
        // wherever the capture was taken.
        after_request: !covers(exchange.ack, closed.fin_seq),
    });
    let reset_at = reset_at(exchange, flow).filter(|at| *at <= outcome.at);
    let reset_acked = (flow.is(Flow::RESET_ACK) && flow.is(Flow::RESET_BY_SERVER))
        .then(|| u64::from(ahead(exchange.start, flow.reset_ack).min(bytes)));
    let known = ended.map_or_else(|| acked(exchange, flow), |e| e.acked);
    let connecting = exchange.is(Exchange::BARE);
    let resent = if connecting {
        u16::from(flow.syns.saturating_sub(1))
    } else {
        ended.map_or(flow.by_client().retransmits, |e| e.retransmits)
    };
    TcpFacts {
        acked: u64::from(known.min(bytes)),
        fin,
        reset_at,
        retransmits: u32::from(resent),
        filtered: 0,
        zero_window: ended.map_or(down.window == 0 && before(up.acked, up.next), |e| {
            e.zero_window
        }),
        srtt_us: flow.round_trip_us,
        reset_acked,
        missing_packets: u32::from(
            flow.incomplete()
                || exchange.is(Exchange::RESUMED)
                || (!connecting && answer_missing(exchange, flow)),
        ),
    }
}

/// The server has sent since the request, and none of that is in the capture: the request itself
/// says where the response would begin.
fn answer_missing(exchange: &Exchange, flow: &Flow) -> bool {
    let down = flow.to_client();
    let fin = u32::from(down.is(Direction::FIN));
    let sent = down.is(Direction::FOLLOWED) && before(exchange.ack, down.next);
    let known = down.is(Direction::ACKED) && before(exchange.ack.wrapping_add(fin), down.acked);
    exchange.first_byte_at == 0 && (sent || known)
}

/// Whether an acknowledgement covers the FIN at this sequence number.
fn covers(ack: u32, fin: u32) -> bool {
    !before(ack, fin.wrapping_add(1))
}

fn acked(exchange: &Exchange, flow: &Flow) -> u32 {
    let up = flow.to_server();
    match up.is(Direction::ACKED) {
        true => ahead(exchange.start, up.acked),
        false => 0,
    }
}

/// A reset by the server. One that was captured before the request is not told as earlier: clocks
/// of captures are not that good.
fn reset_at(exchange: &Exchange, flow: &Flow) -> Option<Nanos> {
    (flow.is(Flow::RESET_BY_SERVER) && flow.reset_at != 0).then(|| flow.reset_at.max(exchange.at))
}

fn address(address: SocketAddr) -> Address {
    Address(address.to_string())
}
