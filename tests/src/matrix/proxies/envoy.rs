//! Envoy with static clusters.

use std::path::Path;

use serde_json::{Value, json};

use super::{Again, NAME, Own, PORT, Proxy, Route, Speaks, Target, Wanted, program, serve};
use crate::matrix::upstreams::TRUSTED;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) const PROXY: Proxy = Proxy {
    name: "envoy",
    process: "envoy",
    unix: true,
    speaks: &[Speaks::Http, Speaks::Https],
    again: Again::Anything,
    // Its time for a response begins when it has all of the request.
    times_sending: false,
    logs: &["envoy-access.log"],
    nameless: &[],
    lacking: || program("envoy"),
    start: |run, ns, wanted| {
        let config = run.folder.join("envoy.json");
        let access_log = run.folder.join("envoy-access.log");
        let trusted = run.folder.join(TRUSTED);
        let text = configuration(wanted, &access_log.display().to_string(), &trusted);
        std::fs::write(&config, text.to_string())?;
        let mut command = ns.command("envoy");
        command
            .arg("-c")
            .arg(&config)
            .args(["--disable-hot-restart"]);
        command.args(["--concurrency", &wanted.workers.to_string()]);
        command.args(["--log-level", "warning", "--file-flush-interval-msec", "50"]);
        Ok(Box::new(serve(run, ns, "envoy", command)?))
    },
};

fn configuration(wanted: &Wanted, access_log: &str, trusted: &Path) -> Value {
    let seconds = |time: std::time::Duration| format!("{:.3}s", time.as_secs_f64());
    let name = |number: usize| format!("back{number}");
    let cluster = |(number, route): (usize, &Route)| {
        let endpoint = |to: &Target| {
            let address = match to {
                Target::Tcp(address) => json!({"socket_address": {
                    "address": address.ip().to_string(), "port_value": address.port()}}),
                Target::Unix(path) => json!({"pipe": {"path": path.display().to_string()}}),
            };
            json!({"endpoint": {"address": address}})
        };
        let endpoints: Vec<Value> = route.servers().map(endpoint).collect();
        let mut cluster = json!({
            "name": name(number), "type": "STATIC", "connect_timeout": seconds(wanted.connect),
            "load_assignment": {"cluster_name": name(number), "endpoints": [
                {"lb_endpoints": endpoints}]},
        });
        match route.own {
            // Without panic, in which it asks those that are out.
            Some(Own::TakesOut) => {
                cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": 0}});
                cluster["outlier_detection"] = json!({"consecutive_5xx": 1,
                    "base_ejection_time": "60s", "max_ejection_percent": 100});
            }
            Some(Own::Queues(_)) => {
                cluster["circuit_breakers"] = json!({"thresholds": [
                    {"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}]});
            }
            Some(Own::LooksUp) => return of_names(&name(number), &seconds(wanted.connect)),
            _ => {}
        }
        if route.speaks == Speaks::Https {
            let name = format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext");
            cluster["transport_socket"] = json!({"name": "tls", "typed_config": {"@type": name,
                "common_tls_context": {"validation_context": {
                    "trusted_ca": {"filename": trusted.display().to_string()}}}}});
        }
        if let Some(every) = wanted.checks.map(seconds) {
            // Who fails them all is asked all the same: there is nobody else.
            cluster["health_checks"] = json!([{
                "timeout": "0.5s", "interval": every, "no_traffic_interval": every,
                "unhealthy_interval": every, "unhealthy_threshold": 1_000_000,
                "healthy_threshold": 1, "http_health_check": {"path": "/healthz"}}]);
        }
        cluster
    };
    let again = match wanted.again {
        Again::Never => None,
        Again::Connects => Some("connect-failure"),
        Again::Anything => Some("connect-failure,reset"),
    };
    let route = |(number, route): (usize, &Route)| {
        let matches = json!({"prefix": route.folder});
        if route.own == Some(Own::Answers) {
            return json!({"match": matches, "direct_response": {"status": 503}});
        }
        let mut action = json!({"cluster": name(number), "timeout": seconds(wanted.patience)});
        if let Some(again) = again {
            action["retry_policy"] = json!({"retry_on": again, "num_retries": 2,
                "host_selection_retry_max_attempts": 3, "retry_host_predicate": [{
                    "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                        "@type": format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate")}}]});
        }
        json!({"match": matches, "route": action, "typed_per_filter_config": of_route(route)})
    };
    let numbered = || wanted.routes.iter().enumerate();
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "lab",
        "access_log": [{"name": "file", "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"), "path": access_log}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": numbered().map(route).collect::<Vec<_>>()}]},
        "http_filters": filters(wanted),
    });
    json!({"static_resources": {
        "listeners": [{"name": "lab",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
        "clusters": numbered().map(cluster).collect::<Vec<_>>(),
    }})
}

const LIMIT: &str = "envoy.filters.http.local_ratelimit";
const NAMES: &str = "envoy.filters.http.dynamic_forward_proxy";

/// Those that any route needs, and last the one that asks upstreams.
fn filters(wanted: &Wanted) -> Vec<Value> {
    let has = |own| wanted.routes.iter().any(|route| route.own == Some(own));
    let mut filters = Vec::new();
    if has(Own::Limits) {
        filters.push(json!({"name": LIMIT, "typed_config": {
            "@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": "lab"}}));
    }
    if has(Own::LooksUp) {
        filters.push(json!({"name": NAMES, "typed_config": {
            "@type": format!("{TYPES}.filters.http.dynamic_forward_proxy.v3.FilterConfig"),
            "dns_cache_config": names()}}));
    }
    filters.push(json!({"name": "router", "typed_config": {
        "@type": format!("{TYPES}.filters.http.router.v3.Router")}}));
    filters
}

/// What these filters do with the requests of a route.
fn of_route(route: &Route) -> Value {
    let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    match (route.own, &route.to) {
        (Some(Own::Limits), _) => json!({LIMIT: {
            "@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": "lab", "status": {"code": "ServiceUnavailable"},
            "token_bucket": {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "60s"},
            "filter_enabled": always, "filter_enforced": always}}),
        (Some(Own::LooksUp), Target::Tcp(to)) => json!({NAMES: {
            "@type": format!("{TYPES}.filters.http.dynamic_forward_proxy.v3.PerRouteConfig"),
            "host_rewrite_literal": format!("{NAME}:{}", to.port())}}),
        _ => json!({}),
    }
}

/// A cluster of whatever hosts are asked for by name.
fn of_names(name: &str, connect: &str) -> Value {
    json!({"name": name, "connect_timeout": connect, "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": {
            "@type": format!("{TYPES}.clusters.dynamic_forward_proxy.v3.ClusterConfig"),
            "dns_cache_config": names()}}})
}

fn names() -> Value {
    json!({"name": "lab", "dns_lookup_family": "V4_ONLY", "typed_dns_resolver_config": {
        "name": "envoy.network.dns_resolver.cares", "typed_config": {
            "@type": format!("{TYPES}.network.dns_resolver.cares.v3.CaresDnsResolverConfig"),
            "use_resolvers_as_fallback": false, "resolvers": [{"socket_address": {
                "address": "127.0.0.1", "port_value": 53}}]}}})
}
