//! What lines of logs say, as signals: the proxy's own word about an exchange, a server's about its worker.
//!
//! Held is what a line says of method, path without query, Host and addresses, and which of a closed
//! set of statements it makes; no text of the line itself.

use serde::{Deserialize, Serialize};

use super::{Address, Nanos, Opening, Software};

/// One line of a proxy's log about one exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Who wrote it; `None` where several write lines like this.
    pub proxy: Option<Software>,
    pub line: LogLine,
    /// The process, where the line names it.
    pub pid: Option<u32>,
    /// The proxy's own number of the client's connection.
    pub connection: Option<u64>,
    /// With the port where the line has it.
    pub client: Option<Address>,
    pub request: Option<Opening>,
    /// The line's time is cut to this: what it tells of happened up to so much later.
    pub within: Nanos,
    /// From the request's first byte to the line's time.
    pub took: Option<Nanos>,
    /// The client's.
    pub status: Option<u16>,
    /// In order; empty where the line tells of none.
    pub tries: Vec<LoggedTry>,
    /// About the exchange, where no try decided it.
    pub said: Option<Said>,
    /// The line says that no upstream was tried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untried: bool,
}

impl Logged {
    /// It names no request and no client, but the thread that wrote it.
    pub fn is_of_thread(&self) -> bool {
        let nobody = self.client.is_none() && self.request.is_none();
        self.proxy == Some(Software::Apache) && nobody && self.connection.is_some()
    }
}

/// Which kind of line it is: an exchange has one access line, and an error line for each failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLine {
    Error,
    Access,
}

/// One try of an exchange, as a line tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoggedTry {
    /// An address, or the proxy's name for its server.
    pub upstream: Option<Address>,
    /// How it failed.
    pub said: Option<Said>,
    /// The upstream's own status, or the one that the proxy keeps for a failed try.
    pub status: Option<u16>,
    pub connect: Option<Nanos>,
    pub took: Option<Nanos>,
    /// The proxy's own end of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Address>,
}

/// Whether tries before the last failed of which nothing else is told: HAProxy counts them.
pub fn tried_again<'a>(
    proxy: Option<Software>,
    tries: impl DoubleEndedIterator<Item = &'a LoggedTry>,
) -> bool {
    let untold = |one: &LoggedTry| one.said.is_none() && one.status.is_none();
    proxy == Some(Software::Haproxy) && tries.rev().skip(1).any(untold)
}

/// What a proxy's log says of how a try, or an exchange without one, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    ConnectFailed {
        errno: i32,
    },
    /// No connection, and not said why.
    NotConnected,
    ConnectTimedOut,
    TlsFailed {
        how: TlsFault,
    },
    /// End of file before the response's head was whole.
    PeerClosed,
    Reset,
    /// One of the two.
    ClosedOrReset,
    SendFailed {
        errno: i32,
    },
    ReadTimedOut,
    SendTimedOut,
    /// One of the two.
    TimedOut,
    HeadTooBig,
    HeadInvalid,
    /// The bytes are another protocol's, named where they tell which.
    NotHttp {
        speaks: Option<Protocol>,
    },
    /// One of the three.
    HeadRefused,
    /// HTTP/2: the upstream ended the request's stream, or the connection, and said so.
    StreamReset,
    GoAway,
    /// The same, one of the two.
    StreamEnded,
    /// The status is the upstream's own.
    Answered,
    NoLiveUpstreams,
    NotResolved,
    QueueTimedOut,
    Limited,
    /// A rule or a limit of the proxy refused the request.
    Denied,
    /// The configuration makes this response.
    Configured,
    ClientLeft,
}

impl Said {
    /// A connection broke on which the request was sent.
    pub fn broke(self) -> bool {
        matches!(
            self,
            Said::PeerClosed | Said::Reset | Said::ClosedOrReset | Said::SendFailed { .. }
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFault {
    Version,
    Certificate,
    PeerClosed,
    TimedOut,
    /// What came was no TLS.
    NotTls,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tls,
    Http2,
    /// HTTP, where another protocol was expected.
    Http,
    Other,
}

/// A line of an upstream server's log about its processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerLine {
    pub server: Software,
    /// The worker that it tells of.
    pub pid: Option<u32>,
    /// Where this log's server listens, as far as its log said so.
    pub listens: Vec<Address>,
    pub said: ServerSaid,
    /// As in `Logged`.
    pub within: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum ServerSaid {
    /// Its supervisor killed the worker for taking too long.
    TimedOut,
    /// The worker ended; by this signal, where it was one.
    Died { signal: Option<u8> },
    /// The server stops, or replaces its workers.
    Stops,
}

impl Software {
    /// The name of a proxy's process, where a log is all that is known of it.
    pub fn process_name(self) -> &'static str {
        match self {
            Software::Nginx => "nginx",
            Software::Haproxy => "haproxy",
            Software::Envoy => "envoy",
            Software::Apache => "apache2",
            Software::Caddy => "caddy",
            Software::Traefik => "traefik",
            Software::H2o => "h2o",
            Software::Go => "go",
            Software::Pingora => "pingora",
            Software::Varnish => "varnishd",
            _ => "unknown",
        }
    }
}
