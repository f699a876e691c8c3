//! nginx with a pool for each upstream; what it may retry by itself, it does.

use super::{PORT, Proxy, program};
use crate::software::Nginx;

pub(super) const PROXY: Proxy = Proxy {
    name: "nginx",
    process: "nginx",
    unix: true,
    logs: &["nginx-error.log", "access.log"],
    lacking: || program("nginx"),
    start: |run, ns, wanted| {
        let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
        let mut http = String::new();
        let mut locations = String::new();
        for (number, route) in wanted.routes.iter().enumerate() {
            let (folder, to) = (route.folder, &route.to);
            http +=
                &format!("upstream back{number} {{ server {to} max_fails=0; keepalive 64; }}\n");
            locations += &format!("location {folder} {{ proxy_pass http://back{number}; }}\n");
        }
        http += &format!(
            "client_max_body_size 64m;
             server {{ listen 127.0.0.1:{PORT} backlog=1024;
               access_log {} combined;
               proxy_connect_timeout {connect}ms; proxy_read_timeout {patience}ms;
               proxy_send_timeout {patience}ms;\n{locations}}}",
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
