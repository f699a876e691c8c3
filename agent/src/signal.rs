//! Signals: single facts, each with its time and source; the only input of the tracker.
//!
//! Sources make them, `track` consumes them, recordings store them as JSON lines. A signal holds
//! nothing of users' traffic but method, path without query, and Host.

mod logged;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use logged::{LogLine, Logged, LoggedTry, Protocol, Said, ServerLine, ServerSaid, TlsFault};

/// Nanoseconds of the host's monotonic clock (`CLOCK_MONOTONIC`, as `bpf_ktime_get_ns`).
pub type Nanos = u64;

/// A flow's identity: the kernel's socket cookie, never reused while the host is up.
pub type FlowId = u64;

/// One fact from one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// When the fact happened (not when it was read).
    pub at: Nanos,
    pub source: Source,
    pub fact: Fact,
}

/// Where a signal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Kernel,
    Packets,
    Log,
}

/// What happened. All in the past tense.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// An upstream attempt ended before a response head was complete.
    AttemptEnded(Box<Attempt>),
    /// The proxy's thread began another attempt for the exchange of this failed one.
    AttemptRetried {
        flow: FlowId,
    },
    /// What became known of a failed attempt's flow after its attempt had ended.
    FlowClosed(FlowClosed),
    /// The proxy began a response: a 5xx, or one in an exchange with a failed attempt.
    ResponseSent(Box<Response>),
    /// A kept-alive upstream connection was closed while no request was on it.
    IdleClosed(IdleClose),
    /// The first response byte came more than a second after the request; the exchange went on.
    FirstByteLate(Stall),
    ProcessExited(ProcessExit),
    SignalSent(SignalSent),
    OomKilled {
        pid: u32,
    },
    /// What the threads of a process that had read a request were doing, sampled while the proxy waited.
    ProcessSampled(ProcessSample),
    /// Who a process is: read from /proc when it was first seen.
    ProcessSeen(Process),
    /// A process of a watched proxy runs (or was there when the source started).
    ProxyStarted {
        pid: u32,
        name: String,
    },
    /// A process of a watched proxy is there no more; how it ended is not known.
    ProxyGone {
        pid: u32,
    },
    /// A listener's queue, as remembered or just measured.
    ListenerSeen(Listener),
    /// A proxy wrote a line about one of its exchanges.
    Logged(Box<Logged>),
    /// An upstream's server wrote a line about one of its processes.
    ServerLogged(Box<ServerLine>),
    /// Lines of a log were left out: a client may have written them. Their absence tells nothing.
    LinesDistrusted {
        count: u64,
    },
    /// A source began to deliver. `sees` names the kinds of facts that it reports whenever they
    /// happen, by their tag here (`signal_sent`, `process_exited`, `oom_killed`): of those, and
    /// only of those, silence means that they did not happen.
    /// `blind` names the facts that this host refuses it, as `check` does (`tcp_connections`).
    SourceStarted {
        sees: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        blind: Vec<String>,
    },
    /// Signals were lost between the kernel and the tracker.
    SignalsLost {
        stage: String,
        reason: String,
        count: u64,
    },
    /// Time passed; nothing else happened.
    Tick,
}

/// A socket address as the contract writes it: `IP:port`, `[IPv6]:port`, `unix:/path`, `unix:@abstract`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub String);

impl Address {
    /// Without the port.
    pub fn ip(&self) -> &str {
        match self.0.parse::<std::net::SocketAddr>() {
            Ok(_) => self
                .0
                .rsplit_once(':')
                .map_or(self.0.as_str(), |(ip, _)| ip.trim_matches(['[', ']'])),
            Err(_) => &self.0,
        }
    }

    pub fn is_unix(&self) -> bool {
        self.0.starts_with("unix:")
    }

    /// The addresses at which who takes calls to this one may listen; the kernel prefers the first.
    pub fn listened_at(&self) -> Vec<Address> {
        let mut all = vec![self.clone()];
        if let Ok(address) = self.0.parse::<std::net::SocketAddr>() {
            let port = address.port();
            if address.is_ipv4() {
                all.push(Address(format!("0.0.0.0:{port}")));
            }
            all.push(Address(format!("[::]:{port}")));
        }
        all
    }

