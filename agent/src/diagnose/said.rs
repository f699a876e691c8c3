//! What a proxy's log admits: from a statement of its own closed set to the causes that can be behind it.
//!
//! The same table serves two rules. Alone, a line gives `likely` where it admits one cause, else
//! `unknown` with the facts that would decide. Beside another source, a cause that the line does not
//! admit is a contradiction. Nothing is proven by a log but what happens inside the proxy and its
//! log alone can tell.

use crate::cause::{Cause, Variant};
use crate::signal::{Protocol, Said, Software, TlsFault};

use super::text;

/// The ways in which a process's death looks from its client: as an end of file or a reset.
const DEATHS: [Cause; 5] = [
    Cause::WorkerCrashed,
    Cause::WorkerTimeoutKilled,
    Cause::WorkerOomKilled,
    Cause::WorkerKilled,
    Cause::UpstreamShutdown,
];

/// Where the upstream is, as far as the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp,
    Unix,
    Unnamed,
}

impl Place {
    pub(super) fn of(address: &str) -> Place {
        if address.starts_with("unix:") {
            Place::Unix
        } else if address.parse::<std::net::SocketAddr>().is_ok() {
            Place::Tcp
        } else {
            Place::Unnamed
        }
    }
}

/// Every cause that can make this proxy say this.
pub(super) fn admits(said: Said, proxy: Option<Software>, place: Place) -> Vec<Cause> {
    use Cause::*;
    let go = matches!(
        proxy,
        Some(Software::Caddy | Software::Traefik | Software::Go)
    );
    let envoy = proxy == Some(Software::Envoy);
    let waits = [ConnectTimeout, TcpAcceptQueueFull, SynBacklogFull];
    let mut causes = match said {
        Said::ConnectFailed { errno } => connect_failed(errno, place),
        Said::NotConnected => not_connected(place),
        Said::ConnectTimedOut => {
            // A timer for the connection as a whole: the handshake is within it.
            let tls = match proxy {
                // Varnish speaks none to its backends.
                Some(Software::Nginx | Software::Varnish) | None => &[][..],
                _ => &[TlsHandshakeFailed, ProtocolMismatch],
            };
            let queue = match place {
                Place::Tcp => &[][..],
                _ => &[UnixAcceptQueueFull],
            };
            // It starts before the name is looked up.
            let name = match proxy {
                Some(Software::H2o) => &[DnsFailed][..],
                _ => &[],
            };
            [&waits[..], tls, queue, name].concat()
        }
        Said::TlsFailed { how } => match how {
            TlsFault::NotTls => vec![ProtocolMismatch],
            // A server that speaks no TLS may wait for more, or close.
            TlsFault::TimedOut | TlsFault::PeerClosed => vec![TlsHandshakeFailed, ProtocolMismatch],
            TlsFault::Version | TlsFault::Certificate => vec![TlsHandshakeFailed],
            TlsFault::Other => vec![TlsHandshakeFailed, ProtocolMismatch],
        },
        Said::PeerClosed => {
            let handshake = if go { &[TlsHandshakeFailed][..] } else { &[] };
            let own = [
                KeepaliveRace,
                UpstreamClosedEarly,
                ProtocolMismatch,
                Http2Goaway,
            ];
            [&own[..], &DEATHS, handshake].concat()
        }
        Said::Reset => reset(),
        Said::ClosedOrReset => [
            &reset()[..],
            &[
                UpstreamClosedEarly,
                RequestBodyRejected,
                TlsHandshakeFailed,
                Http2StreamReset,
            ],
        ]
        .concat(),
        Said::SendFailed { .. } => {
            [&[RequestBodyRejected, UpstreamClosedEarly][..], &reset()].concat()
        }
        // It looks at a head when it is whole, and waits for the rest of what is none.
        Said::ReadTimedOut if proxy == Some(Software::Varnish) => {
            [&read_timed_out()[..], &[ProtocolMismatch]].concat()
        }
        Said::ReadTimedOut => read_timed_out(),
        Said::SendTimedOut => send_timed_out(),
        Said::TimedOut => {
            let connecting = if envoy { &waits[..] } else { &[] };
            let queued = if envoy {
                &[ProxyQueueTimeout, TlsHandshakeFailed][..]
            } else {
                &[]
            };
            [&read_timed_out()[..], &send_timed_out(), connecting, queued].concat()
        }
        Said::HeadTooBig => vec![ResponseHeaderTooBig],
        Said::HeadInvalid => vec![ResponseInvalid],
        Said::NotHttp { speaks: Some(_) } => vec![ProtocolMismatch],
        Said::NotHttp { speaks: None } => vec![ProtocolMismatch, ResponseInvalid],
        Said::HeadRefused => {
            let own = [
                ResponseInvalid,
                ResponseHeaderTooBig,
                ProtocolMismatch,
                UpstreamClosedEarly,
            ];
            [&own[..], &DEATHS].concat()
        }
        Said::StreamReset => vec![Http2StreamReset],
        Said::GoAway => vec![Http2Goaway],
        Said::StreamEnded => vec![Http2StreamReset, Http2Goaway],
        Said::Answered => vec![UpstreamAnswered],
        // Nobody of a cluster, or of a backend, is left whose names were not resolved.
        Said::NoLiveUpstreams if envoy || proxy == Some(Software::Haproxy) => {
            vec![NoLiveUpstreams, DnsFailed]
        }
        // Who has as many requests as it may have is left out as well: `max_conns`,
        // `unhealthy_request_count`.
        Said::NoLiveUpstreams if proxy == Some(Software::Nginx) => {
            vec![NoLiveUpstreams, ProxyLimit]
        }
        Said::NoLiveUpstreams if proxy == Some(Software::Caddy) => {
            vec![NoLiveUpstreams, ProxyQueueTimeout]
        }
        Said::NoLiveUpstreams => vec![NoLiveUpstreams],
        Said::NotResolved => vec![DnsFailed],
        Said::QueueTimedOut => vec![ProxyQueueTimeout],
        Said::Limited => vec![ProxyLimit],
        Said::Denied => vec![ProxyConfig, ProxyLimit],
        Said::Configured => vec![ProxyConfig],
        Said::ClientLeft => vec![DownstreamGaveUp],
    };
    if proxy == Some(Software::Varnish) {
        // It asks in HTTP/1 alone.
        causes.retain(|cause| !matches!(cause, Http2Goaway | Http2StreamReset));
    }
    causes.sort_unstable();
    causes.dedup();
    causes
}

