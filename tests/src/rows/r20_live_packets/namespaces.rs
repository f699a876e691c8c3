//! Two proxies on the same loopback address of two network namespaces, followed by one agent: each
//! failure is proven, under the name of its own proxy, and found in its own namespace's packets.

use std::thread;

use anyhow::Result;

use super::{refused, why502};
use crate::agent::Capture;
use crate::netns::NetNs;
use crate::process;
use crate::rows::front::PLAIN_PORT;
use crate::rows::r19_bad_days::{APP, Host, fail_times, http};
use crate::run::Run;
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let first = Host::start(run)?;
    let ns = NetNs::new()?;
    let app = Scripted::start(run, &ns, "second-app", APP, Mode::Answer, 128)?;
    // The kernel names a process after the file it was started from.
    let program = run.folder.join("edge");
    std::os::unix::fs::symlink(process::program("nginx").unwrap_or_default(), &program)?;
    let second = Nginx::start_program(run, &ns, &program, 1, PLAIN_PORT, &http(run, "")?)?;
    run.add_proxy(first.nginx.pid())?;
    run.add_proxy(second.pid())?;

    let pids = [first.nginx.pid(), second.pid()];
    let mut command = why502(run, "capture", "packets", &pids)?;
    command.args(["--for", "600s"]);
    let mut agent = Capture::launch(command, &run.out.join("agent"))?;
    agent.wait_ready()?;
    let proxies = [("first", "nginx", &first.ns), ("second", "edge", &ns)];
    let wanted = 2 * run.wanted();
    let shared = &*run;
    thread::scope(|scope| {
        let failing = proxies.map(|(cell, name, ns)| {
            scope.spawn(move || {
                let expect = refused(cell, name);
                (0..wanted).try_for_each(|_| fail_times(shared, ns, &expect, 1).map(drop))
            })
        });
        failing
            .into_iter()
            .try_for_each(|thread| thread.join().expect("requests"))
    })?;
    for (cell, ..) in proxies {
        run.at_least(cell, wanted);
    }
    run.watched_by(agent);
    first.hold(run);
    run.hold((second, app, ns));
    Ok(())
}
