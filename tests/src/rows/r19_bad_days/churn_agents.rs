//! Agents are started and killed with SIGKILL under load, over and over and at any moment of their start:
//! nothing of them stays in the kernel, and the proxy is as fast as before the first.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Host, fail, refused, under_load};
use crate::agent::Capture;
use crate::bpf::{self, Objects};
use crate::client::{Conn, Request};
use crate::expect::Expect;
use crate::process;
use crate::rows::front::plain;
use crate::run::{Run, START};
use crate::wait;

/// Of so many one is killed when it watches, the others on their way there, each at a moment of its own:
/// more of them early, since a start takes seconds on an emulated processor.
const MOMENTS: u32 = 25;
/// Rounds of requests by which nginx is measured; the fastest counts, since whatever else the host does
/// makes others slower.
const ROUNDS: usize = 25;
/// What is only told is measured for less long: an emulated processor takes its time for each.
const ROUNDS_FOR_NOTE: usize = 5;
/// Rounds until it is as fast as it was: a busy host is slow for seconds, what a probe costs is always
/// there.
const ENOUGH: usize = 500;
const REQUESTS: u32 = 400;
/// Other work on the host costs nginx less than this. The probes of one agent cost about as much: two that
/// were left behind would show.
const SLOWER: f64 = 1.10;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    let objects = bpf::all()?;
    let before = ns_per_request(run, &host, ROUNDS, f64::MAX)?;
    let (whole, watched) = first_start(run, &host, &objects)?;
    let starts = run.either(50, 1000);
    // Those that fail around a kill are told or not, as it happens.
    let meanwhile = Expect::apart("meanwhile", &[502]);
    under_load(run, &host.ns, &meanwhile, || {
        for number in 0..starts {
            let command = Capture::command(run.why502()?);
            let mut agent = Capture::launch(command, &run.out.join("killed"))?;
            match number % MOMENTS {
                0 => agent.wait_ready()?,
                // Not a wait for something: the moment is what is tried.
                part => std::thread::sleep(whole * part.pow(3) / MOMENTS.pow(3)),
            }
            agent.end(libc::SIGKILL)?;
        }
        Ok(())
    })?;
    let mut left = objects.clone();
    // The kernel frees them after a grace period.
    let freed = wait::until("the end of the agents' programs and maps", START, || {
        left = bpf::orphans(&objects).unwrap_or_default();
        left.is_empty()
    });
    if freed.is_err() {
        bail!("left in the kernel of {starts} agents: {left:?}");
    }
    let after = ns_per_request(run, &host, 1, before * SLOWER)?;
    run.note(format!(
        "{starts} starts and kills; nginx takes {before:.0} ns a request before, {after:.0} after, and \
         {watched:.0} when it is watched"
    ));
    if after > before * SLOWER {
        run.problem(format!(
            "nginx takes {after:.0} ns a request after {starts} agents, {before:.0} before"
        ));
    }
    run.watch(&[&host.nginx])?;
    fail(run, &host.ns, &refused("after"))?;
    host.hold(run);
    Ok(())
}

/// How long a start takes, and nginx's requests when it is watched.
fn first_start(run: &Run, host: &Host, objects: &Objects) -> Result<(Duration, f64)> {
    let began = Instant::now();
    let agent = Capture::start(run.why502()?, &run.out.join("first"), &[])?;
    let whole = began.elapsed();
    let held = bpf::held_by(agent.pid())?;
    if held.len() < 10 || !(&bpf::all()? - objects).is_superset(&held) {
        bail!("the harness does not see what the agent holds in the kernel: {held:?}");
    }
    let watched = ns_per_request(run, host, ROUNDS_FOR_NOTE, f64::MAX)?;
    agent.end(libc::SIGKILL)?;
    Ok((whole, watched))
}

/// nginx's own time on a processor, which it shares with its client and its upstream: waking another
/// processor up takes longer than a request. Measured for longer than these rounds while it is more than
/// `expected`.
fn ns_per_request(run: &Run, host: &Host, rounds: usize, expected: f64) -> Result<f64> {
    host.ns.traffic(async || {
        const THIS_THREAD: u32 = 0;
        let mut conn = Conn::open(plain(), &run.ledger).await?;
        // Who is answered knows that there is a worker.
        conn.send(&Request::get(run.path("/app"))).await;
        let worker = host.nginx.worker()?;
        for task in [worker, host.app.pid(), THIS_THREAD] {
            process::keep_on_first_processor(task)?;
        }
        let mut fastest = f64::MAX;
        for round in 0..ENOUGH {
            if round >= rounds && fastest <= expected {
                break;
            }
            let before = ns_on_processor(worker)?;
            for _ in 0..REQUESTS {
                conn.send(&Request::get(run.path("/app"))).await;
            }
            let spent = ns_on_processor(worker)? - before;
            fastest = fastest.min(spent / f64::from(REQUESTS));
        }
        Ok(fastest)
    })
}

/// Of a process with one thread.
fn ns_on_processor(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let ns = text.split(' ').next().context("an empty schedstat")?;
    Ok(ns.parse()?)
}
