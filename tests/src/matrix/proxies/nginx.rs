//! nginx with a pool for each upstream; what it may retry by itself, it does. It checks nobody's health.

use super::{Again, PORT, Proxy, program};
use crate::software::Nginx;

pub(super) const PROXY: Proxy = Proxy {
    name: "nginx",
    process: "nginx",
    unix: true,
    again: Again::Anything,
    logs: &["nginx-error.log", "access.log"],
    lacking: || program("nginx"),
    start: |run, ns, wanted| {
        let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
        let mut http = String::new();
        let mut locations = String::new();
        for (number, route) in wanted.routes.iter().enumerate() {
            let folder = route.folder;
            let server = |to| format!("server {to} max_fails=0; ");
            let mut servers: String = route.servers().map(server).collect();
            if wanted.again == Again::Anything && route.or.is_none() {
                // It asks no server twice, but knows it by two lines as two.
                servers = servers.repeat(2);
            }
            http += &format!("upstream back{number} {{ {servers}keepalive 64; }}\n");
            locations += &format!("location {folder} {{ proxy_pass http://back{number}; }}\n");
        }
        let again = match wanted.again {
            Again::Anything => "error timeout invalid_header non_idempotent",
            _ => "error timeout",
        };
        http += &format!(
            "client_max_body_size 64m;
             server {{ listen 127.0.0.1:{PORT} backlog=1024;
               access_log {} combined;
               proxy_connect_timeout {connect}ms; proxy_read_timeout {patience}ms;
               proxy_send_timeout {patience}ms; proxy_next_upstream {again};\n{locations}}}",
            run.folder.join("access.log").display()
        );
        Ok(Box::new(Nginx::start(
            run,
            ns,
            wanted.workers,
            PORT,
            &http,
        )?))
    },
};
