//! The packets of failed exchanges, from a second reading of the capture: for ladders and excerpts.
//!
//! A verdict names its connections and its time; nothing of the first reading has to be kept. A
//! capture whose clock stepped back may give less than all of them.

use std::collections::HashMap;
use std::net::SocketAddr;

use foldhash::fast::RandomState;

use crate::packet::{Connection, PacketSeen, What};
use crate::signal::{Address, FlowId, Nanos, Opening, Source};
use crate::sources::wire;
use crate::track::Decided;

use super::flow::before;
use super::key::Key;
use super::segment::{Segment, Unreachable};

/// Kept of one verdict at most: the first and the last ones.
pub const PER_VERDICT: usize = 200;
/// What comes before an attempt's beginning, and after the response, that still belongs to it.
const BEFORE: Nanos = 10_000_000;
/// A proxy that is busy reads a request so long after its packet has come.
const READ_LATE: Nanos = 1_000_000_000;
const AFTER: Nanos = 1_000_000_000;

/// The time of one exchange on one of its connections.
#[derive(Clone, Debug)]
struct Window {
    verdict: usize,
    connection: Connection,
    client: SocketAddr,
    from: Nanos,
    to: Nanos,
    /// A request that begins later is another exchange's.
    over: Nanos,
    request: Option<Request>,
    /// Sequence numbers at which the heads begin. Bytes elsewhere are no head, whatever they look like.
    request_seq: Option<u32>,
    response_seq: Option<u32>,
    /// What each side sends next: the server, the client.
    next: [Option<u32>; 2],
}

/// By what the packet is known with which a request begins.
#[derive(Clone, Debug)]
enum Request {
    /// The packet's own time.
    At(Nanos),
    /// Probes saw it read or written, a moment after the packet: their time, its method and path.
    Like(Nanos, String, String),
}

impl Request {
    fn new(source: Source, at: Nanos, opening: Option<&Opening>) -> Option<Request> {
        match (source, opening) {
            (Source::Packets, _) => Some(Request::At(at)),
            (_, Some(Opening::HttpRequest { method, path, .. })) => {
                Some(Request::Like(at, method.clone(), path.clone()))
            }
            _ => None,
        }
    }

    /// Whether it begins with this segment of its client, as far as is known; `found` says that one
    /// was taken for it before.
    fn is(&self, segment: &Segment<'_>, found: bool) -> bool {
        const MOMENT: Nanos = 1_000_000;
        match self {
            Request::At(at) => !found && segment.at >= *at,
            // Of equal ones the last: what comes before belongs to the connection's past.
            Request::Like(at, method, path) => match wire::request(segment.payload) {
                // The probes' copy may have been cut.
                Opening::HttpRequest {
                    method: its_method,
                    path: its_path,
                    ..
                } => {
                    segment.at <= at.saturating_add(MOMENT)
                        && its_method == *method
                        && its_path.starts_with(path.as_str())
                }
                _ => false,
            },
        }
    }
}

/// Collects the packets of verdicts.
#[derive(Debug, Default)]
pub struct Excerpt {
    by_key: HashMap<Key, Vec<Window>, RandomState>,
    packets: Vec<Vec<PacketSeen>>,
    /// Packets left out of each for want of room.
    left_out: Vec<u64>,
    /// The beginning of each verdict's first window.
    begins: Vec<Nanos>,
    ends: Nanos,
}

impl Excerpt {
    /// Packets of this verdict will be kept, under its place in the order of these calls. `space`
    /// tells on whose loopback a connection is, where there are several.
    pub fn add(&mut self, decided: &Decided, space: impl Fn(FlowId) -> u32) {
        let verdict = self.packets.len();
        self.packets.push(Vec::new());
        self.left_out.push(0);
        self.begins.push(Nanos::MAX);
        let response = decided.response.as_ref().map(|(_, source, r)| (*source, r));
        let link = || decided.attempts.last()?.attempt.downstream.as_ref();
        let (ends, flow) = match (response, link()) {
            (Some((_, r)), _) => (
                (r.client.as_ref(), r.proxy_address.as_ref()),
                Some(r.downstream),
            ),
            (None, Some(l)) => ((l.client.as_ref(), l.proxy_address.as_ref()), Some(l.flow)),
            (None, None) => ((None, None), None),
        };
        let request_at = response.and_then(|(_, r)| r.request_at);
        let first = decided.attempts.first().map(|t| t.attempt.began);
        let from = request_at.or(first).unwrap_or(decided.at);
        let request = response
            .and_then(|(source, r)| Request::new(source, r.request_at?, r.request.as_ref()));
        let space_of = |flow: Option<FlowId>| space(flow.unwrap_or_default());
        let times = (from, decided.at);
        self.window(
            verdict,
            Connection::Downstream,
            ends,
            space_of(flow),
            times,
            request,
        );
        for (i, tried) in decided.attempts.iter().enumerate() {
            let attempt = &tried.attempt;
            let ends = (attempt.local.as_ref(), Some(&attempt.upstream));
            // A close that had come before the request is what decides.
            let closed = attempt
                .tcp
                .as_ref()
                .and_then(|tcp| Some(tcp.fin.as_ref()?.at));
            let from = attempt.began.min(closed.unwrap_or(Nanos::MAX));
            let sent = attempt.request.as_ref();
            let request = sent.and_then(|r| Request::new(tried.source, r.at, Some(&r.opening)));
            let space = space_of(Some(attempt.flow));
            let times = (from, decided.at);
            self.window(verdict, Connection::Attempt(i), ends, space, times, request);
        }
    }

