//! The closed list of causes and variants: names, meaning, and which variant belongs to which cause.
//!
//! Metric labels, JSON, documentation and reports take causes from here and from nowhere else.

use serde::{Deserialize, Serialize};

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($item:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $type { $(#[serde(rename = $name)] $item),* }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$item),*];

            /// The name in JSON, metrics and documentation.
            pub fn name(self) -> &'static str {
                match self { $($type::$item => $name),* }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// Why an exchange failed.
    Cause {
        KeepaliveRace = "keepalive_race",
        ConnectionRefused = "connection_refused",
        UnixSocketMissing = "unix_socket_missing",
        UnixSocketRefused = "unix_socket_refused",
        UnixSocketDenied = "unix_socket_denied",
        UnixSocketWrongType = "unix_socket_wrong_type",
        UnixAcceptQueueFull = "unix_accept_queue_full",
        TcpAcceptQueueFull = "tcp_accept_queue_full",
        SynBacklogFull = "syn_backlog_full",
        ConnectTimeout = "connect_timeout",
        HostUnreachable = "host_unreachable",
        PortsExhausted = "ports_exhausted",
        ProxyFdsExhausted = "proxy_fds_exhausted",
        WorkerCrashed = "worker_crashed",
        WorkerTimeoutKilled = "worker_timeout_killed",
        WorkerOomKilled = "worker_oom_killed",
        WorkerKilled = "worker_killed",
        UpstreamShutdown = "upstream_shutdown",
        ListenerDied = "listener_died",
        UpstreamClosedEarly = "upstream_closed_early",
        UpstreamReset = "upstream_reset",
        RequestUnacknowledged = "request_unacknowledged",
        ReadTimeoutNeverAccepted = "read_timeout_never_accepted",
        ReadTimeoutNotRead = "read_timeout_not_read",
        ReadTimeoutNoReply = "read_timeout_no_reply",
        SendTimeout = "send_timeout",
        RequestBodyRejected = "request_body_rejected",
        ProtocolMismatch = "protocol_mismatch",
        ResponseHeaderTooBig = "response_header_too_big",
        ResponseInvalid = "response_invalid",
        TlsHandshakeFailed = "tls_handshake_failed",
        NoLiveUpstreams = "no_live_upstreams",
        DnsFailed = "dns_failed",
        ProxyQueueTimeout = "proxy_queue_timeout",
        ProxyLimit = "proxy_limit",
        ProxyConfig = "proxy_config",
        UpstreamAnswered = "upstream_answered",
        Http2Goaway = "http2_goaway",
        Http2StreamReset = "http2_stream_reset",
        DownstreamGaveUp = "downstream_gave_up",
        Unknown = "unknown",
    }
}

names! {
    /// Which shape of its cause a failure had.
    Variant {
        FinInFlight = "fin_in_flight",
        FinAlreadyReceived = "fin_already_received",
        ClosedUnread = "closed_unread",
        HalfClose = "half_close",
        ResetOnIdle = "reset_on_idle",
        RequestLimit = "request_limit",
        Reload = "reload",
        NoListener = "no_listener",
        Starting = "starting",
        RejectedByFirewall = "rejected_by_firewall",
        SynDropped = "syn_dropped",
        AckDropped = "ack_dropped",
        ResetOnOverflow = "reset_on_overflow",
        DroppedByFilter = "dropped_by_filter",
        ConntrackFull = "conntrack_full",
        UnknownPath = "unknown_path",
        Signal = "signal",
        Exit = "exit",
        NoBytes = "no_bytes",
        PartialHead = "partial_head",
        UnreadData = "unread_data",
        Abort = "abort",
        Middlebox = "middlebox",
        Running = "running",
        Runnable = "runnable",
        CpuThrottled = "cpu_throttled",
        WaitingOnSocket = "waiting_on_socket",
        WaitingOnLock = "waiting_on_lock",
        Sleeping = "sleeping",
        BlockedIo = "blocked_io",
        Stopped = "stopped",
        Frozen = "frozen",
        HttpToUwsgi = "http_to_uwsgi",
        HttpToFastcgi = "http_to_fastcgi",
        HttpToTls = "http_to_tls",
        TlsToHttp = "tls_to_http",
        Http2ToHttp1 = "http2_to_http1",
        NotHttp = "not_http",
        Version = "version",
        Certificate = "certificate",
        PeerClosed = "peer_closed",
        Timeout = "timeout",
    }
}

impl Cause {
    /// What happened, as a sentence.
    pub fn sentence(self) -> String {
        let mut chars = self.meaning().chars();
        let first = chars.next().map(char::to_uppercase);
        first
            .into_iter()
            .flatten()
            .chain(chars)
            .chain(['.'])
            .collect()
    }

    /// What happened, in one phrase.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::KeepaliveRace => {
                "the upstream closed a pooled connection while, or just before, the proxy wrote a request to it; the request was never received by the application"
            }
            Cause::ConnectionRefused => {
                "TCP connect answered by a reset or an ICMP port unreachable"
            }
            Cause::UnixSocketMissing => "connect: ENOENT",
            Cause::UnixSocketRefused => "connect: ECONNREFUSED, the path has no listener",
            Cause::UnixSocketDenied => "connect: EACCES",
            Cause::UnixSocketWrongType => "connect: EPROTOTYPE",
            Cause::UnixAcceptQueueFull => "connect: EAGAIN, the listener's queue was at its limit",
            Cause::TcpAcceptQueueFull => {
                "the listener's accept queue was full: SYN dropped, final ACK dropped, or reset"
            }
            Cause::SynBacklogFull => "the listener's SYN queue was full and cookies off",
            Cause::ConnectTimeout => "SYNs unanswered, no sign of a listener's queue",
            Cause::HostUnreachable => "EHOSTUNREACH or ENETUNREACH",
            Cause::PortsExhausted => "EADDRNOTAVAIL on the proxy",
            Cause::ProxyFdsExhausted => "EMFILE or ENFILE on the proxy",
            Cause::WorkerCrashed => {
                "the process that had read the request died of its own signal or exit"
            }
            Cause::WorkerTimeoutKilled => {
                "its supervisor killed it for taking too long (gunicorn timeout, uWSGI harakiri, php-fpm terminate)"
            }
            Cause::WorkerOomKilled => "the kernel killed it for memory, host or cgroup",
            Cause::WorkerKilled => "another process killed it",
            Cause::UpstreamShutdown => {
                "the upstream stopped or reloaded with the request in flight"
            }
            Cause::ListenerDied => "the listener closed with the connection still unaccepted",
            Cause::UpstreamClosedEarly => {
                "the request was received, the process lives, the connection was closed without a complete response head"
            }
            Cause::UpstreamReset => {
                "the request was received, the process lives, the connection was reset without a complete response head"
            }
            Cause::RequestUnacknowledged => {
                "an established connection went dead: the request was retransmitted and never acknowledged"
            }
            Cause::ReadTimeoutNeverAccepted => {
                "connected, waited in the accept queue until the proxy gave up"
            }
            Cause::ReadTimeoutNotRead => "accepted, the request was never read",
            Cause::ReadTimeoutNoReply => {
                "read, no response in time; the evidence names what the thread waited in and, for a socket, its peer"
            }
            Cause::SendTimeout => "the upstream did not take the request: zero window",
            Cause::RequestBodyRejected => {
                "the upstream answered or closed before reading the whole body"
            }
            Cause::ProtocolMismatch => {
                "the two sides speak different protocols; proven when the listener's process, command line, configuration, log or bytes say which it speaks, else likely"
            }
            Cause::ResponseHeaderTooBig => "more head than the proxy's buffer",
            Cause::ResponseInvalid => "HTTP, but malformed or ambiguous",
            Cause::TlsHandshakeFailed => "the TLS handshake with the upstream failed",
            Cause::NoLiveUpstreams => {
                "the proxy had taken every upstream out of rotation; the verdict names the causes that led there"
            }
            Cause::DnsFailed => "no upstream address",
            Cause::ProxyQueueTimeout => {
                "waited in the proxy's own queue, or its circuit breaker was open"
            }
            Cause::ProxyLimit => "the proxy's rate or connection limit",
            Cause::ProxyConfig => "the configuration says so: return 502",
            Cause::UpstreamAnswered => "the upstream itself sent this status; look there",
            Cause::Http2Goaway | Cause::Http2StreamReset => {
                "an HTTP/2 upstream closed the connection or the stream"
            }
            Cause::DownstreamGaveUp => {
                "near miss only: the client, or the tier in front, closed while an attempt was open"
            }
            Cause::Unknown => "the facts do not name a cause; the verdict says which are missing",
        }
    }

    /// The variants this cause can have; empty where it has none.
    pub fn variants(self) -> &'static [Variant] {
        match self {
            Cause::KeepaliveRace => &[
                Variant::FinInFlight,
                Variant::FinAlreadyReceived,
                Variant::ClosedUnread,
                Variant::HalfClose,
                Variant::ResetOnIdle,
                Variant::RequestLimit,
                Variant::Reload,
            ],
            Cause::ConnectionRefused => &[
                Variant::NoListener,
                Variant::Starting,
                Variant::RejectedByFirewall,
            ],
            Cause::UnixSocketMissing => &[Variant::Starting],
            Cause::TcpAcceptQueueFull => &[
                Variant::SynDropped,
                Variant::AckDropped,
                Variant::ResetOnOverflow,
            ],
            Cause::ConnectTimeout => &[
                Variant::DroppedByFilter,
                Variant::ConntrackFull,
                Variant::UnknownPath,
            ],
            Cause::WorkerCrashed => &[Variant::Signal, Variant::Exit],
            Cause::UpstreamClosedEarly => &[Variant::NoBytes, Variant::PartialHead],
            Cause::UpstreamReset => &[Variant::UnreadData, Variant::Abort, Variant::Middlebox],
            Cause::ReadTimeoutNoReply => &[
                Variant::Running,
                Variant::Runnable,
                Variant::CpuThrottled,
                Variant::WaitingOnSocket,
                Variant::WaitingOnLock,
                Variant::Sleeping,
                Variant::BlockedIo,
                Variant::Stopped,
                Variant::Frozen,
            ],
            Cause::ProtocolMismatch => &[
                Variant::HttpToUwsgi,
                Variant::HttpToFastcgi,
                Variant::HttpToTls,
                Variant::TlsToHttp,
                Variant::Http2ToHttp1,
                Variant::NotHttp,
            ],
            Cause::TlsHandshakeFailed => &[
                Variant::Version,
                Variant::Certificate,
                Variant::PeerClosed,
                Variant::Timeout,
            ],
            _ => &[],
        }
    }
}
