//! What is known of a failed exchange, in the words of signals: its attempts, what ties them to the
//! request, and what TCP showed.

use std::net::SocketAddr;

use crate::signal::{
    Address, Attempt, DownstreamState, End, Fin, Link, LinkOrder, Nanos, Opening, RequestSent,
    Response, TcpFacts,
};

use super::Packets;
use super::exchange::Exchange;
use super::flow::{Direction, Flow, ahead, before};
use super::outcome::Outcome;
use super::ties::Tie;

impl Packets {
    /// The process that serves this connection, where the host says so.
    pub(super) fn served_by(&self, index: u32) -> Option<u32> {
        let flow = self.flows.peek(index)?;
        self.owners.find(flow.server(), flow.seen_in)
    }

    /// We serve this connection ourselves (metrics, whether we are ready): no proxy answers there.
    pub(super) fn is_ours(&self, index: u32) -> bool {
        let flow = self.flows.peek(index);
        flow.is_some_and(|flow| self.owners.is_own(flow.server(), flow.seen_in))
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
    pub(super) fn asker(&mut self, index: u32) -> u32 {
        let flow = self.flows.at(index);
        let place = usize::from(flow.asker).checked_sub(1);
        match place.and_then(|place| self.askers.get(place)) {
            Some(pid) => *pid,
            None => self.hosts.number(flow.client_ip(), flow.key.space()),
        }
    }

    pub(super) fn attempt(&mut self, id: u32, outcome: Outcome) -> Attempt {
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
            sealed: false,
            tickets: false,
            unasked: false,
            fault: None,
        }
    }

    pub(super) fn link(&self, id: u32, tie: &Tie, retry: bool, ended: Nanos) -> Link {
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
    pub(super) fn unseen_link(&self, id: u32) -> (Link, Option<u32>) {
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

    pub(super) fn response(
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
            request_body: None,
            adjacent,
            last_attempt,
            untied: None,
            unread: None,
            descriptors: None,
            in_touch: Vec::new(),
        }
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
        ended_with_others: down.is(Direction::TOGETHER),
        missing_packets: u32::from(
            flow.incomplete()
                || exchange.is(Exchange::RESUMED)
                || (!connecting && answer_missing(exchange, flow)),
        ),
        isn: None,
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

pub(super) fn acked(exchange: &Exchange, flow: &Flow) -> u32 {
    let up = flow.to_server();
    match up.is(Direction::ACKED) {
        true => ahead(exchange.start, up.acked),
        false => 0,
    }
}

/// A reset by the server. One that was captured before the request is not told as earlier: clocks
/// of captures are not that good.
pub(super) fn reset_at(exchange: &Exchange, flow: &Flow) -> Option<Nanos> {
    (flow.is(Flow::RESET_BY_SERVER) && flow.reset_at != 0).then(|| flow.reset_at.max(exchange.at))
}

pub(super) fn address(address: SocketAddr) -> Address {
    Address(address.to_string())
}
