//! Advice on pooled connections: the keep-alive race, and paths that went dead.

use super::{Observed, Scene, name, setting};
use crate::cause::Variant;
use crate::diagnose::text::duration;
use crate::settings;
use crate::signal::{Address, Attempt, Process, Software};
use crate::track::host::idle_when_closed;
use crate::verdict::{Advice, Setting};

pub(super) fn race(scene: &Scene<'_>) -> Advice {
    let attempt = scene.known.attempt();
    let pool = scene.known.host().pool(attempt.proxy, &attempt.upstream);
    let median = pool.and_then(|p| p.upstream_closes_after());
    let here = idle_when_closed(attempt);
    let closes = here.or(median.map(|m| m.median)).or(attempt.idle_ns);
    let name_up = upstream_setting(scene.upstream_software());

    let mut text = match (scene.variant(), closes) {
        (Some(Variant::RequestLimit), _) => format!(
            "The upstream closes a connection after {} requests; the proxy sent another one.",
            attempt.requests_before
        ),
        (Some(Variant::Reload), _) => {
            "The upstream was stopped or reloaded and closed its idle connections; the proxy sent a \
             request on one of them."
                .to_owned()
        }
        (_, Some(closes)) => format!(
            "The upstream closes idle connections after {}{}; the proxy had kept this one idle for \
             {} and used it again.",
            duration(closes),
            median.filter(|m| m.n > 1).map_or_else(String::new, |m| format!(
                " (median of {} closes: {})",
                m.n,
                duration(m.median)
            )),
            attempt.idle_ns.map_or_else(|| "a time".to_owned(), duration),
        ),
        (_, None) => "The upstream closed a pooled connection as the proxy used it.".to_owned(),
    };
    if scene.variant() == Some(Variant::HalfClose) {
        text.push_str(
            " It closed one direction only and may have run the request all the same: do not retry.",
        );
    } else {
        text.push_str(
            " Let the upstream keep idle connections longer than the proxy does, or the proxy \
             shorter than the upstream.",
        );
    }

    let mut list = Vec::new();
    if scene.variant() == Some(Variant::RequestLimit) {
        list.extend(request_limit(scene, attempt.requests_before));
    }
    let proxy_keeps = proxy_keeps(scene);
    let suggested = match proxy_keeps {
        Some((seconds, _)) => format!("more than {}, which the proxy keeps", in_seconds(seconds)),
        None => "at least 65 s".to_owned(),
    };
    let hint = if scene.upstream_software() == Software::Node {
        format!("{suggested}; server.headersTimeout above it")
    } else {
        suggested
    };
    let upstream = setting(name(scene.upstream_software()), name_up, hint)
        .observed(
            scene.upstream,
            &["keep-alive", "keepalive", "http-keepalive"],
        )
        .risk("more idle connections at the upstream");
    let upstream = if upstream.observed.is_none() {
        upstream.measured(closes, "wire")
    } else {
        upstream
    };
    list.push(upstream);
    list.push(proxy_pool(scene, closes).instead_of(name_up));
    list.extend(retry(scene).map(|s| s.instead_of(name_up)));
    Advice {
        text,
        settings: list,
    }
}

/// The proxy is the one that closes; who fails is the tier in front.
pub(super) fn race_in_front(attempt: &Attempt, process: Option<&Process>) -> Advice {
    let software = process.map_or(Software::Other, |process| process.software);
    let here = process.map_or("the proxy", |process| process.name.as_str());
    let closes = attempt.peer.as_ref().and_then(|peer| peer.closed.as_ref());
    let idle = closes.zip(attempt.idle_ns).map(|(close, idle)| {
        let since = attempt.began.saturating_sub(close.at);
        idle.saturating_sub(since)
    });
    let front = attempt.local.as_ref().map_or("in front", Address::ip);
    let text = format!(
        "{here} closed this connection of {front} after {} without a request, and one was on its way: the \
         tier in front sends it again, or answers 502 by itself. Let {here} keep idle connections longer \
         than that tier does, or that tier shorter than {here}.",
        idle.map_or_else(|| "a time".to_owned(), duration),
    );
    let name_here = upstream_setting(software);
    let kept = setting(
        name(software),
        name_here,
        "longer than the tier in front keeps idle connections",
    )
    .risk("more idle connections here");
    let less = idle.map_or_else(
        || "less".to_owned(),
        |idle| format!("less than {}", duration(idle)),
    );
    let other = setting("tier in front", "its idle timeout for this proxy", less)
        .instead_of(name_here)
        .risk("more connections are opened; a race stays possible within a round trip");
    Advice {
        text,
        settings: vec![kept.measured(idle, "wire"), other],
    }
}

