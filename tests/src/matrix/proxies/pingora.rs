//! A proxy made with pingora, in a program of the lab's own: threads that steal each other's work.

use super::{Again, PORT, Proxy, Speaks, program, serve};

/// Also the name of its process.
const NAME: &str = "pingora-lab";

pub(super) const PROXY: Proxy = Proxy {
    name: "pingora",
    process: NAME,
    unix: true,
    speaks: &[Speaks::Http],
    // Only what its pool hides.
    again: Again::Never,
    times_sending: true,
    // What pingora itself says, with the time to the second.
    logs: &["pingora-lab.log"],
    nameless: &[],
    lacking: || program(NAME).map(|why| format!("{why}: `cargo xtask lab` builds it")),
    start: |run, ns, wanted| {
        let mut command = ns.command(NAME);
        command
            .arg(format!("127.0.0.1:{PORT}"))
            .arg(wanted.workers.to_string())
            .arg(wanted.connect.as_millis().to_string())
            .arg(wanted.patience.as_millis().to_string());
        command.env("RUST_LOG", "error");
        for route in &wanted.routes {
            command.arg(format!("{}={}", route.folder, route.to));
        }
        Ok(Box::new(serve(run, ns, NAME, command)?))
    },
};
