//! Requests and responses within connections: where each begins, what came of it, how it ended.

use crate::signal::{ClosedBy, End, Nanos, Opening, Signal};
use crate::sources::wire;

use super::exchange::{Ended, Exchange};
use super::flow::{Direction, Flow, NONE, ahead, before};
use super::frames::Protocol;
use super::http::{self, Framing, Stage};
use super::{PARTIAL, Packets, SECOND, SETTLE};

/// So many bytes tell every protocol's beginning apart.
const TELLING: usize = 16;

/// A segment's bytes while they are taken apart.
///
/// Handed on by reference: a copy would be made of words that were written just before, which
/// stalls until all that was written earlier has reached the cache.
pub(super) struct Bytes<'a> {
    pub seq: u32,
    pub ack: u32,
    /// Fewer than `length` where the snap length cut them.
    pub there: &'a [u8],
    pub length: u32,
    pub at: Nanos,
}

impl<'a> Bytes<'a> {
    #[inline]
    pub(super) fn after(&self, count: u32) -> Bytes<'a> {
        Bytes {
            seq: self.seq.wrapping_add(count),
            there: self.there.get(count as usize..).unwrap_or_default(),
            length: self.length.saturating_sub(count),
            ack: self.ack,
            at: self.at,
        }
    }

    fn is_cut(&self) -> bool {
        (self.there.len() as u64) < u64::from(self.length)
    }
}

impl Packets {
    /// Which side is the client of a connection whose beginning was not captured.
    pub(super) fn orient(&mut self, index: u32, sender: usize, bytes: &[u8]) {
        let flow = self.flows.at_mut(index);
        let asks = wire::method(bytes).is_some()
            || matches!(bytes, [22, 3, _, _, _, 1, ..])
            || bytes.starts_with(b"PRI * ");
        let client = if asks {
            sender
        } else if bytes.starts_with(b"HTTP/1.") {
            1 - sender
        } else {
            // Servers have the lower port.
            usize::from(flow.key.address(0).port() < flow.key.address(1).port())
        };
        flow.client = client as u8;
        flow.set(Flow::ORIENTED);
        let (client, server) = (flow.client(), flow.server());
        self.hosts.connection(client, server);
        // It began before the capture did, and is not followed.
        if matches!(bytes, [20..=23, 3, 0..=4, ..])
            && let Some(host) = self.hosts.entry(client.ip())
        {
            host.unfollowed = true;
        }
    }

    #[inline]
    pub(super) fn payload(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at(index);
        let is_client = sender == usize::from(flow.client);
        let turn = usize::from(flow.spoke) != sender;
        let stage = flow.sides[sender].parse.stage;
        if stage == Stage::Lost && turn && self.begins_message(index, is_client, bytes.there) {
            self.resume(index, sender, bytes);
        }
        let mut taken = 0;
        while taken < bytes.length {
            let rest = bytes.after(taken);
            let more = if is_client {
                self.request_bytes(index, sender, &rest, turn)
            } else {
                self.response_bytes(index, sender, &rest, turn, out)
            };
            taken = taken.saturating_add(more.max(1));
        }
    }

    /// A segment that was nothing but more of a body.
    pub(super) fn body(&mut self, index: u32, sender: usize, end: u32) {
        let flow = self.flows.at(index);
        if sender == usize::from(flow.client) {
            self.sent(index, end);
        } else if flow.sides[sender].parse.stage == Stage::Start {
            self.finished(index);
        }
    }

    /// Whether a direction that was lost can be taken up here.
    fn begins_message(&self, index: u32, is_client: bool, bytes: &[u8]) -> bool {
        if is_client {
            return wire::method(bytes).is_some();
        }
        let flow = self.flows.at(index);
        let waits = flow.oldest != NONE && self.exchanges.at(flow.oldest).status == 0;
        wire::status(bytes).is_some_and(|status| waits || (flow.requests == 0 && status >= 500))
    }

