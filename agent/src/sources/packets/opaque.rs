//! Connections that cannot be read: where requests and answers begin, as far as what surrounds them tells.
//!
//! TLS and HTTP/2 show kinds and lengths of what they carry. What may have been no request, or no
//! answer, is doubtful: it is no verdict by itself.

use crate::signal::{Nanos, Opening};

use super::exchange::Exchange;
use super::flow::{Flow, NONE, ahead, before};
use super::frames::{self, Frame, Protocol};
use super::http;
use super::parse::{Parse, Stage};
use super::talk::Bytes;
use super::{AT_ONCE, Packets};

/// A TLS record with less has no room for a request or an answer: an alert or a key update.
const SHORTEST: u32 = 35;
/// TLS 1.3: an alert, of who is not content with the server's part of the handshake.
const ALERTED: u32 = 19;
/// TLS 1.3: a client's Finished, by the hash.
const FINISHED: [u32; 2] = [53, 69];
/// TLS 1.3: session tickets after a handshake take no more than this.
const TICKETS: u32 = 4096;

/// What is known of an opaque connection.
struct Notes;

impl Notes {
    /// The first request was sent. Before that it was a handshake or a preface.
    const ASKED: u8 = 1;
    /// TLS 1.2 or older, whose records say what they are.
    const OLD: u8 = 2;
    /// TLS 1.3: what the client sends from now on is no handshake.
    const SECURED: u8 = 4;
    /// TLS 1.3: the client has sent something else than its Finished before.
    const CERTIFIED: u8 = 8;
    /// Several requests at once may be within TLS, and what is none.
    const MULTIPLEXED: u8 = 16;
    /// The server spoke first, as proxies' upstreams do not.
    const FOREIGN: u8 = 32;
    /// Nothing that a proxy is known to speak.
    const UNKNOWN: u8 = 64;
    /// The server's host is known to be asked by it: a handshake that came to nothing says nothing of that.
    const KNOWN: u8 = 128;
}

/// What a client's segment is.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// A request may begin at this offset.
    Request(u32),
    /// More of one.
    More,
    /// Nothing that waits for an answer.
    Silent,
    /// The request is not wanted any more.
    Cancel,
}

impl Packets {
    /// What a connection begins with was not understood: `whole`, of which the snap length left
    /// this much.
    pub(super) fn begin_opaque(
        &mut self,
        index: u32,
        sender: usize,
        opening: Opening,
        whole: &[u8],
        length: u32,
    ) {
        let protocol = match opening {
            Opening::Tls => Protocol::Tls,
            Opening::Http2 => Protocol::Http2,
            Opening::FastCgi => Protocol::FastCgi,
            _ => Protocol::Other,
        };
        let flow = self.flows.at_mut(index);
        flow.set(Flow::OPAQUE);
        let server_first = flow.to_client().last_at != 0;
        for side in &mut flow.sides {
            side.parse.opaque(protocol);
        }
        let mut notes = match protocol {
            Protocol::Tls if frames::offers_http2(whole) => Notes::MULTIPLEXED,
            Protocol::Tls | Protocol::Http2 => 0,
            Protocol::Other if server_first => Notes::ASKED | Notes::FOREIGN,
            Protocol::Other if !http::begins_request(whole) => Notes::ASKED | Notes::UNKNOWN,
            Protocol::Other | Protocol::FastCgi => Notes::ASKED,
        };
        let server = flow.server();
        let parse = &mut flow.sides[sender].parse;
        let mut at = match protocol {
            Protocol::Http2 => (frames::PREFACE.len() as u32).min(length),
            _ => 0,
        };
        while let Some(frame) = parse.next_frame(whole, length, &mut at) {
            if protocol == Protocol::Http2 && frame.kind == Frame::HEADERS {
                notes |= Notes::ASKED;
            }
        }
        parse.notes = notes;
        let greets = whole.first() == Some(&Frame::HANDSHAKE);
        if opening == Opening::Http2 || (opening == Opening::Tls && !greets) {
            self.flows.at_mut(index).sides[sender].parse.notes |= Notes::KNOWN;
            self.hosts.encrypted(server, index);
        }
        let flow = self.flows.at(index);
        let (newest, client) = (flow.newest, flow.client_ip());
        if flow.may_carry_attempts()
            && let Some(host) = self.hosts.entry(client)
        {
            host.unread = true;
        }
        let exchange = self.exchanges.at_mut(newest);
        exchange.opening = Some(Box::new(opening));
        if notes & Notes::FOREIGN != 0 {
            exchange.set(Exchange::DOUBTFUL);
        }
    }

