//! What both ends of a connection say: each segment's bytes to the request or response they are of.

use crate::signal::{Nanos, Signal};
use crate::sources::wire;

use super::Packets;
use super::flow::{Flow, NONE};
use super::parse::Stage;

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

    pub(super) fn is_cut(&self) -> bool {
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
        if !is_client && matches!(stage, Stage::Start | Stage::Lost) {
            self.leave_unheard(index, bytes.seq);
        }
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
}