    fn resume(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>) {
        let flow = self.flows.at_mut(index);
        let oldest = flow.oldest;
        let is_client = sender == usize::from(flow.client);
        // What was not followed (it lay beyond the snap length) is part of what is over, if the
        // next message begins where nothing else can.
        let followed = match is_client {
            true => {
                let over = oldest == NONE || self.exchanges.at(oldest).answered_at != 0;
                over && flow.to_client().is_whole(bytes.ack) && !flow.to_server().incomplete()
            }
            false => {
                let begins = oldest != NONE && self.exchanges.at(oldest).ack == bytes.seq;
                begins && !flow.incomplete()
            }
        };
        flow.sides[sender].parse.stage = Stage::Start;
        if !followed && (!flow.is(Flow::JOINED) || flow.requests > 0) {
            flow.set(Flow::RESUMED);
        }
        if is_client {
            // The response before was over, however long it was.
            if oldest != NONE && self.exchanges.at(oldest).answered_at != 0 {
                self.finished(index);
            }
        }
    }

    /// Takes some of a client's bytes; returns how many.
    fn request_bytes(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>, turn: bool) -> u32 {
        let flow = self.flows.at_mut(index);
        let parse = &mut flow.sides[sender].parse;
        match parse.stage {
            Stage::Start | Stage::Head => return self.request_head(index, sender, bytes),
            Stage::Opaque => {
                self.opaque_request(index, sender, bytes, turn);
                return bytes.length;
            }
            _ => {}
        }
        let taken = parse.skip(bytes.there, bytes.length);
        self.sent(index, bytes.seq.wrapping_add(taken));
        taken
    }

    pub(super) fn sent(&mut self, index: u32, end: u32) {
        let flow = self.flows.at(index);
        if flow.oldest != NONE {
            self.exchanges.at_mut(flow.newest).end = end;
        }
    }

    fn request_head(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>) -> u32 {
        let flow = self.flows.at(index);
        if flow.sides[sender].parse.stage == Stage::Start {
            if flow.requests == 0 {
                match http::proxy_protocol(bytes.there) {
                    Some(0) => {}
                    Some(skipped) => return skipped as u32,
                    None => {
                        let parse = &mut self.flows.at_mut(index).sides[sender].parse;
                        parse.opaque(Protocol::Other);
                        return bytes.length;
                    }
                }
            }
            if self.is_no_request(index, bytes.there) {
                let flow = self.flows.at_mut(index);
                flow.sides[sender].parse.stage = Stage::Lost;
                self.exchanges.at_mut(flow.newest).set(Exchange::RESUMED);
                return bytes.length;
            }
            self.begin_request(index, sender, bytes);
        }
        let joined = self.joined(index, sender, bytes.there);
        let whole = joined.as_deref().unwrap_or(bytes.there);
        let before = whole.len() - bytes.there.len();
        let taken = self.parse_request(index, sender, whole, before, bytes);
        if taken.is_none() {
            self.keep_partial(index, sender, whole.to_vec());
        }
        let taken = taken.unwrap_or(bytes.length);
        self.sent(index, bytes.seq.wrapping_add(taken));
        taken
    }

    /// No HTTP after a request that nothing is seen to have answered: the answer that upgraded the
    /// connection is captured later, or missing.
    fn is_no_request(&self, index: u32, bytes: &[u8]) -> bool {
        let flow = self.flows.at(index);
        let is_http = wire::method(bytes).is_some();
        let may_become = bytes.len() < TELLING && bytes.iter().all(u8::is_ascii_uppercase);
        if flow.oldest == NONE || is_http || may_become {
            return false;
        }
        let newest = self.exchanges.at(flow.newest);
        newest.content != 0 && newest.opening.is_none() && newest.status == 0
    }

    /// How many of the segment's bytes a request's head took; `None` while its end is missing.
    fn parse_request(
        &mut self,
        index: u32,
        sender: usize,
        whole: &[u8],
        before: usize,
        bytes: &Bytes<'_>,
    ) -> Option<u32> {
        let newest = self.flows.at(index).newest;
        let is_http = wire::method(whole).is_some();
        let short = whole.len() < TELLING && !bytes.is_cut();
        if !is_http && short && whole.iter().all(u8::is_ascii_uppercase) {
            return None;
        }
        if !is_http {
            return self.other_request(index, sender, whole, before, bytes);
        }
        if let Some(head) = http::head(whole) {
            let exchange = self.exchanges.at_mut(newest);
            exchange.keep_request(head.first_line, head.host);
            let framing = head.request_body();
            let taken = head.length.saturating_sub(before);
            self.understood(index, sender, framing);
            return Some(taken as u32);
        }
        if !http::begins_request(whole) {
            return self.other_request(index, sender, whole, before, bytes);
        }
        if bytes.is_cut() || whole.len() > http::LONGEST {
            // What is there has to do.
            let line = whole.split(|b| *b == b'\r' || *b == b'\n').next();
            let cut = line.is_none_or(|line| line.len() == whole.len());
            let exchange = self.exchanges.at_mut(newest);
            exchange.keep_request(line.unwrap_or_default(), None);
            if cut {
                exchange.cut_line();
            }
            self.understood(index, sender, Framing::Unknown);
            return Some(bytes.length);
        }
        None
    }