    /// A client's bytes on a connection that is not understood; `turn`: the server spoke before.
    pub(super) fn opaque_request(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        turn: bool,
    ) {
        let flow = self.flows.at_mut(index);
        let parse = &mut flow.sides[sender].parse;
        let sent = match parse.protocol {
            Protocol::Tls => parse.tls_sent(bytes, turn),
            Protocol::Http2 => parse.http2_sent(bytes, turn),
            Protocol::FastCgi if turn && bytes.there.starts_with(&[1, 1]) => Sent::Request(0),
            Protocol::Other if turn => Sent::Request(0),
            Protocol::FastCgi | Protocol::Other => Sent::More,
        };
        let first = parse.notes & Notes::ASKED == 0;
        let newly = parse.notes & Notes::KNOWN == 0 && parse.has_shaken(&sent);
        if newly {
            parse.notes |= Notes::KNOWN;
        }
        let (oldest, server) = (flow.oldest, flow.server());
        if newly {
            self.hosts.encrypted(server, index);
        }
        if oldest != NONE && self.exchanges.at(oldest).ended.is_some() {
            return;
        }
        let answered = oldest == NONE || self.exchanges.at(oldest).answered_at != 0;
        match sent {
            Sent::Request(at) if first || (turn && answered) => {
                self.opaque_asked(index, sender, &bytes.after(at), first);
            }
            Sent::Cancel if oldest != NONE && !answered => {
                self.exchanges.at_mut(oldest).answered_at = bytes.at;
            }
            Sent::Silent | Sent::Cancel => return,
            Sent::Request(_) | Sent::More => {}
        }
        self.sent(index, bytes.seq.wrapping_add(bytes.length));
    }

    /// A request on a connection that is not understood; the first one takes the handshake's place.
    fn opaque_asked(&mut self, index: u32, sender: usize, bytes: &Bytes<'_>, first: bool) {
        let flow = self.flows.at_mut(index);
        let notes = &mut flow.sides[sender].parse.notes;
        let foreign = *notes & Notes::FOREIGN != 0;
        *notes |= Notes::ASKED;
        let protocol = flow.sides[sender].parse.protocol;
        let oldest = flow.oldest;
        if first && oldest != NONE {
            flow.bounds[sender].retransmits = 0;
            let exchange = self.exchanges.at_mut(oldest);
            exchange.asked(bytes.at, bytes.seq, bytes.ack);
            // No longer one that ends within the handshake.
            exchange.opening = Some(Box::new(Opening::Other));
            return;
        }
        let mut doubtful = protocol == Protocol::Other || foreign;
        if oldest != NONE {
            doubtful |= self.exchanges.at(oldest).is(Exchange::DOUBTFUL);
            self.finished(index);
        }
        self.new_exchange(index, sender, bytes);
        let newest = self.flows.at(index).newest;
        let exchange = self.exchanges.at_mut(newest);
        exchange.opening = Some(Box::new(match protocol {
            Protocol::Tls => Opening::Tls,
            Protocol::Http2 => Opening::Http2,
            Protocol::FastCgi => Opening::FastCgi,
            Protocol::Other => Opening::Other,
        }));
        if doubtful {
            exchange.set(Exchange::DOUBTFUL);
        }
    }

    /// A server's bytes on a connection that is not understood.
    pub(super) fn opaque_response(
        &mut self,
        index: u32,
        sender: usize,
        bytes: &Bytes<'_>,
        turn: bool,
    ) {
        let flow = self.flows.at_mut(index);
        let id = flow.oldest;
        let notes = flow.sides[1 - sender].parse.notes;
        let asked = notes & Notes::ASKED != 0;
        let begun = id != NONE && self.exchanges.at(id).first_byte_at != 0;
        let parse = &mut flow.sides[sender].parse;
        let (answers, old) = match parse.protocol {
            Protocol::Tls => parse.tls_answers(bytes, turn, begun, notes),
            Protocol::Http2 => (parse.http2_answers(bytes, turn, begun, asked), false),
            Protocol::FastCgi | Protocol::Other => (true, false),
        };
        let tickets = parse.protocol == Protocol::Tls && notes & Notes::OLD == 0;
        if old {
            flow.sides[1 - sender].parse.notes |= Notes::OLD;
        }
        if id == NONE || !answers {
            return;
        }
        let exchange = self.exchanges.at_mut(id);
        // What had not heard of the request is no answer to it.
        if !before(exchange.start, bytes.ack) {
            return;
        }
        if exchange.first_byte_at == 0 {
            exchange.first_byte_at = bytes.at;
            exchange.response_start = bytes.seq;
        }
        exchange.answered_at = bytes.at;
        if tickets && asked && exchange.ordinal == 1 {
            let end = bytes.seq.wrapping_add(bytes.length);
            match ahead(exchange.response_start, end) <= TICKETS {
                true => exchange.set(Exchange::DOUBTFUL),
                false => exchange.clear(Exchange::DOUBTFUL),
            }
        }
    }

    /// What its client sent and then left at once was no request that waited: a farewell, or less
    /// than can be told.
    pub(super) fn was_farewell(&self, index: u32, id: u32, at: Nanos) -> bool {
        self.flows.at(index).is(Flow::OPAQUE)
            && at.saturating_sub(self.exchanges.at(id).at) < AT_ONCE
    }

    /// Nothing but a TLS handshake was sent.
    pub(super) fn is_within_handshake(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let tls = exchange.opening.as_deref() == Some(&Opening::Tls);
        let asked = |flow: &Flow| flow.to_server().parse.notes & Notes::ASKED != 0;
        tls && !self.flow_of(exchange).is_some_and(asked)
    }