fn connect_failed(errno: i32, place: Place) -> Vec<Cause> {
    use Cause::*;
    let unix = |cause| match place {
        Place::Tcp => Vec::new(),
        _ => vec![cause],
    };
    match errno {
        2 | 20 => unix(UnixSocketMissing),
        11 => unix(UnixAcceptQueueFull),
        13 => unix(UnixSocketDenied),
        91 => unix(UnixSocketWrongType),
        111 => match place {
            Place::Tcp => vec![ConnectionRefused],
            Place::Unix => vec![UnixSocketRefused],
            Place::Unnamed => vec![ConnectionRefused, UnixSocketRefused],
        },
        100 | 101 | 112 | 113 => vec![HostUnreachable],
        99 => vec![PortsExhausted],
        23 | 24 => vec![ProxyFdsExhausted],
        110 => vec![ConnectTimeout, TcpAcceptQueueFull, SynBacklogFull],
        // nginx says this of a pooled connection, without having called connect().
        104 => vec![KeepaliveRace],
        _ => Vec::new(),
    }
}

fn not_connected(place: Place) -> Vec<Cause> {
    use Cause::*;
    let tcp = [
        ConnectionRefused,
        HostUnreachable,
        ConnectTimeout,
        TcpAcceptQueueFull,
        SynBacklogFull,
        PortsExhausted,
    ];
    let unix = [
        UnixSocketMissing,
        UnixSocketRefused,
        UnixSocketDenied,
        UnixSocketWrongType,
        UnixAcceptQueueFull,
    ];
    let both = [TlsHandshakeFailed, ProtocolMismatch, ProxyFdsExhausted];
    match place {
        Place::Tcp => [&tcp[..], &both].concat(),
        Place::Unix => [&unix[..], &both].concat(),
        Place::Unnamed => [&tcp[..], &unix, &both].concat(),
    }
}

