//! A lab that has made some of everything, in the middle of a fault, until somebody ends it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::client::{self, Request};
use crate::container::Engine;
use crate::keeper;
use crate::netns::NetNs;
use crate::process::Proc;
use crate::relay::{FAR, Relay};
use crate::rows::front::{Front, PLAIN_PORT, plain};
use crate::run::{Options, Run, START};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

const PORT: u16 = 9000;
/// What it says when a request has met the fault, before its own pid and its folder.
pub(super) const SAID: &str = "held";

#[derive(clap::Args)]
pub struct Held {
    /// With an agent that watches.
    #[arg(long)]
    watched: bool,
    /// With a container.
    #[arg(long)]
    contained: bool,
}

/// Returns nothing but what kept it from that.
pub fn hold(held: &Held, why502: &Path, out: &Path) -> Result<()> {
    let why502 = held.watched.then(|| why502.canonicalize()).transpose()?;
    let options = Options {
        why502,
        full: false,
        out: out.to_owned(),
        prometheus: None,
        packets: false,
        unproven: false,
        lossy: false,
    };
    let mut run = Run::of_pair(&options, "held", "held")?;
    let near = Arc::new(NetNs::new()?);
    let far = NetNs::new()?;
    let relay = Relay::join(&near, &far, Duration::from_millis(5))?;
    near.sh(&format!(
        "iptables -A OUTPUT -p tcp --dport {} -j DROP",
        PORT + 1
    ))?;
    let address = format!("{FAR}:{PORT}");
    let upstream = Scripted::start(&run, &far, "upstream", &address, Mode::Asked, 16)?;
    let http = format!(
        "server {{ {} location / {{ proxy_pass http://{address}; }} }}",
        Front::Plain.listen(&run)?
    );
    let nginx = Nginx::start(&run, &near, 2, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let group = Cgroup::with_cpu_percent(50)?;
    let mut slow = Command::new("sleep");
    slow.arg("600");
    group.starts(&mut slow)?;
    let slow = Proc::spawn("sleep", slow, &run.folder.join("sleep.log"))?;
    // In a session of its own, with no parent: no group that is killed has it.
    near.sh("setsid --fork sleep 601 </dev/null >/dev/null 2>&1")?;
    let mounted = run.folder.join("mounted");
    near.sh(&format!(
        "mkdir {0} && mount -t tmpfs why502-lab {0}",
        mounted.display()
    ))?;
    let contained = held.contained.then(|| contain(&run)).transpose()?;

    let path = run.path("/fault");
    let request = Request::get(path.clone()).query("do=hold");
    let ledger = Arc::clone(&run.ledger);
    let client = Arc::clone(&near);
    thread::spawn(move || {
        client.traffic(async || Ok(client::once(plain(), &ledger, request).await))
    });
    wait::until("the request at the upstream", START, || {
        upstream.log.has("read", &path)
    })?;
    let folder = keeper::folder().context("nobody keeps this lab")?;
    println!("{SAID} {} {}", std::process::id(), folder.display());
    run.hold((relay, nginx, upstream, slow, group, contained));
    loop {
        thread::park();
    }
}

/// A container that sleeps.
fn contain(run: &Run) -> Result<(Proc, NetNs, Arc<Engine>)> {
    let engine = Arc::new(Engine::new(&run.folder.join("engine"), &[])?);
    let ns = NetNs::contained(&engine, "held")?;
    let mut sleep = ns.command("sleep");
    sleep.arg("602");
    let proc = Proc::spawn("podman", sleep, &run.folder.join("podman.log"))?;
    engine.pid("held")?;
    Ok((proc, ns, engine))
}
