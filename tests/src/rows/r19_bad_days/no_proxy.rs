//! No proxy runs: `capture` says so and what to do, `run` waits for one and labels its failures.

use std::process::Command;

use anyhow::Result;

use super::{fail, http, refused};
use crate::agent::Capture;
use crate::netns::NetNs;
use crate::process;
use crate::rows::front::PLAIN_PORT;
use crate::run::{Run, START};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn run(run: &mut Run) -> Result<()> {
    // A name that no proxy of this host has, whatever else runs on it.
    let name = format!("lab{:x}", std::process::id());

    let mut command = Command::new(run.why502()?);
    command.args(["capture", "--for", "100ms", "--json", "--proxy", &name]);
    let captured = Capture::launch(command, &run.out.join("capture"))?.ended()?;
    let advised = captured.messages.iter().any(|line| {
        line.starts_with("error:") && line.contains(&name) && line.contains("--proxy NAME")
    });
    if captured.exit != 1 || !advised || captured.summary().is_err() {
        run.problem(format!(
            "capture without a proxy: status {}, {:?}",
            captured.exit, captured.messages
        ));
    }

    let ns = NetNs::new()?;
    let app = Scripted::start(run, &ns, "app", super::APP, Mode::Answer, 128)?;
    let mut command = Command::new(run.why502()?);
    command.args([
        "run",
        "--no-history",
        "--json",
        "--privacy",
        "full",
        "--proxy",
        &name,
    ]);
    command.args(["--listen", "127.0.0.1:0"]);
    let mut waiting = Capture::launch(command, &run.out.join("run"))?;
    waiting.wait_ready()?;
    wait::until("the note that it waits", START, || {
        waiting.told(&format!("waiting for {name}")) > 0
    })?;

    // The kernel names a process after the file it was started from.
    let program = run.folder.join(&name);
    let nginx = process::program("nginx").unwrap_or_default();
    std::os::unix::fs::symlink(nginx, &program)?;
    let nginx = Nginx::start_program(run, &ns, &program, 1, PLAIN_PORT, &http(run, "")?)?;
    run.add_proxy(nginx.pid())?;
    run.watched_by(waiting);
    fail(run, &ns, &refused("started_later"))?;
    run.hold((nginx, app, ns));
    Ok(())
}
