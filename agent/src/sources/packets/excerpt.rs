//! The packets of failed exchanges, from a second reading of the capture: for ladders and excerpts.
//!
//! A verdict names its connections and its time; nothing of the first reading has to be kept. A
//! capture whose clock stepped back may give less than all of them.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::packet::{Connection, PacketSeen, What};
use crate::signal::{Address, Nanos};
use crate::sources::wire;
use crate::track::Decided;

use super::flow::{Key, before};
use super::segment::{Segment, Unreachable};

/// Kept of one verdict at most: the first and the last ones.
pub const PER_VERDICT: usize = 200;
/// What comes before an attempt's beginning, and after the response, that still belongs to it.
const BEFORE: Nanos = 10_000_000;
const AFTER: Nanos = 1_000_000_000;

/// The time of one exchange on one of its connections.
#[derive(Clone, Copy, Debug)]
struct Window {
    verdict: usize,
    connection: Connection,
    client: SocketAddr,
    from: Nanos,
    to: Nanos,
    /// A request that begins later is another exchange's.
    over: Nanos,
    /// The time of the request's first byte.
    request_at: Option<Nanos>,
    /// Sequence numbers at which the heads begin. Bytes elsewhere are no head, whatever they look like.
    request: Option<u32>,
    response: Option<u32>,
    /// What each side sends next: the server, the client.
    next: [Option<u32>; 2],
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
    /// Packets of this verdict will be kept, under its place in the order of these calls.
    pub fn add(&mut self, decided: &Decided) {
        let verdict = self.packets.len();
        self.packets.push(Vec::new());
        self.left_out.push(0);
        let response = decided.response.as_ref().map(|(_, _, r)| r);
        let link = || decided.attempts.last()?.attempt.downstream.as_ref();
        let (ends, request_at) = match (response, link()) {
            (Some(r), _) => ((r.client.as_ref(), r.proxy_address.as_ref()), r.request_at),
            (None, Some(l)) => ((l.client.as_ref(), l.proxy_address.as_ref()), None),
            (None, None) => ((None, None), None),
        };
        let first = decided.attempts.first().map(|t| t.attempt.began);
        let from = request_at.or(first).unwrap_or(decided.at);
        let times = (from, decided.at, request_at);
        self.window(verdict, Connection::Downstream, ends, times);
        for (i, tried) in decided.attempts.iter().enumerate() {
            let attempt = &tried.attempt;
            let ends = (attempt.local.as_ref(), Some(&attempt.upstream));
            // A close that had come before the request is what decides.
            let closed = attempt
                .tcp
                .as_ref()
                .and_then(|tcp| Some(tcp.fin.as_ref()?.at));
            let from = attempt.began.min(closed.unwrap_or(Nanos::MAX));
            let request_at = attempt.request.as_ref().map(|r| r.at);
            let times = (from, decided.at, request_at);
            self.window(verdict, Connection::Attempt(i), ends, times);
        }
    }

    fn window(
        &mut self,
        verdict: usize,
        connection: Connection,
        (client, server): (Option<&Address>, Option<&Address>),
        (from, over, request_at): (Nanos, Nanos, Option<Nanos>),
    ) {
        let end = |address: Option<&Address>| address?.0.parse::<SocketAddr>().ok();
        let (Some(client), Some(server)) = (end(client), end(server)) else {
            return;
        };
        let (key, _) = Key::new(client, server);
        let window = Window {
            verdict,
            connection,
            client,
            from: from.saturating_sub(BEFORE),
            to: over.saturating_add(AFTER),
            over,
            request_at,
            request: None,
            response: None,
            next: [None; 2],
        };
        self.by_key
            .entry(key.hash())
            .or_default()
            .push((key, window));
    }