fn reset() -> Vec<Cause> {
    use Cause::*;
    let own = [
        KeepaliveRace,
        UpstreamReset,
        ListenerDied,
        TcpAcceptQueueFull,
        ProtocolMismatch,
        RequestBodyRejected,
        Http2Goaway,
    ];
    [&own[..], &DEATHS].concat()
}

fn read_timed_out() -> Vec<Cause> {
    use Cause::*;
    vec![
        ReadTimeoutNeverAccepted,
        ReadTimeoutNotRead,
        ReadTimeoutNoReply,
        RequestUnacknowledged,
        TcpAcceptQueueFull,
        // All was sent, for all that the proxy knows, when its own kernel had it.
        SendTimeout,
    ]
}

fn send_timed_out() -> Vec<Cause> {
    use Cause::*;
    // In the accept queue, or on a dead path, nobody takes it either.
    vec![SendTimeout, ReadTimeoutNeverAccepted, RequestUnacknowledged]
}

/// Where the statement names the shape of the cause as well.
pub(super) fn variant(said: Said) -> Option<Variant> {
    match said {
        Said::TlsFailed { how } => match how {
            TlsFault::Version => Some(Variant::Version),
            TlsFault::Certificate => Some(Variant::Certificate),
            TlsFault::NotTls => Some(Variant::TlsToHttp),
            TlsFault::PeerClosed | TlsFault::TimedOut | TlsFault::Other => None,
        },
        Said::NotHttp { speaks } => match speaks? {
            Protocol::Tls => Some(Variant::HttpToTls),
            Protocol::Http2 => Some(Variant::Http2ToHttp1),
            Protocol::Other => Some(Variant::NotHttp),
            // FastCGI was spoken to an HTTP server: the list has no name for it.
            Protocol::Http => None,
        },
        Said::ConnectFailed { errno: 104 } => Some(Variant::ResetOnIdle),
        _ => None,
    }
}

/// The facts that would decide, by name.
pub(super) fn deciders(said: Option<Said>) -> &'static [&'static str] {
    const CONNECT: &str = "connect_errors: the connect call's own result";
    const QUEUE: &str = "accept_queue: whether the listener's queue was full";
    const REUSED: &str =
        "connection_reused: whether the connection came from a pool, and when its FIN came";
    const READ: &str = "upstream_read: whether the upstream had read the request";
    const EXIT: &str = "process_exited: whether the upstream's process died, and of what";
    const ACCEPTED: &str = "upstream_accepted: whether the upstream had accepted the connection";
    const ACKNOWLEDGED: &str =
        "request_acknowledged: whether the upstream's kernel took the request";
    const HEAD: &str = "response_received: the first bytes of what the upstream sent";
    const SPEAKS: &str = "upstream_protocol: what the upstream speaks";
    const UPSTREAMS: &str = "proxy_log: why the proxy had no upstream to try";
    match said {
        Some(Said::ConnectFailed { .. } | Said::NotConnected) => &[CONNECT],
        Some(Said::ConnectTimedOut) => &[QUEUE],
        Some(Said::TlsFailed { .. } | Said::NotHttp { .. }) => &[SPEAKS],
        Some(Said::PeerClosed | Said::Reset | Said::ClosedOrReset) => &[READ, REUSED, EXIT],
        Some(Said::SendFailed { .. }) => &[READ, REUSED],
        Some(Said::ReadTimedOut) => &[ACCEPTED, READ, ACKNOWLEDGED],
        Some(Said::SendTimedOut) => &[ACCEPTED, ACKNOWLEDGED],
        Some(Said::TimedOut) => &[QUEUE, ACCEPTED, READ, ACKNOWLEDGED],
        Some(Said::HeadTooBig | Said::HeadInvalid | Said::HeadRefused) => &[HEAD],
        Some(Said::Answered | Said::StreamReset | Said::GoAway) => &[HEAD],
        Some(Said::StreamEnded) => &["response_received: whether RST_STREAM or GOAWAY came"],
        Some(Said::NoLiveUpstreams | Said::NotResolved | Said::QueueTimedOut) => &[UPSTREAMS],
        Some(Said::Limited | Said::Denied | Said::Configured) => {
            &["proxy_configuration: which rule or limit it was"]
        }
        Some(Said::ClientLeft) => &["downstream_state: the close of the client's connection"],
        None => &["proxy_error_log: why the proxy failed the request"],
    }
}