    fn understood(&mut self, index: u32, sender: usize, framing: Framing) {
        self.drop_partial(index, sender as u8);
        let flow = self.flows.at_mut(index);
        flow.sides[sender].parse.body(framing);
        let newest = flow.newest;
        let alike = self.exchanges.index(newest);
        self.check_role(index, newest, alike);
        self.met_close(index, newest);
    }

    /// The server's close came first, and the request met it.
    fn met_close(&mut self, index: u32, id: u32) {
        let flow = self.flows.at(index);
        if flow.oldest != id {
            return;
        }
        let at = self.exchanges.at(id).at;
        if flow.is(Flow::RESET_BY_SERVER) {
            self.failed(index, End::Reset, at);
        } else if flow.to_client().is(Direction::FIN) {
            self.failed(index, End::PeerClosed, at);
        }
    }

    /// uwsgi, FastCGI, TLS, HTTP/2, or something unknown.
    fn other_request(
        &mut self,
        index: u32,
        sender: usize,
        whole: &[u8],
        before: usize,
        bytes: &Bytes<'_>,
    ) -> Option<u32> {
        let opening = wire::request(whole);
        let newest = self.flows.at(index).newest;
        if opening == Opening::Uwsgi {
            if let Some(request) = http::uwsgi(whole) {
                let exchange = self.exchanges.at_mut(newest);
                exchange.keep_variables(&request);
                let rest = request.length - whole.len().min(request.length as usize) as u64;
                self.understood(index, sender, Framing::Length(rest));
                let taken = (request.length as usize).min(whole.len()) - before;
                return Some(taken as u32);
            }
            let size = 4 + usize::from(u16::from_le_bytes([whole[1], whole[2]]));
            if !bytes.is_cut() && whole.len() < size {
                return None;
            }
        }
        self.drop_partial(index, sender as u8);
        let length = before as u32 + bytes.length;
        self.begin_opaque(index, sender, opening, whole, length);
        self.met_close(index, newest);
        Some(bytes.length)
    }

    fn begin_request(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>) {
        let flow = self.flows.at(index);
        let (oldest, answers) = (flow.oldest, flow.to_client().parse.stage);
        // A response without a known end was over before this.
        if oldest != NONE
            && self.exchanges.at(oldest).answered_at != 0
            && matches!(answers, Stage::Lost | Stage::UntilClose)
        {
            self.finished(index);
            let flow = self.flows.at_mut(index);
            let side = usize::from(flow.client ^ 1);
            flow.sides[side].parse.stage = Stage::Lost;
            if !flow.sides[side].is_whole(bytes.ack) {
                flow.set(Flow::RESUMED);
            }
        }
        self.new_exchange(index, sender, bytes);
        let flow = self.flows.at_mut(index);
        if !flow.is(Flow::ASKED) {
            flow.set(Flow::ASKED);
            let client = flow.client_ip();
            if let Some(host) = self.hosts.entry(client) {
                host.requests = true;
            }
        }
    }

