//! Advice on connects that failed, and on what upstream and proxy say to each other.

use super::timers::capital;
use super::{Observed, Scene, name, setting};
use crate::cause::{Cause, Variant};
use crate::diagnose::text::{clean, duration};
use crate::settings;
use crate::signal::Software;
use crate::verdict::{Advice, Setting};

pub(super) const UPSTREAM_ANSWERED: &str =
    "The upstream itself answered with this status; the proxy only passed it on. Look there.";

pub(super) const NO_DESCRIPTOR: &str =
    "The proxy has no file descriptor left; a proxied request needs two.";

/// Which upstream it was is not known; the evidence names those in question.
pub(super) const SOME_REFUSED: &str = "Nobody listens on one of these upstreams, or a firewall rejects: start it, or correct the address in the proxy.";
pub(super) const SOME_UNREACHABLE: &str =
    "There is no way to one of these upstreams: its host is down, or a route is missing.";
pub(super) const SOME_UNANSWERED: &str = "No answer to a connect to one of these upstreams: look at firewalls, on this host as well, routes and \
     whether the upstreams' hosts are up.";

pub(super) fn other(scene: &Scene<'_>) -> Advice {
    let address = clean(&scene.upstream_address().0);
    let waited = duration(
        scene
            .known
            .tried
            .at
            .saturating_sub(scene.known.attempt().began),
    );
    let who = scene.upstream_name();
    let (text, settings) = match scene.diagnosis.cause {
        Cause::ConnectionRefused | Cause::UnixSocketMissing
            if scene.variant() == Some(Variant::Starting) =>
        {
            (
                format!(
                    "The server for {address} runs but does not listen yet: it is starting. Send it \
                     traffic only when it is ready: listen before loading, or a readiness check."
                ),
                Vec::new(),
            )
        }
        Cause::ConnectionRefused => (
            match scene.variant() {
                Some(Variant::RejectedByFirewall) => format!(
                    "{address} has a listener on this host, and the connect was refused all the same: a \
                     firewall rule rejects it (nft, iptables -j REJECT)."
                ),
                _ => format!(
                    "Nobody listens on {address}, or a firewall rejects: start the upstream, or correct \
                     the address in the proxy."
                ),
            },
            Vec::new(),
        ),
        Cause::UnixSocketMissing => (
            format!(
                "There is no file at {address}: the upstream is not running, the path is another one, or \
                 the proxy sees another /tmp (systemd's PrivateTmp, a container)."
            ),
            Vec::new(),
        ),
        Cause::UnixSocketRefused => (
            format!(
                "{address} is there, and nobody listens on it: left behind by a server that ended. \
                 Start the upstream; remove the file first if it does not do so itself."
            ),
            Vec::new(),
        ),
        Cause::UnixSocketDenied => (denied(scene, &address), socket_mode(scene)),
        Cause::UnixSocketWrongType => (
            format!(
                "{address} is a socket of another kind (datagram, not stream): correct the path."
            ),
            Vec::new(),
        ),
        Cause::ConnectTimeout => (
            format!(
                "No answer to the connect within {waited}: {}.",
                match (scene.variant(), &scene.known.attempt().queue) {
                    (Some(Variant::DroppedByFilter), _) =>
                        "a filter rule on this host dropped its packets (nft list ruleset, iptables -S)",
                    (_, Some(_)) =>
                        "the listener on this host had room and dropped nothing, so something before it did",
                    (_, None) =>
                        "look at firewalls, security groups, routes and whether the upstream's host is up",
                }
            ),
            vec![connect_timeout(scene)],
        ),
        Cause::HostUnreachable => (
            format!("There is no way to {address}: its host is down, or a route is missing."),
            Vec::new(),
        ),
        Cause::PortsExhausted => (
            format!(
                "The proxy has no local port left for {address}: too many short connections. Keep \
                 connections to the upstream, so that fewer are opened."
            ),
            ports(scene),
        ),
        Cause::ProxyFdsExhausted => (NO_DESCRIPTOR.to_owned(), descriptors(scene)),
        Cause::ProtocolMismatch => protocol(scene, &address),
        Cause::UpstreamAnswered => (UPSTREAM_ANSWERED.to_owned(), Vec::new()),
        Cause::ResponseHeaderTooBig => (
            format!(
                "The response's head from {who} is larger than the proxy's buffer (large cookies?)."
            ),
            header_buffer(scene),
        ),
        Cause::ResponseInvalid => (
            format!(
                "{} answered, and the proxy did not accept the head: its error log says what is wrong with it.",
                capital(who)
            ),
            Vec::new(),
        ),
        Cause::RequestBodyRejected => (
            format!(
                "{} closed before it had read the whole request body, so its own answer (413, 401?) was \
                 lost. It should read or drain the body before it closes, or allow larger ones.",
                capital(who)
            ),
            body_settings(scene),
        ),
        Cause::UpstreamClosedEarly => (
            format!(
                "{} had the request, lives, and closed the connection without a complete answer: look for \
                 an exception or a limit in its log at this moment.",
                capital(who)
            ),
            Vec::new(),
        ),
        Cause::UpstreamReset => (
            match scene.variant() {
                Some(Variant::UnreadData) => format!(
                    "{} closed with a part of the request unread, so that its kernel sent a reset: it did \
                     not read the body.",
                    capital(who)
                ),
                Some(Variant::Middlebox) => format!(
                    "The connection was reset, and not by {who}: a firewall, load balancer or proxy \
                     between has done so."
                ),
                _ => format!(
                    "{} reset the connection while it had the request.",
                    capital(who)
                ),
            },
            Vec::new(),
        ),
        cause => (
            format!("{}: {}.", cause.name(), cause.meaning()),
            Vec::new(),
        ),
    };
    Advice { text, settings }
}

