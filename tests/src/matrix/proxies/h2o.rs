//! h2o: threads with clients and pools of their own. It tries nothing again and checks nobody's health.

use super::{Again, Own, PORT, Proxy, Speaks, Target, program, serve};
use crate::matrix::upstreams::TRUSTED;

/// What why502 reads of it (docs/logs.md).
const FORMAT: &str = r#"{"server":"h2o","usec":%{usec}t,"request_time":%{request-total-time}x,"process_time":%{process-time}x,"client":"%h","client_port":%{remote}p,"method":"%m","path":"%U","host":"%V","status":%s,"error":"%{error}x"}"#;

pub(super) const PROXY: Proxy = Proxy {
    name: "h2o",
    process: "h2o",
    unix: true,
    speaks: &[Speaks::Http, Speaks::Https],
    again: Again::Never,
    times_sending: true,
    logs: &["h2o-access.log"],
    nameless: &[],
    lacking: || program("h2o"),
    start: |run, ns, wanted| {
        // One time for connections and responses.
        let patience = wanted.patience.as_millis();
        let mut text = format!(
            "user: nobody\nnum-threads: {}\nnum-name-resolution-threads: 1\n\
             listen:\n  host: 127.0.0.1\n  port: {PORT}\nerror-log: {}\n\
             access-log:\n  path: {}\n  escape: json\n  format: '{FORMAT}'\n\
             proxy.timeout.io: {patience}\nproxy.timeout.keepalive: 60000\n\
             hosts:\n  default:\n    paths:\n",
            wanted.workers,
            run.folder.join("h2o-error.log").display(),
            run.folder.join("h2o-access.log").display(),
        );
        for route in &wanted.routes {
            let folder = route.folder;
            let to = match &route.to {
                Target::Tcp(_) => route.address(),
                Target::Unix(path) => format!("[unix:{}]", path.display()),
            };
            if route.own == Some(Own::Answers) {
                let answer = "Proc.new { |env| [503, {}, []] }";
                text += &format!("      {folder}:\n        mruby.handler: |\n          {answer}\n");
                continue;
            }
            let trusted = run.folder.join(TRUSTED);
            let (scheme, sealed) = match route.speaks {
                Speaks::Https => (
                    "https",
                    format!("        proxy.ssl.cafile: {}\n", trusted.display()),
                ),
                _ => ("http", String::new()),
            };
            text += &format!(
                "      {folder}:\n        proxy.reverse.url: \"{scheme}://{to}{folder}\"\n{sealed}"
            );
        }
        let config = run.folder.join("h2o.yaml");
        std::fs::write(&config, text)?;
        let mut command = ns.command("h2o");
        command.arg("-c").arg(&config);
        Ok(Box::new(serve(run, ns, "h2o", command)?))
    },
};