    pub(super) fn new_exchange(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>) {
        if self.suspect_count > 0 {
            self.note_asked(index, bytes.at);
        }
        let flow = self.flows.at_mut(index);
        let id = self.exchanges.begin(index, flow.id, bytes.at);
        let lost_before = flow.incomplete() || flow.is(Flow::RESUMED);
        let alone = flow.oldest == NONE;
        if alone {
            // What was missing before belongs to what is over.
            for side in &mut flow.sides {
                side.clear(Direction::GAP);
            }
            flow.bits &= !Flow::RESUMED;
        }
        flow.requests = flow.requests.saturating_add(1);
        let answered = flow.to_client().last_at;
        let idle = (alone && flow.requests > 1 && answered != 0)
            .then(|| bytes.at.saturating_sub(answered));
        flow.longest_reuse = flow.longest_reuse.max(idle.unwrap_or(0));
        let ordinal = flow.requests;
        let side = &mut flow.sides[sender];
        side.parse.stage = if side.parse.stage == Stage::Opaque {
            Stage::Opaque
        } else {
            Stage::Head
        };
        flow.bounds[sender].retransmits = 0;
        let newest = std::mem::replace(&mut flow.newest, id);
        if alone {
            flow.oldest = id;
        } else {
            self.exchanges.at_mut(newest).next = id;
        }
        let exchange = self.exchanges.at_mut(id);
        exchange.start = bytes.seq;
        exchange.end = bytes.seq;
        exchange.ack = bytes.ack;
        exchange.ordinal = ordinal;
        exchange.set_idle(idle);
        if lost_before {
            exchange.set(Exchange::RESUMED);
        }
    }

    /// Takes some of a server's bytes; returns how many.
    fn response_bytes(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        turn: bool,
        out: &mut Vec<Signal>,
    ) -> u32 {
        let flow = self.flows.at_mut(index);
        match flow.sides[sender].parse.stage {
            Stage::Start | Stage::Head => return self.response_head(index, sender, bytes, out),
            Stage::Opaque => {
                self.opaque_response(index, sender, bytes, turn);
                return bytes.length;
            }
            Stage::Tunnel => return bytes.length,
            Stage::Lost => {
                // Of a response that cannot be read, only that it began is known.
                let oldest = flow.oldest;
                if oldest != NONE {
                    self.first_byte(index, oldest, bytes, out);
                    self.unreadable(oldest, bytes.at);
                }
                return bytes.length;
            }
            _ => {}
        }
        let taken = flow.sides[sender].parse.skip(bytes.there, bytes.length);
        if flow.sides[sender].parse.stage == Stage::Start {
            self.finished(index);
        }
        taken
    }

    fn response_head(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        out: &mut Vec<Signal>,
    ) -> u32 {
        let flow = self.flows.at(index);
        if flow.oldest == NONE {
            // An answer to nothing that was seen; its status may count all the same.
            let failed = wire::status(bytes.there).is_some_and(|status| status >= 500);
            if !(failed && flow.requests == 0) {
                let side = &mut self.flows.at_mut(index).sides[sender];
                side.parse.stage = Stage::Lost;
                side.set(Direction::GAP);
                return bytes.length;
            }
            self.new_exchange(index, 1 - sender, bytes);
            let flow = self.flows.at_mut(index);
            flow.sides[1 - sender].parse.stage = Stage::Lost;
            let id = flow.oldest;
            self.exchanges.at_mut(id).set(Exchange::RESUMED);
        }
        let id = self.flows.at(index).oldest;
        self.first_byte(index, id, bytes, out);
        let joined = self.joined(index, sender, bytes.there);
        let whole = joined.as_deref().unwrap_or(bytes.there);
        let before = whole.len() - bytes.there.len();
        let Some(status) = wire::status(whole) else {
            let prefix = b"HTTP/1.".starts_with(&whole[..whole.len().min(7)]);
            if prefix && whole.len() < 12 && !bytes.is_cut() {
                let partial = whole.to_vec();
                self.keep_partial(index, sender, partial);
                self.flows.at_mut(index).sides[sender].parse.stage = Stage::Head;
                return bytes.length;
            }
            if prefix {
                // Cut before the status.
                self.unreadable(id, bytes.at);
                self.drop_partial(index, sender as u8);
                self.flows.at_mut(index).sides[sender].parse.stage = Stage::Lost;
                return bytes.length;
            }
            let exchange = self.exchanges.at_mut(id);
            exchange.answer = Some(Box::new(wire::response(whole)));
            self.drop_partial(index, sender as u8);
            self.flows.at_mut(index).sides[sender].parse.stage = Stage::UntilClose;
            return bytes.length;
        };
        let bodyless = self.exchanges.at(id).is(Exchange::HEAD);
        let (framing, taken) = match http::head(whole) {
            Some(head) => {
                let taken = (head.length.saturating_sub(before)) as u32;
                (head.response_body(status, bodyless), taken)
            }
            None if bytes.is_cut() || whole.len() > http::LONGEST => {
                (Framing::Unknown, bytes.length)
            }
            None => {
                let partial = whole.to_vec();
                self.keep_partial(index, sender, partial);
                self.flows.at_mut(index).sides[sender].parse.stage = Stage::Head;
                return bytes.length;
            }
        };
        self.drop_partial(index, sender as u8);
        if matches!(status, 100..=199) && status != 101 {
            self.flows.at_mut(index).sides[sender].parse.stage = match framing {
                Framing::Unknown => Stage::Lost,
                _ => Stage::Start,
            };
            return taken;
        }
        let exchange = self.exchanges.at_mut(id);
        exchange.status = status;
        exchange.answered_at = bytes.at;
        let tunnel = status == 101 || (exchange.is(Exchange::CONNECT) && status < 300);
        self.answered(index, id);
        let flow = self.flows.at_mut(index);
        if tunnel {
            for side in &mut flow.sides {
                side.parse.stage = Stage::Tunnel;
            }
            flow.set(Flow::OPAQUE);
            self.finished(index);
            return bytes.length;
        }
        flow.sides[sender].parse.body(framing);
        if flow.sides[sender].parse.stage == Stage::Start {
            self.finished(index);
        }
        taken
    }