fn denied(scene: &Scene<'_>, address: &str) -> String {
    format!(
        "{} may not connect to {address}: its user needs write permission on the socket and the right to \
         enter every folder above it; SELinux or AppArmor may refuse as well.",
        capital(&scene.proxy_name())
    )
}

fn socket_mode(scene: &Scene<'_>) -> Vec<Setting> {
    match scene.upstream_software() {
        Software::Gunicorn => vec![setting(
            "gunicorn",
            "--umask",
            "007, with the proxy's user in its group",
        )],
        Software::Uwsgi => vec![setting(
            "uwsgi",
            "chmod-socket",
            "660, with the proxy's user in its group",
        )],
        _ => Vec::new(),
    }
}

fn connect_timeout(scene: &Scene<'_>) -> Setting {
    let name = match scene.proxy_software() {
        Software::Nginx => "proxy_connect_timeout",
        Software::Haproxy => "timeout connect",
        Software::Envoy | Software::Varnish => "connect_timeout",
        _ => "connect timeout",
    };
    let waited = scene
        .known
        .tried
        .at
        .saturating_sub(scene.known.attempt().began);
    let made = setting(
        &scene.proxy_name(),
        name,
        "a few seconds: more does not help",
    )
    .observed(scene.proxy, &[&settings::plain(name)]);
    if made.observed_seconds.is_none() {
        made.measured(Some(waited), scene.measured_by())
    } else {
        made
    }
}

fn ports(scene: &Scene<'_>) -> Vec<Setting> {
    let first = match scene.nginx_pool("keepalive") {
        Some((full_name, value)) => {
            setting("nginx", "upstream keepalive", "as many as are open at once")
                .seen(value, full_name)
        }
        None => setting(
            &scene.proxy_name(),
            "upstream keepalive",
            "on; with nginx also proxy_http_version 1.1 and an empty Connection header",
        ),
    };
    vec![
        first,
        setting("kernel", "net.ipv4.ip_local_port_range", "1024 65535")
            .instead_of("upstream keepalive"),
    ]
}

fn descriptors(scene: &Scene<'_>) -> Vec<Setting> {
    if scene.proxy_software() != Software::Nginx {
        return vec![setting(&scene.proxy_name(), "limit of open files", "more")];
    }
    vec![
        setting("nginx", "worker_rlimit_nofile", "twice worker_connections")
            .observed(scene.proxy, &["worker-rlimit-nofile"]),
        setting(
            "nginx",
            "worker_connections",
            "two for each request at once",
        )
        .observed(scene.proxy, &["worker-connections"]),
    ]
}

fn header_buffer(scene: &Scene<'_>) -> Vec<Setting> {
    let name = match scene.proxy_software() {
        Software::Nginx => "proxy_buffer_size",
        Software::Haproxy => "tune.bufsize",
        Software::Apache => "ProxyPass responsefieldsize",
        Software::Varnish => "http_resp_size",
        _ => return Vec::new(),
    };
    vec![
        setting(&scene.proxy_name(), name, "larger than the largest head")
            .observed(scene.proxy, &[&settings::plain(name)])
            .risk("memory of each connection"),
    ]
}

fn body_settings(scene: &Scene<'_>) -> Vec<Setting> {
    match scene.proxy_software() {
        Software::Nginx => vec![setting(
            "nginx",
            "client_max_body_size",
            "the upstream's limit: nginx then answers 413 itself",
        )],
        _ => Vec::new(),
    }
}

fn protocol(scene: &Scene<'_>, address: &str) -> (String, Vec<Setting>) {
    let nginx = scene.proxy_software() == Software::Nginx;
    let proxy = scene.proxy_name();
    match scene.variant() {
        Some(Variant::HttpToUwsgi) => (
            format!(
                "{address} speaks the uwsgi protocol, and {proxy} sends it HTTP: every request fails. \
                 Use uwsgi_pass, or let uWSGI speak HTTP there."
            ),
            vec![
                setting(
                    &proxy,
                    if nginx {
                        "uwsgi_pass"
                    } else {
                        "uwsgi protocol"
                    },
                    format!("{address}, instead of proxy_pass"),
                ),
                setting(
                    "uwsgi",
                    "http-socket",
                    "the same address, instead of socket",
                )
                .observed(scene.upstream, &["socket", "uwsgi-socket"])
                .instead_of("uwsgi_pass")
                .risk("HTTP is parsed in the worker"),
            ],
        ),
        Some(Variant::HttpToFastcgi) => (
            format!("{address} speaks FastCGI, and {proxy} sends it HTTP: every request fails."),
            vec![setting(
                &proxy,
                "fastcgi_pass",
                format!("{address}, instead of proxy_pass"),
            )],
        ),
        Some(Variant::HttpToTls) => (
            format!("{address} expects TLS, and {proxy} sends plain HTTP."),
            vec![setting(&proxy, "proxy_pass", "https://")],
        ),
        Some(Variant::TlsToHttp) => (
            format!("{address} speaks plain HTTP, and {proxy} begins with TLS."),
            vec![setting(&proxy, "proxy_pass", "http://")],
        ),
        Some(Variant::Http2ToHttp1) => (
            format!("One side of {address} speaks HTTP/2, the other HTTP/1."),
            vec![setting(
                &proxy,
                if nginx {
                    "grpc_pass"
                } else {
                    "upstream protocol"
                },
                "the upstream's protocol",
            )],
        ),
        _ => (
            format!(
                "{address} ({}) does not speak the protocol that {proxy} uses: look for a wrong port.",
                name(scene.upstream_software())
            ),
            Vec::new(),
        ),
    }
}
