//! The packets of failed exchanges, from a second reading of the capture: for ladders and excerpts.
//!
//! A verdict names its connections and its time; nothing of the first reading has to be kept. A
//! capture whose clock stepped back may give less than all of them.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::signal::{Address, FlowId, Nanos};
use crate::sources::wire;
use crate::track::Decided;

use super::flow::Key;
use super::segment::{Flags, Frame, Segment};

/// Kept of one verdict at most: the first and the last ones.
pub const PER_VERDICT: usize = 200;
/// What comes before an attempt's beginning, and after the response, that still belongs to it.
const BEFORE: Nanos = 10_000_000;
const AFTER: Nanos = 1_000_000_000;

/// One packet of a failed exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSeen {
    pub at: Nanos,
    pub frame: Frame,
    pub flow: FlowId,
    /// From the connection's client to its server.
    pub from_client: bool,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    pub length: u32,
    pub what: What,
}

/// What a packet is, seen alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Syn,
    SynAck,
    Request,
    /// The beginning of a response, with its status.
    Response(u16),
    Data,
    Ack,
    Fin,
    Reset,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    verdict: usize,
    flow: FlowId,
    client: SocketAddr,
    from: Nanos,
    to: Nanos,
}

/// Collects the packets of verdicts.
#[derive(Debug, Default)]
pub struct Excerpt {
    by_key: FxHashMap<u64, Vec<(Key, Window)>>,
    packets: Vec<Vec<PacketSeen>>,
    /// Packets left out of each for want of room.
    left_out: Vec<u64>,
}

impl Excerpt {
    /// Packets of these verdicts will be kept, in their order.
    pub fn of(decided: &[Decided]) -> Excerpt {
        let mut excerpt = Excerpt {
            packets: vec![Vec::new(); decided.len()],
            left_out: vec![0; decided.len()],
            ..Excerpt::default()
        };
        for (verdict, decided) in decided.iter().enumerate() {
            excerpt.add(verdict, decided);
        }
        excerpt
    }

    fn add(&mut self, verdict: usize, decided: &Decided) {
        let to = decided.at.saturating_add(AFTER);
        let response = decided.response.as_ref().map(|(_, _, r)| r);
        if let Some(response) = response {
            let from = response.request_at.unwrap_or(decided.at);
            let ends = (response.client.as_ref(), response.proxy_address.as_ref());
            self.window(verdict, response.downstream, ends, from, to);
        }
        for tried in &decided.attempts {
            let attempt = &tried.attempt;
            let ends = (attempt.local.as_ref(), Some(&attempt.upstream));
            self.window(verdict, attempt.flow, ends, attempt.began, to);
        }
    }

    fn window(
        &mut self,
        verdict: usize,
        flow: FlowId,
        (client, server): (Option<&Address>, Option<&Address>),
        from: Nanos,
        to: Nanos,
    ) {
        let end = |address: Option<&Address>| address?.0.parse::<SocketAddr>().ok();
        let (Some(client), Some(server)) = (end(client), end(server)) else {
            return;
        };
        let (key, _) = Key::new(client, server);
        let window = Window {
            verdict,
            flow,
            client,
            from: from.saturating_sub(BEFORE),
            to,
        };
        self.by_key
            .entry(key.hash())
            .or_default()
            .push((key, window));
    }

    /// Looks at one segment of the second reading.
    pub fn segment(&mut self, segment: &Segment<'_>) {
        let (key, _) = Key::new(segment.from, segment.to);
        let Some(windows) = self.by_key.get(&key.hash()) else {
            return;
        };
        for (of, window) in windows {
            if *of != key || !(window.from..=window.to).contains(&segment.at) {
                continue;
            }
            let packets = &mut self.packets[window.verdict];
            if packets.len() >= PER_VERDICT {
                // A verdict is decided at its end: of the middle least is missed.
                packets.remove(PER_VERDICT / 2);
                self.left_out[window.verdict] += 1;
            }
            packets.push(PacketSeen {
                at: segment.at,
                frame: segment.frame,
                flow: window.flow,
                from_client: segment.from == window.client,
                flags: segment.flags,
                seq: segment.seq,
                ack: segment.ack,
                length: segment.length,
                what: what(segment),
            });
        }
    }

    /// The packets of the verdict with this number, and how many were left out.
    pub fn packets(&self, verdict: usize) -> (&[PacketSeen], u64) {
        let packets = self.packets.get(verdict).map_or(&[][..], Vec::as_slice);
        (packets, self.left_out.get(verdict).copied().unwrap_or(0))
    }

    /// Every kept frame, with the number of its verdict.
    pub fn frames(&self) -> impl Iterator<Item = (Frame, usize)> + '_ {
        self.packets
            .iter()
            .enumerate()
            .flat_map(|(verdict, packets)| packets.iter().map(move |p| (p.frame, verdict)))
    }
}

fn what(segment: &Segment<'_>) -> What {
    let flags = segment.flags;
    if flags.rst() {
        What::Reset
    } else if flags.syn() {
        if flags.ack() { What::SynAck } else { What::Syn }
    } else if flags.fin() {
        What::Fin
    } else if segment.length == 0 {
        What::Ack
    } else if let Some(status) = wire::status(segment.payload) {
        What::Response(status)
    } else if wire::method(segment.payload).is_some() {
        What::Request
    } else {
        What::Data
    }
}
