//! Tries to get a request answered by an upstream, and what is seen of their connections.

use serde::{Deserialize, Serialize};

use super::{Address, FlowId, Nanos};

/// One try to get a request answered by one upstream, with all that was known when it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub flow: FlowId,
    /// The proxy's process and the thread that began the attempt. From packets it is the process
    /// that serves the proxy's address, or where that is not known a number larger than any.
    pub proxy: u32,
    pub thread: u32,
    /// The downstream this attempt was begun for; `None` where order does not tell.
    pub downstream: Option<Link>,
    /// The failed attempt that this thread had just ended when it began this one.
    #[serde(default)]
    pub retry_of: Option<FlowId>,
    pub upstream: Address,
    pub local: Option<Address>,
    /// The connect call, or on a reused connection the first write of the request.
    pub began: Nanos,
    /// When the TCP handshake ended; `None` on Unix sockets, reused connections and failed connects.
    pub connected: Option<Nanos>,
    pub reused: bool,
    /// Requests this flow had carried before this one, as far as seen.
    pub requests_before: u32,
    /// From the last response byte to this request's first byte, on a reused flow.
    pub idle_ns: Option<u64>,
    pub request: Option<RequestSent>,
    /// Bytes of the response read by the proxy, and what they begin with.
    pub received: u64,
    pub response: Option<Opening>,
    /// What was sent is within TLS, past the handshake: nothing but the order of its records says that it is a
    /// request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Something came within TLS that may have been session tickets, or the beginning of an answer: it is
    /// not counted as received.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tickets: bool,
    /// Within TLS nothing was sent that can be a request: the handshake was not over, or came to nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
    pub end: End,
    /// TCP only: what the proxy's socket knew.
    pub tcp: Option<TcpFacts>,
    /// The upstream's end of the connection, where it is on this host and could be seen.
    pub peer: Option<Peer>,
    /// The upstream's listener, where it is on this host: at the connect and at the failure.
    pub queue: Option<Queue>,
    /// The network namespace of the proxy's socket; 0 where it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub netns: u32,
    /// Where the upstream's own end of the connection is, if it was seen on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_end: Option<Place>,
    /// This upstream has answered an HTTP request with HTTP before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spoke_http: bool,
    /// What is wrong with the head that was answered, as far as its first bytes show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<HeadFault>,
}

/// What makes a response's head none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadFault {
    /// All that was received is a beginning.
    Cut,
    /// A line of it is no field, or has a character that none may have.
    Malformed,
}

/// An address in a network namespace of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As the process there names it: translation may show the proxy another.
    pub address: Address,
    pub netns: u32,
}

/// The request as it was written to the upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestSent {
    /// The first byte's write.
    pub at: Nanos,
    pub bytes: u64,
    pub opening: Opening,
    /// The kernel refused the write (`EPIPE` 32, `ECONNRESET` 104); `None` when it took the bytes.
    pub write_errno: Option<i32>,
}

impl Attempt {
    /// The upstream's address is one of the proxy's own network namespace: no other host has it.
    pub fn calls_own_namespace(&self) -> bool {
        let own = || self.local.as_ref().map(Address::ip) == Some(self.upstream.ip());
        !self.upstream.is_unix() && (self.upstream.is_loopback() || own())
    }

    /// Where on this host its listener is, as far as the attempt's own facts tell.
    pub fn called(&self) -> Option<(&Address, u32)> {
        match &self.upstream_end {
            Some(place) => Some((&place.address, place.netns)),
            None => {
                // One that was given up has no address of its own; its listener was found all the same.
                let found = self.queue.is_some() && !self.upstream.is_unix();
                let own = self.calls_own_namespace() || found;
                (self.netns != 0 && own).then_some((&self.upstream, self.netns))
            }
        }
    }

    /// The client's side is TLS or HTTP/2, so that a response cannot be told from other data.
    pub fn is_opaque(&self) -> bool {
        let request = self
            .downstream
            .as_ref()
            .and_then(|link| link.request.as_ref());
        request.is_some_and(|request| !matches!(request, Opening::HttpRequest { .. }))
    }

