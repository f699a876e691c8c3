//! HAProxy, sharing pooled connections between clients.

use std::any::Any;

use anyhow::Result;

use super::{Again, NAME, Own, PORT, Proxy, Route, Speaks, Target, Wanted, program, serve};
use crate::matrix::upstreams::TRUSTED;
use crate::netns::NetNs;
use crate::run::Run;

pub(super) const PROXY: Proxy = Proxy {
    name: "haproxy",
    process: "haproxy",
    unix: true,
    speaks: &[Speaks::Http, Speaks::Https],
    again: Again::Anything,
    times_sending: true,
    logs: &["haproxy.log"],
    nameless: &[],
    lacking: || program("haproxy"),
    start: |run, ns, wanted| start(run, ns, wanted, "haproxy"),
};

/// The program, of whatever version.
pub(super) fn start(
    run: &Run,
    ns: &NetNs,
    wanted: &Wanted,
    program: &str,
) -> Result<Box<dyn Any + Send + Sync>> {
    let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
    let again = match wanted.again {
        Again::Never => "retries 0",
        Again::Connects => "retries 2\n  option redispatch 1",
        Again::Anything => {
            "retries 2\n  option redispatch 1\n  retry-on conn-failure empty-response junk-response"
        }
    };
    let mut text = format!(
        "global
  nbthread {}
  log stdout format raw daemon
defaults
  mode http
  log global
  option httplog
  {again}
  http-reuse always
  timeout connect {connect}ms
  timeout client 60s
  timeout server {patience}ms
  default-server pool-purge-delay 60s pool-low-conn 64
frontend front
  bind 127.0.0.1:{PORT}
",
        wanted.workers
    );
    text.extend(wanted.routes.iter().map(before_backends));
    for (number, route) in wanted.routes.iter().enumerate() {
        let folder = route.folder;
        text += &format!("  use_backend back{number} if {{ path_beg {folder} }}\n");
    }
    for (number, route) in wanted.routes.iter().enumerate() {
        text += &format!("backend back{number}\n");
        if let Some(Own::Queues(wait)) = route.own {
            text += &format!("  timeout queue {}ms\n", wait.as_millis());
        }
        let trusted = run.folder.join(TRUSTED);
        let sealed = match route.speaks {
            Speaks::Https => format!("ssl verify required ca-file {}", trusted.display()),
            _ => String::new(),
        };
        for (nth, to) in route.servers().enumerate() {
            let to = match to {
                Target::Tcp(address) => address.to_string(),
                Target::Unix(path) => format!("unix@{}", path.display()),
            };
            text += &format!("  server inner{nth} {} {sealed}\n", server(route, &to));
            if let Some(every) = wanted.checks {
                // It asks none that has failed a check, so those checked are others' twins.
                text += &format!(
                    "  server twin{nth} {to} {sealed} weight 0 check inter {}ms\n",
                    every.as_millis()
                );
            }
        }
    }
    if wanted.routes.iter().any(|r| r.own == Some(Own::LooksUp)) {
        text += RESOLVERS;
    }
    let config = run.folder.join("haproxy.cfg");
    std::fs::write(&config, text)?;
    let mut command = ns.command(program);
    command.arg("-db").arg("-f").arg(&config);
    Ok(Box::new(serve(run, ns, "haproxy", command)?))
}

/// Forgets at once what it is not told any more.
const RESOLVERS: &str = "resolvers names
  nameserver lab 127.0.0.1:53
  resolve_retries 1
  timeout resolve 50ms
  timeout retry 50ms
  hold valid 50ms
  hold obsolete 0s
  hold nx 0s
  hold other 0s
  hold refused 0s
  hold timeout 0s
";

/// What the frontend decides by itself.
fn before_backends(route: &Route) -> String {
    let of = format!("{{ path_beg {} }}", route.folder);
    match route.own {
        Some(Own::Answers) => format!("  http-request return status 503 if {of}\n"),
        Some(Own::Limits) => format!(
            "  stick-table type ip size 1k expire 60s store http_req_rate(60s)
  http-request track-sc0 src if {of}
  http-request deny deny_status 503 if {of} {{ sc_http_req_rate(0) gt 2 }}\n"
        ),
        _ => String::new(),
    }
}

/// Its address, and how it is asked.
fn server(route: &Route, to: &str) -> String {
    match (route.own, &route.to) {
        // Its first check takes it out, and the next one is far away.
        (Some(Own::TakesOut), _) => format!("{to} check inter 60s fall 1"),
        (Some(Own::Queues(_)), _) => format!("{to} maxconn 1"),
        (Some(Own::LooksUp), Target::Tcp(to)) => format!(
            "{NAME}:{} resolvers names resolve-prefer ipv4 init-addr libc",
            to.port()
        ),
        _ => to.to_owned(),
    }
}