/// The statement in this program's own words.
pub(super) fn words(said: Said) -> String {
    let text = match said {
        Said::ConnectFailed { errno } => return format!("connect failed, {}", text::errno(errno)),
        Said::SendFailed { errno } => {
            return format!("sending the request failed, {}", text::errno(errno));
        }
        Said::NotConnected => "no connection came about",
        Said::ConnectTimedOut => "timed out while connecting",
        Said::TlsFailed { how } => match how {
            TlsFault::Version => "TLS handshake failed: no common version",
            TlsFault::Certificate => "TLS handshake failed: the certificate",
            TlsFault::PeerClosed => "TLS handshake failed: the upstream closed",
            TlsFault::TimedOut => "TLS handshake timed out",
            TlsFault::NotTls => "TLS handshake failed: what came is no TLS",
            TlsFault::Other => "TLS handshake failed",
        },
        Said::PeerClosed => "the upstream closed before a response's head",
        Said::Reset => "the upstream reset before a response's head",
        Said::ClosedOrReset => "the upstream closed or reset before a response's head",
        Said::ReadTimedOut => "timed out while waiting for the response's head",
        Said::SendTimedOut => "timed out while sending the request",
        Said::TimedOut => "timed out",
        Said::HeadTooBig => "the response's head is too big",
        Said::HeadInvalid => "the response's head is invalid",
        Said::NotHttp { .. } => "the response is not HTTP",
        Said::HeadRefused => "the response's head was refused",
        Said::StreamReset => "the upstream reset the request's stream",
        Said::StreamEnded => "the upstream reset the request's stream, or refused it with GOAWAY",
        Said::GoAway => "the upstream ended the HTTP/2 connection",
        Said::Answered => "the upstream's own status was passed on",
        Said::NoLiveUpstreams => "no upstream was available",
        Said::NotResolved => "the upstream's name was not resolved",
        Said::QueueTimedOut => {
            "the request waited in the proxy's queue, or its circuit breaker was open"
        }
        Said::Limited => "a limit of the proxy refused the request",
        Said::Denied => "a rule or a limit of the proxy refused the request",
        Said::Configured => "the configuration makes this response",
        Said::ClientLeft => "the client left first",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_told_apart_and_what_not() {
        let of = |said| admits(said, Some(Software::Nginx), Place::Tcp);
        assert_eq!(
            of(Said::ConnectFailed { errno: 111 }),
            [Cause::ConnectionRefused]
        );
        assert_eq!(of(Said::ConnectFailed { errno: 11 }), []);
        assert_eq!(
            admits(
                Said::ConnectFailed { errno: 11 },
                Some(Software::Nginx),
                Place::Unix
            ),
            [Cause::UnixAcceptQueueFull]
        );
        for both in [
            Cause::KeepaliveRace,
            Cause::WorkerCrashed,
            Cause::UpstreamClosedEarly,
        ] {
            assert!(of(Said::PeerClosed).contains(&both), "{both}");
        }
        assert!(of(Said::ConnectTimedOut).contains(&Cause::TcpAcceptQueueFull));
        assert!(!of(Said::PeerClosed).contains(&Cause::ListenerDied));
    }
}