    pub fn is_loopback(&self) -> bool {
        let address = self.0.parse::<std::net::SocketAddr>();
        address.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
            None => (self.netns != 0 && self.calls_own_namespace())
                .then_some((&self.upstream, self.netns)),
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
    /// Packets only: the capture is known to lack some of this connection's packets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing_packets: u32,
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

/// The proxy began to answer its downstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub proxy: u32,
    pub thread: u32,
    pub downstream: FlowId,
    pub ordinal: u32,
    /// `None` where the bytes are not HTTP/1 (TLS, HTTP/2).
    pub status: Option<u16>,
    pub client: Option<Address>,
    pub proxy_address: Option<Address>,
    pub request: Option<Opening>,
    /// When the proxy read the request's first byte, as far as seen.
    pub request_at: Option<Nanos>,
    /// The attempt that this thread ended last, with nothing else begun since (adjacency).
    pub adjacent: Option<FlowId>,
    /// The last attempt begun for this downstream, failed or not.
    pub last_attempt: Option<Box<Attempt>>,
    /// Packets only, where no attempt can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untied: Option<Untied>,
    /// Packets only, where an attempt cannot be named because it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Unread>,
}

/// The proxy asks upstreams with what is encrypted or no HTTP/1, and nothing tells which of it was
/// for this request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unread {
    /// When the response came.
    pub at: Nanos,
    /// Those that it asked meanwhile, as far as seen; the first few.
    pub upstreams: Vec<Address>,
}

/// Connects of the proxy that all ended alike at the time of a response: its own was one of them,
/// and nothing tells which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Untied {
    /// When the response came.
    pub at: Nanos,
    pub end: End,
    /// Where they went; the first few.
    pub upstreams: Vec<Address>,
    /// Its own is among them. Else none in the capture can be its own, but the proxy gave up others
    /// after the same time.
    pub captured: bool,
    /// From the request, or the last attempt's end, to the response.
    pub waited_ns: Nanos,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleClose {
    pub flow: FlowId,
    pub proxy: u32,
    pub upstream: Address,
    pub by: ClosedBy,
    pub reset: bool,
    /// From the last byte either way to the close.
    pub idle_ns: u64,
    pub requests: u32,
    /// The longest idle time after which the proxy had reused this flow.
    pub longest_reuse_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    Proxy,
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    pub proxy: u32,
    pub upstream: Address,
    pub waited_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessExit {
    pub pid: u32,
    pub parent: u32,
    /// The signal that ended it, 0 if none.
    pub signal: u8,
    /// The exit status, where it ended by itself.
    pub status: u8,
}

/// A signal sent to a process that serves an upstream, or to that process's parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalSent {
    pub signal: u8,
    pub to: u32,
    pub to_parent: u32,
    pub from: u32,
    /// The sender's name.
    pub from_name: String,
    /// The kernel itself made it (a fault, the OOM killer).
    pub by_kernel: bool,
}

/// A process's threads at one moment while the proxy waited for its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    pub pid: u32,
    /// The flow that waits for this process.
    pub flow: FlowId,
    /// The thread that read the request.
    pub thread: ThreadSample,
    /// The cgroup spent this long throttled since the last sample, in microseconds; `None` if unknown.
    pub throttled_us: Option<u64>,
    /// The cgroup's freezer holds it.
    pub frozen: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadSample {
    pub thread: u32,
    /// The scheduler's state letter: R, S, D, T, t.
    pub state: char,
    /// On-CPU time so far, in nanoseconds, and time spent runnable but waiting (schedstat).
    pub cpu_ns: u64,
    pub wait_ns: u64,
    /// The system call it sleeps in (`recvfrom`, `futex`, `clock_nanosleep`, …).
    pub syscall: Option<String>,
    /// The other end of the socket it waits on.
    pub socket_peer: Option<Address>,
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub name: String,
    pub software: Software,
    /// Settings seen on its command line, environment or configuration, by the software's own names.
    pub settings: Vec<(String, String)>,
    /// When it started.
    pub started: Nanos,
    pub netns: u32,
    /// It runs in a SageMaker container (`SAGEMAKER_*` in its environment or `/opt/ml`).
    pub sagemaker: bool,
    #[serde(default, skip_serializing_if = "Home::is_unknown")]
    pub home: Home,
}

/// What a process runs in, as far as its own host says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The container's name; where only its id is known, the first twelve digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What runs the pod, where its name says so; outside of containers the systemd service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl Home {
    fn is_unknown(&self) -> bool {
        *self == Home::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Software {
    Nginx,
    Haproxy,
    Envoy,
    Apache,
    Caddy,
    Traefik,
    Gunicorn,
    Node,
    Uwsgi,
    Uvicorn,
    Puma,
    Tomcat,
    PhpFpm,
    Go,
    Other,
}

impl Software {
    /// Software whose parent process watches its workers and kills the slow ones.
    pub fn supervises(self) -> bool {
        matches!(
            self,
            Software::Gunicorn
                | Software::Uwsgi
                | Software::PhpFpm
                | Software::Puma
                | Software::Uvicorn
                | Software::Apache
        )
    }
}

/// A listening socket on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub address: Address,
    pub netns: u32,
    pub pid: u32,
    pub length: u32,
    pub limit: u32,
    /// The longest queue since the last such signal.
    pub peak: u32,
    /// `net.core.somaxconn` of the listener's network namespace, where it could be read.
    pub somaxconn: Option<u32>,
    /// When it was first seen listening, for listeners younger than the agent.
    pub since: Option<Nanos>,
    /// It no longer listens.
    pub gone: bool,
}
