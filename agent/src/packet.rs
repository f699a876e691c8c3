//! One packet of a failed exchange, as excerpts of captures, ladders and annotated captures know it.

use crate::signal::Nanos;

/// Which of the exchange's connections a packet is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// From the client to the proxy.
    Downstream,
    /// From the proxy to the upstream, of the attempt with this number.
    Attempt(usize),
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Syn,
    SynAck,
    /// The beginning of the exchange's request.
    Request,
    /// The beginning of its response, with the status.
    Response(u16),
    Data,
    Ack,
    Fin,
    Reset,
    /// An ICMP error that quotes a packet of the connection's client.
    Unreachable,
}

/// One packet of a failed exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSeen {
    pub at: Nanos,
    /// The frame's number in its capture, from 1.
    pub frame: u64,
    pub connection: Connection,
    /// From the connection's client to its server.
    pub from_client: bool,
    pub what: What,
    /// Bytes of payload, as sent.
    pub length: u32,
    pub fin: bool,
    /// Payload that had been sent before.
    pub again: bool,
}

impl PacketSeen {
    /// Microseconds from the verdict's time, as evidence has them.
    pub fn at_us(&self, verdict: Nanos) -> i64 {
        (self.at as i64 - verdict as i64) / 1000
    }

    /// A request's or a response's head begins with the payload.
    pub fn begins_head(&self) -> bool {
        matches!(self.what, What::Request | What::Response(_))
    }
}