    /// The client ended its connection, or its request, before the proxy ended this attempt. Behind TLS
    /// the connection may be another client's (requests of several HTTP/2 connections are read first
    /// and begun later): what the upstream ended was then not ended for a client that left.
    pub fn client_left(&self, ended: Nanos) -> bool {
        let gave_up = matches!(self.end, End::GivenUp | End::ConnectGivenUp);
        let link = self.downstream.as_ref();
        let left = link.is_some_and(|link| link.state.left());
        (left && (gave_up || !self.is_opaque())) || self.may_be_cancelled(ended)
    }

    /// The proxy gave up right after it had read from an encrypted client: within HTTP/2 that is how a
    /// client cancels. A timer that fires at the same moment looks alike, but for its whole seconds.
    pub fn may_be_cancelled(&self, ended: Nanos) -> bool {
        const SAME_PASS: u64 = 300_000;
        const SECOND: u64 = 1_000_000_000;
        let read_just_before = self
            .downstream
            .as_ref()
            .and_then(|link| link.read_before_ns)
            .is_some_and(|before| before < SAME_PASS);
        let waited = ended.saturating_sub(self.request.as_ref().map_or(self.began, |r| r.at));
        let timer =
            waited > SECOND / 2 && waited % SECOND < (waited / 100).clamp(5_000_000, 50_000_000);
        self.end == End::GivenUp && self.is_opaque() && read_just_before && !timer
    }
}

/// What the first bytes of one direction of a connection are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
pub enum Opening {
    /// `path` has no query; it may be cut (`path_complete` false).
    HttpRequest {
        method: String,
        path: String,
        path_complete: bool,
        host: Option<String>,
    },
    HttpResponse {
        status: u16,
    },
    /// A uwsgi packet (`modifier1` 0, a plausible size).
    Uwsgi,
    FastCgi,
    Tls,
    Http2,
    /// Bytes that are none of the above.
    Other,
    /// No bytes of it are seen: the client's side is not in the capture, or not readable there.
    Unseen,
}

/// The downstream side of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub flow: FlowId,
    /// Which request on that downstream connection, from 1, as far as seen.
    pub ordinal: u32,
    pub order: LinkOrder,
    pub client: Option<Address>,
    pub proxy_address: Option<Address>,
    /// The downstream's request as read by the proxy.
    pub request: Option<Opening>,
    /// The downstream's state when the attempt ended.
    pub state: DownstreamState,
    /// How long before the attempt's end the thread that ended it had read this downstream, and no
    /// other since: a client that cancels within HTTP/2 says so in data.
    #[serde(default)]
    pub read_before_ns: Option<u64>,
}

/// How firmly the order of events in the proxy's thread ties an attempt to its downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkOrder {
    /// The downstream was read, and this was the first attempt begun after it.
    AfterRead,
    /// This thread had just ended a failed attempt for the same downstream: a retry.
    Retry,
    /// An attempt had already begun since the last read: order alone does not tell.
    Unclear,
    /// Nothing else of the proxy ended or was answered at that moment. Found when an exchange is
    /// decided, never told by a source.
    Alone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownstreamState {
    Open,
    /// The client had sent its FIN before.
    ClosedByClient,
    /// The client had reset the connection before.
    ResetByClient,
    Unknown,
}

impl DownstreamState {
    /// The client ended its connection first.
    pub fn left(self) -> bool {
        matches!(
            self,
            DownstreamState::ClosedByClient | DownstreamState::ResetByClient
        )
    }
}

/// How an attempt ended, as the proxy's own system calls or timers showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum End {
    /// connect() or the handshake failed with this errno.
    ConnectFailed { errno: i32 },
    /// The proxy closed the socket before the handshake ended.
    ConnectGivenUp,
    /// A read returned end of file.
    PeerClosed,
    /// A read or the socket's error said `ECONNRESET`.
    Reset,
    /// A write failed with this errno.
    SendFailed { errno: i32 },
    /// The proxy closed the connection while it waited for the response: its timer, or its client.
    GivenUp,
    /// Not a failure of the attempt: a response head was read (seen in `Response::last_attempt`).
    Answered,
}

