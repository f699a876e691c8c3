//! The agent is stopped while more packets pass than the kernel holds for it: the loss is counted and
//! told, nothing of that time is proven, and afterwards verdicts are proven again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::counters::value;
use super::{refused, why502};
use crate::agent::Capture;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::prometheus::free_port;
use crate::rows::front::plain;
use crate::rows::r19_bad_days::{Host, fail_times};
use crate::run::{Run, START};
use crate::wait;

/// There and back, twice as much as the kernel's 16 MB hold.
const MESSAGES: usize = 12_000;
const MESSAGE: usize = 1400;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.add_proxy(host.nginx.pid())?;
    let port = free_port()?;
    let mut command = why502(run, "run", "packets", &[host.nginx.pid()])?;
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut daemon = Capture::launch(command, &run.out.join("daemon"))?;
    daemon.wait_ready()?;
    run.loses_signals();
    let lost = || {
        value(
            port,
            "why502_signals_lost_total{stage=\"packets\",reason=\"kernel\"}",
        )
    };

    let before = refused("before", "nginx");
    one_by_one(run, &host.ns, &before, run.wanted())?;
    wait::until("the verdicts before", START, || {
        daemon.lines().len() >= run.wanted()
    })?;
    if value(port, "why502_signals_lost_total{")? > 0.0 {
        run.problem("losses before the flood");
    }

    daemon.signal(libc::SIGSTOP);
    let flooded = flood(run, &host.ns);
    daemon.signal(libc::SIGCONT);
    let (flooded, connections) = flooded?;
    wait::until("the losses in the metrics", START, || {
        lost().is_ok_and(|n| n > 0.0)
    })?;
    // All that was kept of the flood is behind a verdict that came in order after it.
    let catch_up = |what, enough: fn(&Value) -> bool| {
        wait::until(what, START, || {
            let expect = Expect::apart("catching_up", &[502]);
            let Ok(paths) = fail_times(run, &host.ns, &expect, 1) else {
                return false;
            };
            let fits = |line: &Value| line["request"]["path"] == *paths[0] && enough(line);
            let told = || daemon.lines().iter().any(fits);
            wait::until("its verdict", Duration::from_secs(1), told).is_ok()
        })
    };
    catch_up("verdicts again", |_| true)?;
    // A request whose answer was lost is taken to be in flight, for a minute and a half at least:
    // its connection's end tells better.
    drop(connections);
    catch_up("proven verdicts again", |line| {
        line["confidence"] == "proven"
    })?;
    one_by_one(run, &host.ns, &refused("after", "nginx"), run.wanted())?;

    let mut told = 0;
    for line in daemon.lines() {
        let path = line["request"]["path"].as_str().unwrap_or_default();
        if flooded.contains(path) {
            told += 1;
            if line["confidence"] == "proven" || line["lost_signals"].as_u64() == Some(0) {
                run.problem(format!("in the lossy window: {line}"));
            }
        }
    }
    run.note(format!(
        "{} packets lost; {told} lines about {} failures of that time",
        lost()?,
        flooded.len()
    ));
    for cell in ["before", "after"] {
        run.at_least(cell, run.wanted());
    }
    run.watched_by(daemon);
    host.hold(run);
    Ok(())
}

fn one_by_one(run: &Run, ns: &NetNs, expect: &Expect, count: usize) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for _ in 0..count {
        paths.extend(fail_times(run, ns, expect, 1)?);
    }
    Ok(paths)
}

/// Failures before and after the kernel's buffer is filled. Their paths and connections.
fn flood(run: &Run, ns: &NetNs) -> Result<(BTreeSet<String>, Vec<TcpStream>)> {
    ns.enter(|| {
        let mut paths = BTreeSet::new();
        let mut connections = Vec::new();
        for round in 0..2 {
            for _ in 0..run.wanted() {
                let path = run.path("/known");
                connections.push(ask(&path)?);
                paths.insert(path);
            }
            if round == 0 {
                connections.push(ping_pong()?);
            }
        }
        Ok((paths, connections))
    })
}

/// Sends a request and waits for its answer's beginning.
fn ask(path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(plain())?;
    stream.set_read_timeout(Some(START))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: lab.example\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    ensure!(answer.ends_with(b" 502"), "{path}: not failed");
    Ok(stream)
}

/// One message at a time, so that none is joined with another: each is a packet.
fn ping_pong() -> Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (mut other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    // Until the connection is closed.
    thread::spawn(move || -> Result<()> {
        let mut message = [0; MESSAGE];
        loop {
            other.read_exact(&mut message)?;
            other.write_all(&message)?;
        }
    });
    let mut message = [b'x'; MESSAGE];
    for _ in 0..MESSAGES {
        one.write_all(&message)?;
        one.read_exact(&mut message)?;
    }
    Ok(one)
}