    /// What it was, or whether it was answered, cannot be told: its end alone is no failure.
    pub(super) fn is_doubtful(&self, id: u32) -> bool {
        let exchange = self.exchanges.at(id);
        let multiplexed = |flow: &Flow| {
            let parse = flow.to_server().parse;
            let both = Notes::ASKED | Notes::MULTIPLEXED;
            parse.stage == Stage::Opaque && parse.notes & both == both
        };
        exchange.is(Exchange::DOUBTFUL) || self.flow_of(exchange).is_some_and(multiplexed)
    }
}

impl Flow {
    /// In `OPAQUE`: proxies' upstreams do not speak first.
    pub(super) fn may_carry_attempts(&self) -> bool {
        self.to_server().parse.notes & Notes::FOREIGN == 0
    }

    /// It carries no protocol that is known here.
    pub(super) fn speaks_unknown(&self) -> bool {
        let parse = self.to_server().parse;
        parse.stage == Stage::Opaque && parse.notes & Notes::UNKNOWN != 0
    }

    /// In `OPAQUE`: requests may begin while others are open.
    pub(super) fn carries_several(&self) -> bool {
        let parse = self.to_server().parse;
        parse.protocol == Protocol::Http2 || parse.notes & Notes::MULTIPLEXED != 0
    }
}

impl Parse {
    /// A TLS client is content with the handshake, as far as its records are followed.
    fn has_shaken(&self, sent: &Sent) -> bool {
        let over = self.notes & (Notes::SECURED | Notes::CERTIFIED) != 0;
        let asks = matches!(sent, Sent::Request(_));
        self.protocol == Protocol::Tls && (over || asks || !self.knows_frames())
    }

    /// What a client's segment is within TLS.
    fn tls_sent(&mut self, bytes: &Bytes<'_>, turn: bool) -> Sent {
        if turn {
            self.frame_may_begin();
            if self.notes & Notes::CERTIFIED != 0 {
                // The Finished was sent with what came before.
                self.notes |= Notes::SECURED;
            }
        }
        let mut sent = match self.knows_frames() && !self.within_frame() {
            true => Sent::Silent,
            false => Sent::More,
        };
        let mut at = 0;
        while let Some(frame) = self.next_frame(bytes.there, bytes.length, &mut at) {
            let alert = frame.length == ALERTED && self.notes & (Notes::OLD | Notes::SECURED) == 0;
            if frame.kind != Frame::APPLICATION || alert {
                continue;
            }
            if self.notes & (Notes::OLD | Notes::SECURED) == 0 {
                self.notes |= match FINISHED.contains(&frame.length) {
                    true => Notes::SECURED,
                    false => Notes::CERTIFIED,
                };
            } else if frame.length >= SHORTEST && !matches!(sent, Sent::Request(_)) {
                sent = Sent::Request(at - 5);
            }
        }
        sent
    }

    /// Whether a server's segment may be of an answer within TLS, and whether it says that the
    /// version is an old one.
    fn tls_answers(
        &mut self,
        bytes: &Bytes<'_>,
        turn: bool,
        begun: bool,
        notes: u8,
    ) -> (bool, bool) {
        if turn {
            self.frame_may_begin();
        }
        let asked = notes & Notes::ASKED != 0;
        let mut answers = match self.knows_frames() {
            true => begun && self.within_frame(),
            false => true,
        };
        let old = !asked && frames::is_old_tls(bytes.there);
        let mut at = 0;
        while let Some(frame) = self.next_frame(bytes.there, bytes.length, &mut at) {
            answers |= match frame.kind {
                Frame::ALERT => false,
                Frame::APPLICATION => frame.length >= SHORTEST || notes & Notes::OLD != 0,
                _ => !asked,
            };
        }
        (answers, old)
    }

    fn http2_sent(&mut self, bytes: &Bytes<'_>, turn: bool) -> Sent {
        if turn {
            self.frame_may_begin();
        }
        let mut sent = match self.within_frame() {
            true => Sent::More,
            false => Sent::Silent,
        };
        let mut at = 0;
        while let Some(frame) = self.next_frame(bytes.there, bytes.length, &mut at) {
            match (frame.kind, &sent) {
                (Frame::HEADERS, Sent::Request(_)) => {}
                (Frame::HEADERS, _) => sent = Sent::Request(at - 9),
                (Frame::RST_STREAM, Sent::Silent | Sent::More) => sent = Sent::Cancel,
                (Frame::DATA, Sent::Silent) => sent = Sent::More,
                _ => {}
            }
        }
        sent
    }

    fn http2_answers(&mut self, bytes: &Bytes<'_>, turn: bool, begun: bool, asked: bool) -> bool {
        if turn {
            self.frame_may_begin();
        }
        let mut answers = match self.knows_frames() {
            true => begun && self.within_frame(),
            false => true,
        };
        let mut at = 0;
        while let Some(frame) = self.next_frame(bytes.there, bytes.length, &mut at) {
            let of_stream = matches!(frame.kind, Frame::DATA | Frame::HEADERS | Frame::RST_STREAM);
            answers |= !asked || of_stream;
        }
        answers
    }
}
