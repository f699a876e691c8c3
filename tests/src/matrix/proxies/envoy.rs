//! Envoy with static clusters and no retries.

use serde_json::{Value, json};

use super::{PORT, Proxy, Route, Target, Wanted, program, serve};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) const PROXY: Proxy = Proxy {
    name: "envoy",
    process: "envoy",
    unix: true,
    logs: &["envoy-access.log"],
    lacking: || program("envoy"),
    start: |run, ns, wanted| {
        let config = run.folder.join("envoy.json");
        let access_log = run.folder.join("envoy-access.log");
        let text = configuration(wanted, &access_log.display().to_string());
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

fn configuration(wanted: &Wanted, access_log: &str) -> Value {
    let seconds = |time: std::time::Duration| format!("{:.3}s", time.as_secs_f64());
    let name = |number: usize| format!("back{number}");
    let cluster = |(number, route): (usize, &Route)| {
        let address = match &route.to {
            Target::Tcp(address) => json!({"socket_address": {
                "address": address.ip().to_string(), "port_value": address.port()}}),
            Target::Unix(path) => json!({"pipe": {"path": path.display().to_string()}}),
        };
        json!({
            "name": name(number), "type": "STATIC", "connect_timeout": seconds(wanted.connect),
            "load_assignment": {"cluster_name": name(number), "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        })
    };
    let route = |(number, route): (usize, &Route)| {
        json!({
            "match": {"prefix": route.folder},
            "route": {"cluster": name(number), "timeout": seconds(wanted.patience)},
        })
    };
    let numbered = || wanted.routes.iter().enumerate();
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "lab",
        "access_log": [{"name": "file", "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"), "path": access_log}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": numbered().map(route).collect::<Vec<_>>()}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
    });
    json!({"static_resources": {
        "listeners": [{"name": "lab",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
        "clusters": numbered().map(cluster).collect::<Vec<_>>(),
    }})
}