    /// Looks at one segment of the second reading.
    pub fn segment(&mut self, segment: &Segment<'_>) {
        let (key, _) = Key::new(segment.from, segment.to);
        let Some(windows) = self.by_key.get_mut(&key.hash()) else {
            return;
        };
        for (of, window) in windows {
            if *of != key || !(window.from..=window.to).contains(&segment.at) {
                continue;
            }
            let from_client = segment.from == window.client;
            if from_client && segment.at > window.over && wire::method(segment.payload).is_some() {
                window.to = segment.at - 1;
                continue;
            }
            let packet = PacketSeen {
                at: segment.at,
                frame: segment.frame.number,
                connection: window.connection,
                from_client,
                what: window.what(segment, from_client),
                length: segment.length,
                fin: segment.flags.fin(),
                again: window.again(segment, from_client),
            };
            keep(
                &mut self.packets,
                &mut self.left_out,
                window.verdict,
                packet,
            );
        }
    }

    /// Looks at one ICMP error of the second reading.
    pub fn unreachable(&mut self, error: &Unreachable) {
        let (key, _) = Key::new(error.from, error.to);
        let windows = self.by_key.get(&key.hash());
        for (of, window) in windows.into_iter().flatten() {
            let meant = *of == key && error.from == window.client;
            if meant && (window.from..=window.to).contains(&error.at) {
                let packet = PacketSeen {
                    at: error.at,
                    frame: error.frame.number,
                    connection: window.connection,
                    from_client: false,
                    what: What::Unreachable,
                    length: 0,
                    fin: false,
                    again: false,
                };
                keep(
                    &mut self.packets,
                    &mut self.left_out,
                    window.verdict,
                    packet,
                );
            }
        }
    }

    /// The packets of the verdict with this number, and how many were left out.
    pub fn packets(&self, verdict: usize) -> (&[PacketSeen], u64) {
        let packets = self.packets.get(verdict).map_or(&[][..], Vec::as_slice);
        (packets, self.left_out.get(verdict).copied().unwrap_or(0))
    }
}

fn keep(packets: &mut [Vec<PacketSeen>], left_out: &mut [u64], verdict: usize, packet: PacketSeen) {
    let packets = &mut packets[verdict];
    if packets.len() >= PER_VERDICT {
        // A verdict is decided at its end: of the middle least is missed.
        packets.remove(PER_VERDICT / 2);
        left_out[verdict] += 1;
    }
    packets.push(packet);
}

impl Window {
    fn what(&mut self, segment: &Segment<'_>, from_client: bool) -> What {
        let flags = segment.flags;
        if flags.rst() {
            return What::Reset;
        }
        if flags.syn() {
            return if flags.ack() { What::SynAck } else { What::Syn };
        }
        if segment.length > 0 {
            let head = self.head(segment, from_client);
            return head.unwrap_or(if flags.fin() { What::Fin } else { What::Data });
        }
        if flags.fin() { What::Fin } else { What::Ack }
    }

    /// The head that begins with this payload.
    fn head(&mut self, segment: &Segment<'_>, from_client: bool) -> Option<What> {
        if from_client {
            let due = self.request_at.is_some_and(|at| segment.at >= at);
            if due && self.request.is_none() {
                self.request = Some(segment.seq);
            }
            let begins = self.request == Some(segment.seq);
            return begins.then_some(What::Request);
        }
        if self.request.is_some() && self.response.is_none() {
            self.response = Some(segment.seq);
        }
        if self.response != Some(segment.seq) {
            return None;
        }
        let status = wire::status(segment.payload)?;
        if (100..=199).contains(&status) && status != 101 {
            // The final one is still to come.
            self.response = None;
        }
        Some(What::Response(status))
    }

    fn again(&mut self, segment: &Segment<'_>, from_client: bool) -> bool {
        if segment.length == 0 {
            return false;
        }
        let next = &mut self.next[usize::from(from_client)];
        let end = segment.seq.wrapping_add(segment.length);
        let again = next.is_some_and(|next| !before(next, end));
        if !again {
            *next = Some(end);
        }
        again
    }
}
