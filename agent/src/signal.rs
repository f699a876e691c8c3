//! Signals: single facts, each with its time and source; the only input of the tracker.
//!
//! Sources make them, `track` consumes them, recordings store them as JSON lines. A signal holds
//! nothing of users' traffic but method, path without query, and Host.

mod attempt;
mod logged;
mod process;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use attempt::{
    Attempt, DownstreamState, End, Fin, FlowClosed, HeadFault, InitialSequenceNumbers, Link,
    LinkOrder, Opening, Peer, PeerClose, Place, Queue, Reader, RequestSent, ResetBy, SynSettings,
    TcpFacts, ThreadAtEnd,
};
pub use logged::{
    LogLine, Logged, LoggedTry, Protocol, Said, ServerLine, ServerSaid, TlsFault, tried_again,
};
pub use process::{
    Home, Listener, Process, ProcessExit, ProcessSample, SignalSent, Software, ThreadSample,
    UpstreamEnd,
};

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
    /// A request met the proxy's own close of a client's idle connection: an attempt of the tier in front,
    /// whose upstream this proxy is.
    RequestMetClose(Box<Attempt>),
    /// A connection from elsewhere ended. Of no verdict's concern: another node's may be about it.
    UpstreamEnded(Box<UpstreamEnd>),
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
        /// The probe that did not run, where it was one: nothing but what that tells was lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probe: Option<String>,
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

    /// Where a host's own names are asked for, by whatever library: no request of a proxy goes there.
    pub fn is_name_service(&self) -> bool {
        let path = self.0.strip_prefix("unix:").unwrap_or_default();
        let path = path.strip_prefix("/var").unwrap_or(path);
        let asked = [
            "/run/nscd/socket",
            "/run/systemd/resolve/io.systemd.Resolve",
            "/run/dbus/system_bus_socket",
        ];
        asked.contains(&path) || path.starts_with("/run/systemd/userdb/")
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
    /// Bytes of body that the request's head announces (`Content-Length`), where that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<u64>,
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
    /// Kernel only, where the proxy failed the request without an attempt: what it had open right after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<Descriptors>,
    /// Kernel only, in the same case: the upstreams that watched proxies have connections to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_touch: Vec<InTouch>,
}

/// An upstream to which a proxy has connections open on which it has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InTouch {
    pub proxy: u32,
    pub upstream: Address,
    /// When it last sent anything.
    pub heard: Nanos,
}

/// A process's file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// When they were counted.
    pub at: Nanos,
    pub open: u64,
    /// The first one that it may not have (`RLIMIT_NOFILE`).
    pub limit: u64,
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
