//! HAProxy, sharing pooled connections between clients, without retries.

use super::{PORT, Proxy, Target, program, serve};

pub(super) const PROXY: Proxy = Proxy {
    name: "haproxy",
    process: "haproxy",
    unix: true,
    logs: &["haproxy.log"],
    lacking: || program("haproxy"),
    start: |run, ns, wanted| {
        let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
        let mut text = format!(
            "global
  nbthread {}
  log stdout format raw daemon
defaults
  mode http
  log global
  option httplog
  retries 0
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
            let to = match &route.to {
                Target::Tcp(address) => address.to_string(),
                Target::Unix(path) => format!("unix@{}", path.display()),
            };
            text += &format!("backend back{number}\n  server inner {to}\n");
        }
        let config = run.folder.join("haproxy.cfg");
        std::fs::write(&config, text)?;
        let mut command = ns.command("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        Ok(Box::new(serve(run, ns, "haproxy", command)?))
    },
};
