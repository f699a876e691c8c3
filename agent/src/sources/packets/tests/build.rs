//! Captures made by hand: connections whose segments are written down in the order of time.

use std::net::SocketAddr;

use crate::signal::{Nanos, Signal};
use crate::sources::packets::Packets;
use crate::sources::packets::segment::{Flags, Frame, Segment};
use crate::track::{Decided, Tracker};

pub(super) const BEGIN: Nanos = 1_795_000_000_000_000_000;
pub(super) const MS: Nanos = 1_000_000;

/// A segment with its payload.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub at: Nanos,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub length: u32,
    pub payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn segment(&self, number: u64) -> Segment<'_> {
        Segment {
            at: self.at,
            frame: Frame {
                number,
                interface: 0,
            },
            from: self.from,
            to: self.to,
            seq: self.seq,
            ack: self.ack,
            flags: Flags(self.flags),
            window: self.window,
            length: self.length,
            payload: &self.payload,
        }
    }
}

/// A capture in the making; times are in milliseconds from its beginning.
#[derive(Default)]
pub(super) struct Wire {
    pub packets: Vec<Packet>,
    now: f64,
}

/// One connection in it.
#[derive(Clone)]
pub(super) struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// What each side will send next: the client, the server.
    pub seq: [u32; 2],
    /// What each side has received.
    acked: [u32; 2],
}

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

impl Wire {
    pub(super) fn at(&mut self, ms: f64) -> &mut Wire {
        self.now = ms;
        self
    }

    pub(super) fn connection(&self, client: &str, server: &str) -> Connection {
        let client: SocketAddr = client.parse().unwrap();
        let start = u32::from(client.port()).wrapping_mul(0x9e37_79b9);
        Connection {
            client,
            server: server.parse().unwrap(),
            seq: [start, start ^ 0x5555_5555],
            acked: [0, 0],
        }
    }

    /// A connection with its handshake.
    pub(super) fn open(&mut self, client: &str, server: &str) -> Connection {
        let mut c = self.connection(client, server);
        self.syn(&mut c);
        self.push(&mut c, SERVER, Flags::SYN | Flags::ACK, b"");
        self.push(&mut c, CLIENT, Flags::ACK, b"");
        c
    }

    pub(super) fn syn(&mut self, c: &mut Connection) {
        self.push(c, CLIENT, Flags::SYN, b"");
    }

    pub(super) fn send(&mut self, c: &mut Connection, side: usize, bytes: &[u8]) {
        self.push(c, side, Flags::ACK | Flags::PSH, bytes);
    }

    pub(super) fn ack(&mut self, c: &mut Connection, side: usize) {
        self.push(c, side, Flags::ACK, b"");
    }

    pub(super) fn fin(&mut self, c: &mut Connection, side: usize) {
        self.push(c, side, Flags::FIN | Flags::ACK, b"");
    }

    /// A segment that the other side receives at once.
    pub(super) fn push(&mut self, c: &mut Connection, side: usize, flags: u8, bytes: &[u8]) {
        self.lost(c, side, flags, bytes);
        c.acked[1 - side] = c.seq[side];
    }

    /// A segment on its way: the other side does not know of it yet.
    pub(super) fn lost(&mut self, c: &mut Connection, side: usize, flags: u8, bytes: &[u8]) {
        let ends = [c.client, c.server];
        self.packets.push(Packet {
            at: BEGIN + (self.now * MS as f64) as Nanos,
            from: ends[side],
            to: ends[1 - side],
            seq: c.seq[side],
            ack: if flags & Flags::ACK == 0 {
                0
            } else {
                c.acked[side]
            },
            flags,
            window: 500,
            length: bytes.len() as u32,
            payload: bytes.to_vec(),
        });
        let counted = u32::from(flags & (Flags::SYN | Flags::FIN) != 0);
        c.seq[side] = c.seq[side].wrapping_add(bytes.len() as u32 + counted);
    }

    /// The other side now knows of all that this one sent.
    pub(super) fn arrives(&mut self, c: &mut Connection, side: usize) {
        c.acked[1 - side] = c.seq[side];
    }

    /// A reset without ACK, as one that answers a segment to a socket that is gone.
    pub(super) fn reset(&mut self, c: &mut Connection, side: usize) {
        self.lost(c, side, Flags::RST, b"");
    }
}

/// A request that came to a proxy after 1 ms and went on to its upstream at once, each on a new
/// connection.
pub(super) fn passed_on(path: &str) -> (Wire, Connection, Connection) {
    let mut wire = Wire::default();
    let mut front = wire.at(0.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.at(1.0).send(&mut front, CLIENT, &request("GET", path));
    let mut back = wire.at(1.1).open("10.0.0.1:4000", "10.0.0.2:9000");
    wire.send(&mut back, CLIENT, &request("GET", path));
    (wire, front, back)
}

/// A request that a proxy passes on, and its upstream's answer, each a tenth of a millisecond after the
/// last.
pub(super) fn exchanged(
    wire: &mut Wire,
    [front, back]: [&mut Connection; 2],
    ms: f64,
    path: &str,
    status: u16,
) {
    let ask = request("GET", path);
    wire.at(ms).send(front, CLIENT, &ask);
    wire.at(ms + 0.1).send(back, CLIENT, &ask);
    wire.at(ms + 0.2).send(back, SERVER, &response(status));
    wire.at(ms + 0.3).send(front, SERVER, &response(status));
}

pub(super) fn request(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n").into_bytes()
}

pub(super) fn response(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

pub(crate) fn signals(packets: &[Packet], proxies: &[&str]) -> Vec<Signal> {
    let proxies: Vec<_> = proxies.iter().map(|p| p.parse().unwrap()).collect();
    let mut source = Packets::new(&proxies);
    let mut out = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        source.segment(&packet.segment(i as u64 + 1), &mut out);
    }
    source.finish(&mut out);
    out
}

pub(crate) fn verdicts(packets: &[Packet], proxies: &[&str]) -> Vec<Decided> {
    decided(signals(packets, proxies))
}

pub(super) fn decided(signals: Vec<Signal>) -> Vec<Decided> {
    let mut tracker = Tracker::default();
    let mut decided = Vec::new();
    for signal in signals {
        decided.extend(tracker.observe(&signal));
    }
    decided.extend(tracker.finish());
    decided
}

/// `verdict 502 keepalive_race/fin_in_flight proven` for each, with what is missing.
pub(super) fn labels(packets: &[Packet]) -> Vec<String> {
    verdicts(packets, &[]).iter().map(label).collect()
}

pub(super) fn label(decided: &Decided) -> String {
    let status = decided.response.as_ref().and_then(|(_, _, r)| r.status);
    let kind = format!("{:?}", decided.kind).to_lowercase();
    let diagnosis = &decided.diagnosis;
    let variant = diagnosis
        .variant
        .map_or_else(String::new, |v| format!("/{v}"));
    let missing: Vec<&str> = diagnosis
        .missing
        .iter()
        .map(|m| m.split(':').next().unwrap_or_default())
        .collect();
    let missing = match missing.is_empty() {
        true => String::new(),
        false => format!(" ({})", missing.join(", ")),
    };
    let status = status.map_or_else(|| "-".to_owned(), |s| s.to_string());
    let confidence = diagnosis.confidence.name();
    format!(
        "{kind} {status} {}{variant} {confidence}{missing}",
        diagnosis.cause
    )
}