/// What the proxy's TCP socket knew at the attempt's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpFacts {
    /// Bytes of the request acknowledged by the peer's kernel at the end.
    pub acked: u64,
    /// The peer's FIN, if it had arrived.
    pub fin: Option<Fin>,
    /// When a reset was received.
    pub reset_at: Option<Nanos>,
    pub retransmits: u32,
    /// Packets of this flow that a filter on this host dropped (`kfree_skb`'s `NETFILTER_DROP`);
    /// 0 also where that is not seen.
    #[serde(default)]
    pub filtered: u32,
    /// The peer advertised no room for more data.
    pub zero_window: bool,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Packets only: what the reset itself acknowledged of the request; `None` where it has no ACK
    /// flag, as one that answers a segment of ours, or where flags are not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_acked: Option<u64>,
    /// Packets only: at that moment the upstream ended other connections that had been idle for another
    /// time, or under a request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_with_others: bool,
    /// Packets only: the capture is known to lack some of this connection's packets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing_packets: u32,
    /// Where connections are to be known on other nodes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isn: Option<InitialSequenceNumbers>,
}

/// What a connection began to count its bytes with; address translation leaves it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialSequenceNumbers {
    /// Of who connected.
    pub client: u32,
    pub server: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A FIN from the upstream, and what it acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fin {
    pub at: Nanos,
    /// Bytes of the request acknowledged when the FIN was processed.
    pub acked: u64,
    /// The request had already been written when the FIN was processed.
    pub after_request: bool,
}

/// The upstream's own end of the connection (same host), sampled when the proxy gave up or saw the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// accept() had returned this connection.
    pub accepted: bool,
    /// The request's first byte had been read by the application.
    pub read: bool,
    /// Who read it, and when.
    pub reader: Option<Reader>,
    /// The upstream closed its end before the proxy ended the attempt.
    pub closed: Option<PeerClose>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reader {
    pub pid: u32,
    pub thread: u32,
    pub at: Nanos,
    /// What the thread was doing at the very moment the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_end: Option<ThreadAtEnd>,
}

/// A thread at the moment its attempt ended, as the kernel half saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadAtEnd {
    /// The scheduler's state letter: R, S, D, T, t.
    pub state: char,
    /// On-CPU time so far, in nanoseconds: it stands still while the thread does.
    pub cpu_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerClose {
    pub at: Nanos,
    pub pid: u32,
    pub accepted: bool,
    /// The request had been read by the application when it closed.
    pub read: bool,
    /// The upstream's kernel sent a reset at its close, or to what came after it.
    pub reset: bool,
    /// TCP: bytes of the request that the application had read by then, and bytes that had come
    /// and were left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by: Option<ResetBy>,
    /// The kernel's own name for the reason (`TCP_ABORT_ON_DATA`; from 6.10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_reason: Option<String>,
}

/// What made the upstream's kernel send a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetBy {
    /// The close, with data unread.
    UnreadData,
    /// The close, with nothing unread: `SO_LINGER` 0.
    Abort,
    /// Data that came after the close.
    LateData,
}

/// A listener's accept queue around an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Connections waiting when the attempt failed.
    pub length: u32,
    /// The limit (`sk_max_ack_backlog`); the queue holds one more.
    pub limit: u32,
    /// TCP: connection requests the listener dropped between the attempt's first SYN and its end.
    pub drops: u32,
    /// Measured right after the failure, not at it.
    pub later: bool,
    /// Several sockets listen at this address (`SO_REUSEPORT`): this one's queue need not be the one
    /// that the connection was for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// TCP: handshakes with this listener that had begun and not ended, counted right after a connect that it
    /// did not answer though it had room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_open: Option<u32>,
    /// With `half_open`, where they can be read: what its network namespace allows of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_settings: Option<SynSettings>,
}

/// How a network namespace has its listeners take connection requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynSettings {
    /// `net.ipv4.tcp_max_syn_backlog`
    pub max_backlog: u32,
    /// `net.ipv4.tcp_syncookies`
    pub cookies: u32,
}

/// What was learned of a failed attempt's flow after its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowClosed {
    pub flow: FlowId,
    /// Bytes of the request acknowledged in the end.
    pub acked: u64,
    pub reset_at: Option<Nanos>,
    /// The upstream's end, if it closed after the attempt's end.
    pub peer: Option<Peer>,
}
