//! HAProxy, sharing pooled connections between clients.

use std::any::Any;

use anyhow::Result;

use super::{Again, PORT, Proxy, Speaks, Target, Wanted, program, serve};
use crate::netns::NetNs;
use crate::run::Run;

pub(super) const PROXY: Proxy = Proxy {
    name: "haproxy",
    process: "haproxy",
    unix: true,
    speaks: &[Speaks::Http],
    again: Again::Anything,
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
    for (number, route) in wanted.routes.iter().enumerate() {
        let folder = route.folder;
        text += &format!("  use_backend back{number} if {{ path_beg {folder} }}\n");
    }
    for (number, route) in wanted.routes.iter().enumerate() {
        text += &format!("backend back{number}\n");
        for (nth, to) in route.servers().enumerate() {
            let to = match to {
                Target::Tcp(address) => address.to_string(),
                Target::Unix(path) => format!("unix@{}", path.display()),
            };
            text += &format!("  server inner{nth} {to}\n");
            if let Some(every) = wanted.checks {
                // It asks none that has failed a check, so those checked are others' twins.
                text += &format!(
                    "  server twin{nth} {to} weight 0 check inter {}ms\n",
                    every.as_millis()
                );
            }
        }
    }
    let config = run.folder.join("haproxy.cfg");
    std::fs::write(&config, text)?;
    let mut command = ns.command(program);
    command.arg("-db").arg("-f").arg(&config);
    Ok(Box::new(serve(run, ns, "haproxy", command)?))
}
