//! Go's `httputil.ReverseProxy`, which Traefik and others are made of, in a program of the lab's own.

use super::{Again, PORT, Proxy, Speaks, program, serve};
use crate::matrix::upstreams::TRUSTED;
use crate::software::go_program;

/// Also the name of its process.
const NAME: &str = "goproxy";
const SOURCE: &str = include_str!("../../../apps/goproxy.go");

pub(super) const PROXY: Proxy = Proxy {
    name: "go",
    process: NAME,
    unix: true,
    speaks: &[Speaks::Http, Speaks::Https],
    // Only what its pool hides.
    again: Again::Never,
    // Its time for a response begins when all of the request is sent.
    times_sending: false,
    // The stand-in has none of Traefik's, but what `httputil` says by itself.
    logs: &[],
    nameless: &["goproxy.log"],
    lacking: || program("go"),
    start: |run, ns, wanted| {
        let mut command = ns.command(go_program(&run.options.out, NAME, SOURCE)?);
        command
            .args(["-listen", &format!("127.0.0.1:{PORT}")])
            .arg("-trusted")
            .arg(run.folder.join(TRUSTED))
            .args(["-connect", &format!("{}ms", wanted.connect.as_millis())])
            .args(["-patience", &format!("{}ms", wanted.patience.as_millis())])
            .env("GOMAXPROCS", wanted.workers.to_string());
        for route in &wanted.routes {
            let sealed = match route.speaks {
                Speaks::Https => "tls:",
                _ => "",
            };
            command.arg(format!("{}={sealed}{}", route.folder, route.address()));
        }
        Ok(Box::new(serve(run, ns, NAME, command)?))
    },
};
