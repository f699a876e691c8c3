//! Requests within connections: where each begins, and what it asks for.

use crate::signal::{End, Opening};
use crate::sources::wire;

use super::Packets;
use super::exchange::Exchange;
use super::flow::{Direction, Flow, NONE};
use super::frames::Protocol;
use super::http;
use super::parse::{Framing, Stage};
use super::talk::Bytes;

/// Requests open on one connection at once. With more of them their answers are not in the capture.
pub(super) const PIPELINED: u32 = 64;

/// So many bytes tell every protocol's beginning apart.
const TELLING: usize = 16;

impl Packets {
    /// Takes some of a client's bytes; returns how many.
    pub(super) fn request_bytes(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        turn: bool,
    ) -> u32 {
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
        let length = (before as u32).saturating_add(bytes.length);
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
        self.leave_unanswered(index);
        self.new_exchange(index, sender, bytes);
        let flow = self.flows.at_mut(index);
        if !flow.is(Flow::ASKED) {
            flow.set(Flow::ASKED);
            let (client, server) = (flow.client_ip(), flow.server());
            self.hosts.asks_in_the_clear(client, server);
        }
    }

    /// With too many requests open none of them is waited for any longer.
    fn leave_unanswered(&mut self, index: u32) {
        let flow = self.flows.at(index);
        let open = |oldest| flow.requests - self.exchanges.at(oldest).ordinal + 1;
        if flow.oldest == NONE || open(flow.oldest) < PIPELINED {
            return;
        }
        while self.flows.at(index).oldest != NONE {
            self.finished(index);
        }
        self.counts.gaps += 1;
        let flow = self.flows.at_mut(index);
        let down = &mut flow.sides[usize::from(flow.client ^ 1)];
        down.parse.stage = Stage::Lost;
        down.set(Direction::GAP);
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
}
