//! Caddy, which is Go, with a pool for each upstream. It is not told to check their health: who fails a
//! check is not asked any more.

use super::{Again, Own, PORT, Proxy, Speaks, Target, program, serve};
use crate::matrix::upstreams::TRUSTED;

pub(super) const PROXY: Proxy = Proxy {
    name: "caddy",
    process: "caddy",
    unix: true,
    speaks: &[Speaks::Http, Speaks::Https],
    again: Again::Anything,
    // Its time for a response begins when all of the request is sent.
    times_sending: false,
    logs: &["caddy.log", "caddy-access.log"],
    nameless: &[],
    lacking: || program("caddy"),
    start: |run, ns, wanted| {
        let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
        // Once it has sent a request it sends none again but GETs, if any.
        let again = match wanted.again {
            Again::Never => "",
            Again::Connects => "  lb_retries 2\n  lb_retry_match {\n   method TRACE\n  }\n",
            Again::Anything => "  lb_retries 2\n",
        };
        let mut routes = String::new();
        for route in &wanted.routes {
            if route.own == Some(Own::Answers) {
                routes += &format!("handle {}/* {{\n respond 503\n}}\n", route.folder);
                continue;
            }
            let out = match route.own {
                Some(Own::TakesOut) => "  fail_duration 60s\n  max_fails 1\n",
                _ => "",
            };
            let address = |to: &Target| match to {
                Target::Tcp(address) => format!("{address} "),
                Target::Unix(path) => format!("unix/{} ", path.display()),
            };
            let mut to: String = route.servers().map(address).collect();
            if route.own == Some(Own::LooksUp) {
                to = route.address() + " ";
            }
            let trusted = run.folder.join(TRUSTED);
            let sealed = match route.speaks {
                Speaks::Https => format!("tls_trusted_ca_certs {}", trusted.display()),
                _ => String::new(),
            };
            routes += &format!(
                "handle {}/* {{\n reverse_proxy {to}{{\n  lb_policy round_robin\n{out}{again}  transport http {{\n   \
                 dial_timeout {connect}ms\n   response_header_timeout {patience}ms\n   \
                 keepalive 60s\n   keepalive_idle_conns_per_host 64\n   {sealed}\n  }}\n }}\n}}\n",
                route.folder
            );
        }
        let folder = run.folder.join("caddy");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("Caddyfile");
        let access_log = run.folder.join("caddy-access.log");
        let text = format!(
            "{{\n admin off\n auto_https off\n}}\n\
             http://:{PORT} {{\nbind 127.0.0.1\nlog {{\n output file {}\n}}\n{routes}}}\n",
            access_log.display()
        );
        std::fs::write(&config, text)?;
        let mut command = ns.command("caddy");
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(&config)
            .env("HOME", &folder)
            .env("XDG_DATA_HOME", &folder)
            .env("XDG_CONFIG_HOME", &folder)
            .env("GOMAXPROCS", wanted.workers.to_string());
        Ok(Box::new(serve(run, ns, "caddy", command)?))
    },
};