    fn window(
        &mut self,
        verdict: usize,
        connection: Connection,
        (client, server): (Option<&Address>, Option<&Address>),
        space: u32,
        (from, over): (Nanos, Nanos),
        request: Option<Request>,
    ) {
        let end = |address: Option<&Address>| address?.0.parse::<SocketAddr>().ok();
        let (Some(client), Some(server)) = (end(client), end(server)) else {
            return;
        };
        let key = Key::new(client, server).0.within(space);
        let before = match (connection, &request) {
            (Connection::Downstream, Some(Request::Like(..))) => READ_LATE,
            _ => BEFORE,
        };
        let window = Window {
            verdict,
            connection,
            client,
            from: from.saturating_sub(before),
            to: over.saturating_add(AFTER),
            over,
            request,
            request_seq: None,
            response_seq: None,
            next: [None; 2],
        };
        self.begins[verdict] = self.begins[verdict].min(window.from);
        self.ends = self.ends.max(window.to);
        self.by_key.entry(key).or_default().push(window);
    }

    /// Looks at one segment of the second reading, captured in this network namespace.
    pub fn segment(&mut self, segment: &Segment<'_>, space: u32) {
        let key = Key::new(segment.from, segment.to).0.within(space);
        let Some(windows) = self.by_key.get_mut(&key) else {
            return;
        };
        for window in windows {
            if !(window.from..=window.to).contains(&segment.at) {
                continue;
            }
            let from_client = segment.from == window.client;
            if from_client && segment.at > window.over && wire::method(segment.payload).is_some() {
                window.to = segment.at - 1;
                continue;
            }
            let found = window.request_seq;
            let what = window.what(segment, from_client);
            if window.request_seq != found {
                // What was kept before it is known to have been another request's.
                let packets = &mut self.packets[window.verdict];
                let connection = window.connection;
                packets.retain(|p| p.connection != connection || p.at + BEFORE >= segment.at);
            }
            let packet = PacketSeen {
                at: segment.at,
                frame: segment.frame.number,
                connection: window.connection,
                from_client,
                what,
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
    pub fn unreachable(&mut self, error: &Unreachable, space: u32) {
        let key = Key::new(error.from, error.to).0.within(space);
        let windows = self.by_key.get(&key);
        for window in windows.into_iter().flatten() {
            if error.from == window.client && (window.from..=window.to).contains(&error.at) {
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

    /// The time of the first packet that can belong to the verdict with this number; none does
    /// where that is the end of all time.
    pub fn begins(&self, verdict: usize) -> Nanos {
        self.begins.get(verdict).copied().unwrap_or(Nanos::MAX)
    }

    /// The time after which no packet belongs to any of the verdicts.
    pub fn ends(&self) -> Nanos {
        self.ends
    }

    /// Gives away the packets of the verdict with this number, and how many were left out.
    pub fn take(&mut self, verdict: usize) -> (Vec<PacketSeen>, u64) {
        let packets = self.packets.get_mut(verdict).map(std::mem::take);
        let left_out = self.left_out.get(verdict).copied();
        (packets.unwrap_or_default(), left_out.unwrap_or(0))
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
            let found = self.request_seq.is_some();
            if self.request.as_ref().is_some_and(|r| r.is(segment, found)) {
                self.request_seq = Some(segment.seq);
                self.response_seq = None;
            }
            let begins = self.request_seq == Some(segment.seq);
            return begins.then_some(What::Request);
        }
        if self.request_seq.is_some() && self.response_seq.is_none() {
            self.response_seq = Some(segment.seq);
        }
        if self.response_seq != Some(segment.seq) {
            return None;
        }
        let status = wire::status(segment.payload)?;
        if (100..=199).contains(&status) && status != 101 {
            // The final one is still to come.
            self.response_seq = None;
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