fn upstream_setting(software: Software) -> &'static str {
    match software {
        Software::Node => "server.keepAliveTimeout",
        Software::Gunicorn => "--keep-alive",
        Software::Uwsgi => "http-keepalive",
        Software::Uvicorn => "--timeout-keep-alive",
        Software::Puma => "persistent_timeout",
        Software::Tomcat => "keepAliveTimeout",
        Software::Apache => "KeepAliveTimeout",
        Software::Nginx => "keepalive_timeout",
        Software::Go => "http.Server.IdleTimeout",
        _ => "idle timeout of kept-alive connections",
    }
}

/// How long the proxy keeps idle connections, in seconds, and where that is known from.
fn proxy_keeps(scene: &Scene<'_>) -> Option<(f64, &'static str)> {
    let configured = scene.nginx_pool("keepalive_timeout");
    if let Some(seconds) = configured.and_then(|(_, value)| settings::seconds(value)) {
        return Some((seconds, "configuration"));
    }
    let attempt = scene.known.attempt();
    let seen = scene
        .known
        .host()
        .pool(attempt.proxy, &attempt.upstream)?
        .proxy_closes_after()?;
    (seen.n >= 3).then(|| (seen.median as f64 / 1e9, "wire"))
}

fn proxy_pool(scene: &Scene<'_>, closes: Option<u64>) -> Setting {
    let less = closes.map_or_else(
        || "less than the upstream keeps them".to_owned(),
        |closes| format!("less than {}", duration(closes)),
    );
    let name = match scene.proxy_software() {
        Software::Nginx => "upstream keepalive_timeout",
        Software::Haproxy => "pool-purge-delay",
        Software::Envoy => "common_http_protocol_options.idle_timeout",
        Software::Apache => "ProxyPass ttl",
        Software::Caddy => "transport http keepalive",
        Software::Varnish => "backend_idle_timeout",
        _ => "idle timeout of the upstream pool",
    };
    let made = setting(&scene.proxy_name(), name, less)
        .risk("more connections are opened; a race stays possible within a round trip");
    match (scene.nginx_pool("keepalive_timeout"), proxy_keeps(scene)) {
        (Some((full_name, value)), _) => made.seen(value, full_name),
        (None, Some((seconds, from))) => made.measured(Some((seconds * 1e9) as u64), from),
        (None, None) => made,
    }
}

/// Trying again is a way out only for requests that may run twice.
fn retry(scene: &Scene<'_>) -> Option<Setting> {
    if scene.variant() == Some(Variant::HalfClose) {
        return None;
    }
    let (name, value) = match scene.proxy_software() {
        Software::Nginx => ("proxy_next_upstream", "error timeout non_idempotent"),
        Software::Haproxy => ("retry-on", "conn-failure empty-response"),
        Software::Envoy => ("retry_policy.retry_on", "reset"),
        Software::Apache => ("proxy-initial-not-pooled", "1"),
        Software::Caddy => ("lb_retries, lb_retry_match", "1, the method"),
        _ => return None,
    };
    let what = scene.method().unwrap_or("request");
    let risk = if scene.proxy_software() == Software::Apache {
        "a new connection for the first request of each client connection".to_owned()
    } else {
        format!(
            "any failure of this kind is tried again: a {what} that an upstream had begun can run twice"
        )
    };
    Some(
        setting(&scene.proxy_name(), name, value)
            .observed(scene.proxy, &[&settings::plain(name)])
            .risk(&risk),
    )
}

fn request_limit(scene: &Scene<'_>, limit: u32) -> Option<Setting> {
    (scene.proxy_software() == Software::Nginx).then(|| {
        let made = setting(
            "nginx",
            "upstream keepalive_requests",
            format!("less than {limit}"),
        );
        match scene.nginx_pool("keepalive_requests") {
            Some((full_name, value)) => made.seen(value, full_name),
            None => made,
        }
    })
}

pub(super) fn dead_path(scene: &Scene<'_>) -> Advice {
    let attempt = scene.known.attempt();
    let idle = attempt.idle_ns.map_or_else(String::new, |idle| {
        format!(", idle for {} before", duration(idle))
    });
    let text = format!(
        "The connection{idle} had become a dead end: the request was sent again and again and never \
         acknowledged. A firewall, NAT or load balancer on the path has forgotten it, or the upstream's \
         host is gone. Close idle connections before the path forgets them, or let keep-alive probes \
         hold it open."
    );
    let keepalive = setting(
        &scene.proxy_name(),
        "proxy_socket_keepalive",
        "on, with net.ipv4.tcp_keepalive_time below the path's timeout",
    )
    .observed(scene.proxy, &["proxy-socket-keepalive"]);
    let pool = proxy_pool(scene, None).instead_of("proxy_socket_keepalive");
    Advice {
        text,
        settings: vec![keepalive, pool],
    }
}

fn in_seconds(seconds: f64) -> String {
    duration((seconds * 1e9) as u64)
}
