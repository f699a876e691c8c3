//! Packets followed live, as a person without BPF would (a row of our own): counters, several
//! namespaces at once, losses, and the packets of the failures in a file.

mod counters;
mod excerpt;
mod losses;
mod namespaces;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::NGINX;
use crate::expect::{Check, Expect};
use crate::run::{Need, Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |name, run| Scenario {
        row: 20,
        name,
        needs: &[NGINX, Need::Agent],
        run,
    };
    vec![
        scenario("packets-counters", counters::run),
        scenario("packets-namespaces", namespaces::run),
        scenario("packets-losses", losses::run),
        scenario("packets-excerpt", excerpt::run),
    ]
}

/// Watches these processes by this source; nothing else of this host may take their place.
fn why502(run: &Run, command: &str, source: &str, pids: &[u32]) -> Result<Command> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut agent = Command::new(run.why502()?);
    agent.args([command, "--json", "--privacy", "full"]);
    agent.args(["--source", source, "--pid", &pids.join(",")]);
    // `run` is tried here; what it finds is not for this host's own history.
    agent.env("WHY502_NO_HISTORY", "true");
    Ok(agent)
}

/// The truth about a request whose upstream is refused, one at a time: packets prove it, and who
/// listens at the proxy's address tells its name.
fn refused(cell: &'static str, proxy: &str) -> Expect {
    Expect::verdict(cell, &[502], "connection_refused")
        .with(Check::Equals("/proxy/name", proxy.into()))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
