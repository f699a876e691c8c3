//! What the numbers in fields and maps mean.

/// Values of `PROXY_NAMES`.
pub mod name {
    pub const WATCHED: u8 = 1;
    /// Watched, and it keeps a request's bytes in memory until it has answered.
    pub const KEEPS_REQUESTS: u8 = 2;
}

/// `Flow::role`.
pub mod role {
    pub const DOWNSTREAM: u8 = 1;
    pub const UPSTREAM: u8 = 2;
}

/// `Flow::flags`.
pub mod flow_flag {
    /// Older than the agent: what it carried before is not known.
    pub const OLDER: u16 = 1;
    /// The end of the attempt has been told.
    pub const ENDED: u16 = 2;
    /// Downstream: a request was read (or an attempt begun for it) and no response has begun.
    pub const AWAITED: u16 = 4;
    /// Downstream: an attempt for the current request has failed.
    pub const FAILED: u16 = 8;
    /// The connect has not succeeded yet.
    pub const CONNECTING: u16 = 16;
    /// The upstream closed its end (same host): `peer_close_*` are set.
    pub const PEER_CLOSED: u16 = 32;
    /// `peer_close_*`: the connection had been accepted.
    pub const PEER_CLOSED_ACCEPTED: u16 = 64;
    /// Upstream: what it carries is no request and response, or no longer (an upgrade, HTTP/2, a stream).
    pub const UPGRADED: u16 = 128;
    /// The upstream's kernel sent a reset at its close, or later; `peer_reset` says which.
    pub const PEER_SENT_RESET: u16 = 256;
    /// A read returned end of file.
    pub const EOF: u16 = 512;
    /// Downstream: its first bytes were not HTTP/1 (TLS, HTTP/2): nothing of it is read later.
    /// Upstream: those of the downstream it works for were not.
    pub const OPAQUE: u16 = 1024;
    /// Downstream: its next response is looked at, whatever the attempt's answer was.
    pub const SUSPECT: u16 = 2048;
    /// The connect failed; `send_errno` says why.
    pub const CONNECT_FAILED: u16 = 4096;
    /// The end of the flow has been told.
    pub const CLOSED: u16 = 8192;
    /// The proxy has called close(): nothing holds the flow any more.
    pub const CLOSING: u16 = 16384;
    /// Upstream: its first bytes were TLS. What is sent is not the proxy's own memory of the request.
    pub const SEALED: u16 = 32768;
}

/// `Flow::tls`.
pub mod tls {
    /// What was handed to the TLS library behind the first failure: a line of HTTP/1, or anything else.
    pub const LINES: u16 = 1;
    pub const FRAMES: u16 = 2;
    /// The socket has once taken nothing: what was to be sent then comes later.
    pub const PUT_OFF: u16 = 4;

    // Upstream:
    /// A request was sent: the handshake is over.
    pub const ASKED: u16 = 8;
    /// TLS 1.3: application data came within the handshake.
    pub const SECRET: u16 = 16;
    /// The proxy's own part of the handshake is over.
    pub const FINISHED: u16 = 32;
    /// The record that was read last is of an answer.
    pub const WITHIN: u16 = 64;
    /// Since the request, an alert: the upstream closes the connection.
    pub const FAREWELL: u16 = 128;
    /// Where the next record begins is not known, until the next request.
    pub const LOST: u16 = 256;
    /// Requests may be sent before others are answered, or where they begin is not known.
    pub const SEVERAL: u16 = 512;
    /// The upstream has changed its cipher, before 1.3 with the end of the handshake.
    pub const CHANGED: u16 = 1024;
    /// More than HTTP/1 was offered: nothing is told of requests, `SEVERAL` from the first one on.
    pub const MORE: u16 = 2048;
}

/// `Flow::order`.
pub mod order {
    pub const NONE: u8 = 0;
    pub const AFTER_READ: u8 = 1;
    pub const RETRY: u8 = 2;
    pub const UNCLEAR: u8 = 3;
}

/// `Flow::peer_reset`.
pub mod peer_reset {
    /// At its close, with data unread.
    pub const UNREAD: u16 = 1;
    /// At its close, with nothing unread.
    pub const ABORT: u16 = 2;
    /// To what came after its close.
    pub const LATE: u16 = 3;
}

/// `Attempt::end`.
pub mod end {
    pub const CONNECT_FAILED: u8 = 1;
    pub const CONNECT_GIVEN_UP: u8 = 2;
    pub const PEER_CLOSED: u8 = 3;
    pub const RESET: u8 = 4;
    pub const SEND_FAILED: u8 = 5;
    pub const GIVEN_UP: u8 = 6;
    pub const ANSWERED: u8 = 7;
    /// Still waiting: seen when the proxy began its response before it closed the upstream.
    pub const WAITING: u8 = 8;
}

/// `Sample::known`.
pub mod sampled {
    pub const PEER: u8 = 1;
    pub const QUEUE: u8 = 2;
    pub const TCP: u8 = 4;
    pub const READER: u8 = 8;
    pub const ISN: u8 = 16;
}

/// `Attempt::downstream_state`.
pub mod downstream {
    pub const UNKNOWN: u8 = 0;
    pub const OPEN: u8 = 1;
    pub const CLOSED: u8 = 2;
    pub const RESET: u8 = 3;
}

/// `Header::kind`.
pub mod kind {
    pub const ATTEMPT: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const CLOSED: u16 = 3;
    pub const IDLE: u16 = 4;
    pub const STALL: u16 = 5;
    pub const EXIT: u16 = 6;
    pub const SIGNAL: u16 = 7;
    pub const OOM: u16 = 8;
    pub const PROXY: u16 = 9;
    pub const LISTEN: u16 = 10;
    pub const RETRIED: u16 = 11;
    pub const FAR_END: u16 = 12;
    pub const LATE: u16 = 13;
}

/// Places in `TELL_END`.
pub mod tail {
    pub const END: u32 = 0;
    pub const FAR_END: u32 = 1;
    pub const LEN: u32 = 2;
}

/// Indexes into the per-CPU `COUNTERS`.
pub mod counter {
    pub const RING_FULL: u32 = 0;
    pub const FLOWS_FULL: u32 = 1;
    pub const THREADS_FULL: u32 = 2;
    pub const PEERS_FULL: u32 = 3;
    pub const SERVERS_FULL: u32 = 4;
    pub const LISTENERS_FULL: u32 = 5;
    pub const LEN: u32 = 6;
    /// Names of the losses, by index.
    pub const LOSSES: [(&str, &str); 6] = [
        ("ring_buffer", "full"),
        ("flows", "full"),
        ("threads", "full"),
        ("peers", "full"),
        ("servers", "full"),
        ("listeners", "full"),
    ];
}
