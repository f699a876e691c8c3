//! The causes of the matrix, one file each: how the fault is injected, and so what is true.

mod busy;
mod connect_timeout;
mod connection_refused;
mod dns_failed;
mod host_unreachable;
mod keepalive_race;
mod listener_died;
mod no_live_upstreams;
mod ports_exhausted;
mod protocol_mismatch;
mod proxy_config;
mod proxy_fds_exhausted;
mod proxy_limit;
mod proxy_queue_timeout;
mod read_timeout_never_accepted;
mod read_timeout_no_reply;
mod read_timeout_not_read;
mod request_body_rejected;
mod request_unacknowledged;
mod response_header_too_big;
mod response_invalid;
mod send_timeout;
mod syn_backlog_full;
mod tcp_accept_queue_full;
mod tls_handshake_failed;
mod unix_accept_queue_full;
mod unix_socket_denied;
mod unix_socket_missing;
mod unix_socket_refused;
mod unix_socket_wrong_type;
mod upstream_answered;
mod upstream_closed_early;
mod upstream_reset;
mod upstream_shutdown;
mod worker_crashed;
mod worker_killed;
mod worker_oom_killed;
mod worker_timeout_killed;

use anyhow::Result;

use super::stage::Stage;
use super::upstreams::{Act, Upstream};

pub(in crate::matrix) const ALL: &[Cause] = &[
    keepalive_race::CAUSE,
    connection_refused::CAUSE,
    connect_timeout::CAUSE,
    host_unreachable::CAUSE,
    ports_exhausted::CAUSE,
    proxy_fds_exhausted::CAUSE,
    tcp_accept_queue_full::CAUSE,
    syn_backlog_full::CAUSE,
    unix_accept_queue_full::CAUSE,
    unix_socket_missing::CAUSE,
    unix_socket_refused::CAUSE,
    unix_socket_denied::CAUSE,
    unix_socket_wrong_type::CAUSE,
    upstream_closed_early::CAUSE,
    upstream_reset::CAUSE,
    worker_crashed::CAUSE,
    worker_killed::CAUSE,
    worker_oom_killed::CAUSE,
    worker_timeout_killed::CAUSE,
    upstream_shutdown::CAUSE,
    listener_died::CAUSE,
    read_timeout_never_accepted::CAUSE,
    read_timeout_not_read::CAUSE,
    read_timeout_no_reply::CAUSE,
    request_unacknowledged::CAUSE,
    send_timeout::CAUSE,
    request_body_rejected::CAUSE,
    protocol_mismatch::CAUSE,
    tls_handshake_failed::CAUSE,
    response_header_too_big::CAUSE,
    response_invalid::CAUSE,
    upstream_answered::CAUSE,
    no_live_upstreams::CAUSE,
    dns_failed::CAUSE,
    proxy_queue_timeout::CAUSE,
    proxy_limit::CAUSE,
    proxy_config::CAUSE,
];

pub(in crate::matrix) struct Cause {
    /// As in the closed list.
    pub(in crate::matrix) name: &'static str,
    pub(in crate::matrix) by: By,
    /// Whether the proxy has to call a Unix socket.
    pub(in crate::matrix) unix: bool,
    /// Proxies that do not fail so.
    pub(in crate::matrix) spares: &'static [&'static str],
    pub(in crate::matrix) inject: fn(&mut Stage) -> Result<()>,
}

/// Who makes the fault.
pub(in crate::matrix) enum By {
    /// The cause itself: there is no server, or one that only the cause knows.
    Itself,
    /// Any upstream that can be asked all of this.
    Upstreams(&'static [Act]),
}

impl Cause {
    /// The upstreams that it can be made with.
    pub(in crate::matrix) fn upstreams(&self, all: &[&'static Upstream]) -> Vec<&'static Upstream> {
        let By::Upstreams(acts) = self.by else {
            return Vec::new();
        };
        let can = |upstream: &&&Upstream| acts.iter().all(|act| (upstream.ask)(*act).is_some());
        all.iter().filter(can).copied().collect()
    }

    pub(in crate::matrix) fn needs_upstream(&self) -> bool {
        matches!(self.by, By::Upstreams(_))
    }
}