    /// Something answered, which is all that is known.
    fn unreadable(&mut self, id: u32, at: Nanos) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.answered_at == 0 {
            exchange.answered_at = at;
            exchange.set(Exchange::RESUMED);
        }
    }

    fn first_byte(&mut self, index: u32, id: u32, bytes: &Bytes<'_>, out: &mut Vec<Signal>) {
        let exchange = self.exchanges.at_mut(id);
        if exchange.first_byte_at != 0 {
            return;
        }
        exchange.first_byte_at = bytes.at;
        exchange.response_start = bytes.seq;
        let waited = bytes.at.saturating_sub(exchange.at);
        if waited > SECOND && self.flows.at(index).is(Flow::UPSTREAM) {
            self.tell_stall(index, waited, bytes.at, out);
        }
    }

    /// The oldest exchange of a connection is over, well or not.
    pub(super) fn finished(&mut self, index: u32) {
        let flow = self.flows.at_mut(index);
        let id = flow.oldest;
        if id == NONE {
            return;
        }
        let next = self.exchanges.at(id).next;
        flow.oldest = next;
        self.exchanges.answered(id, self.now);
    }

    /// A response's head is there: failed responses, and those that others tried for, are judged.
    fn answered(&mut self, index: u32, id: u32) {
        // A client that had closed its sending side was still there.
        self.exchanges.at_mut(id).ended = None;
        let exchange = self.exchanges.at(id);
        let (status, at) = (exchange.status, exchange.answered_at);
        let wanted = status >= 500 || exchange.is(Exchange::ATTEMPTED) || self.has_suspects(index);
        if wanted {
            self.answer_came(id, at);
            self.queue(id, at + SETTLE);
        }
    }

    /// The connection ended under its oldest request.
    pub(super) fn failed(&mut self, index: u32, how: End, at: Nanos) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        if id == NONE || self.exchanges.at(id).ended.is_some() {
            return;
        }
        let exchange = self.exchanges.at(id);
        let how = match how {
            End::GivenUp if exchange.is(Exchange::BARE) => End::ConnectGivenUp,
            how => how,
        };
        let (up, down) = (flow.to_server(), flow.to_client());
        let acked = if up.is(Direction::ACKED) {
            ahead(exchange.start, up.acked)
        } else {
            0
        };
        let received = if exchange.first_byte_at != 0 {
            ahead(exchange.response_start, down.next)
        } else {
            0
        };
        let begun = || self.partial.get(&(index, flow.client ^ 1));
        let response = match &exchange.answer {
            Some(answer) => Some((**answer).clone()),
            None => begun().map(|head| wire::response(head)),
        };
        let ended = Ended {
            at,
            how,
            acked,
            retransmits: flow.by_client().retransmits,
            zero_window: down.window == 0 && before(up.acked, up.next),
            received,
            response,
        };
        self.exchanges.at_mut(id).ended = Some(Box::new(ended));
        self.keep_unread(id, at);
        self.mark_downstream(id);
        self.queue(id, at + SETTLE);
    }

    /// A side closed its sending half.
    pub(super) fn closed(&mut self, index: u32, sender: usize, at: Nanos, out: &mut Vec<Signal>) {
        let flow = self.flows.at(index);
        if !flow.is(Flow::ORIENTED) {
            return;
        }
        let by_server = sender != usize::from(flow.client);
        self.ended(index, by_server, false, at, out);
    }

    pub(super) fn was_reset(
        &mut self,
        index: u32,
        by_server: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        self.ended(index, by_server, true, at, out);
        let flow = self.flows.at(index);
        // A reset that follows the end changes nothing more here.
        if flow.oldest == NONE {
            return;
        }
        self.over(index, at);
    }

    fn ended(
        &mut self,
        index: u32,
        by_server: bool,
        reset: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        if id == NONE {
            let first = !flow.is(Flow::OVER);
            self.flows.at_mut(index).set(Flow::OVER);
            if first {
                self.idle_closed(index, by_server, reset, at, out);
            }
            return;
        }
        let exchange = self.exchanges.at(id);
        if exchange.answered_at != 0 && !exchange.is(Exchange::DOUBTFUL) {
            // Its response ended with the connection, or was cut short.
            if by_server || reset {
                self.flows.at_mut(index).set(Flow::OVER);
                self.finished(index);
            }
            return;
        }
        let how = match (by_server, reset) {
            (true, false) => End::PeerClosed,
            (true, true) => End::Reset,
            (false, _) => End::GivenUp,
        };
        self.flows.at_mut(index).set(Flow::OVER);
        if how == End::GivenUp && self.was_farewell(index, id, at) {
            return self.finished(index);
        }
        self.failed(index, how, at);
    }

    /// Nothing more will come on this connection.
    pub(super) fn over(&mut self, index: u32, at: Nanos) {
        let flow = self.flows.at(index);
        let id = flow.oldest;
        if id != NONE
            && self.exchanges.at(id).status == 0
            && self.exchanges.at(id).opening.is_none()
        {
            self.failed(index, End::GivenUp, at);
        }
        while self.flows.at(index).oldest != NONE {
            self.finished(index);
        }
    }

    fn idle_closed(
        &mut self,
        index: u32,
        by_server: bool,
        reset: bool,
        at: Nanos,
        out: &mut Vec<Signal>,
    ) {
        let flow = self.flows.at(index);
        if flow.requests == 0 || flow.is(Flow::OPAQUE) || flow.last_payload() == 0 {
            return;
        }
        let (client, server) = (flow.client_ip(), flow.server());
        let upstream = flow.is(Flow::UPSTREAM)
            || self.hosts.is_proxys(client)
            // The server first: there are few, and what is known of them is at hand.
            || (self.hosts.configured.is_empty()
                && !self.hosts.asks_beside(server.ip(), server)
                && !self.hosts.serves_beside(client, server));
        if upstream {
            let by = if by_server {
                ClosedBy::Upstream
            } else {
                ClosedBy::Proxy
            };
            self.tell_idle_close(index, by, reset, at, out);
        }
    }

    /// The bytes of a head that came before, with these.
    fn joined(&mut self, index: u32, side: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.partial_bytes == 0 {
            return None;
        }
        let mut partial = self.partial.remove(&(index, side as u8))?;
        self.partial_bytes -= partial.len();
        partial.extend_from_slice(bytes);
        Some(partial)
    }

    fn keep_partial(&mut self, index: u32, side: usize, bytes: Vec<u8>) {
        if self.partial_bytes + bytes.len() > PARTIAL {
            self.counts.heads += 1;
            self.flows.at_mut(index).sides[side].parse.stage = Stage::Lost;
            return;
        }
        self.partial_bytes += bytes.len();
        self.partial.insert((index, side as u8), bytes);
    }

    pub(super) fn drop_partial(&mut self, index: u32, side: u8) {
        if self.partial_bytes > 0
            && let Some(partial) = self.partial.remove(&(index, side))
        {
            self.partial_bytes -= partial.len();
        }
    }
}
