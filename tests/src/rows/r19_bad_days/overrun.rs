//! The agent is stopped while far more fails than its ring buffer holds: what was lost is told and
//! counted, nothing of that time is proven, and afterwards verdicts are proven again.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Host, fail, fail_times, refused};
use crate::agent::Capture;
use crate::expect::Expect;
use crate::prometheus::{free_port, get};
use crate::run::{Run, START};
use crate::wait;

/// Two megabytes of records hold fewer than a thousand failures.
const FLOOD: usize = 3_000;
/// Fewer at once than nginx has connections for.
const WAVE: usize = 500;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.watch(&[&host.nginx])?;
    run.loses_signals();
    let port = free_port()?;
    let mut command = Command::new(run.why502()?);
    command
        .args([
            "run",
            "--no-history",
            "--json",
            "--privacy",
            "full",
            "--proxy",
            "nginx",
            "--listen",
        ])
        .arg(format!("127.0.0.1:{port}"));
    let mut daemon = Capture::launch(command, &run.out.join("daemon"))?;
    daemon.wait_ready()?;
    let lost = || lost(port).unwrap_or(0.0);

    fail(run, &host.ns, &refused("before"))?;
    wait::until("the verdicts before", START, || {
        run.agent()
            .is_ok_and(|agent| agent.lines().len() >= run.wanted())
    })?;
    if lost() > 0.0 {
        run.problem(format!("{} signals lost before the flood", lost()));
    }

    let agents = [run.agent()?.pid(), daemon.pid()];
    let tell = |signal| agents.map(|pid| crate::process::kill(pid, signal));
    tell(libc::SIGSTOP);
    let waves = (0..FLOOD / WAVE)
        .map(|_| fail_times(run, &host.ns, &Expect::apart("flood", &[502]), WAVE))
        .collect::<Result<Vec<_>>>();
    tell(libc::SIGCONT);
    let flood: BTreeSet<String> = waves?.into_iter().flatten().collect();

    // They are told before the records that were kept.
    wait::until("the losses in the metrics", START, || lost() > 0.0)?;
    // All of the flood is behind a verdict that came in order after it.
    caught_up(run, &host)?;
    fail(run, &host.ns, &refused("after"))?;

    let lost = lost();
    let daemon = daemon.end(libc::SIGTERM)?;
    let summary = daemon.summary()?["lost"]["signals"].as_u64();
    if daemon.exit != 0 || summary.is_none_or(|count| count == 0) {
        run.problem(format!("daemon: status {}, lost {summary:?}", daemon.exit));
    }

    let (mut told, mut wrong) = (0, Vec::new());
    for line in run.agent()?.lines().into_iter().chain(daemon.lines) {
        let path = line["request"]["path"].as_str().unwrap_or_default();
        if flood.contains(path) {
            told += 1;
            if !admitted(&line) {
                wrong.push(line);
            }
        }
    }
    for line in wrong {
        run.problem(format!("in the lossy window: {line}"));
    }
    run.note(format!(
        "{FLOOD} failures while two agents were stopped: {lost} signals lost by one, {told} lines"
    ));
    host.hold(run);
    Ok(())
}

/// Its cause may be known from what is there; sure of it nobody can be.
fn admitted(line: &Value) -> bool {
    let cause = line["cause"].as_str();
    line["confidence"] != "proven"
        && line["lost_signals"].as_u64() > Some(0)
        && matches!(cause, Some("connection_refused" | "unknown"))
}

/// Fails requests one at a time until one is proven: nothing that was lost can concern it.
fn caught_up(run: &Run, host: &Host) -> Result<()> {
    let expect = Expect::apart("catching_up", &[502]);
    wait::until("proven verdicts again", START, || {
        let Ok(paths) = fail_times(run, &host.ns, &expect, 1) else {
            return false;
        };
        let proven =
            |line: &Value| line["request"]["path"] == *paths[0] && line["confidence"] == "proven";
        let told = || {
            run.agent()
                .is_ok_and(|agent| agent.lines().iter().any(proven))
        };
        wait::until("its verdict", Duration::from_secs(1), told).is_ok()
    })
}

/// All that the daemon's metrics say is lost.
fn lost(port: u16) -> Result<f64> {
    let (_, text) = get(port, "/metrics")?;
    text.lines()
        .filter(|line| line.starts_with("why502_signals_lost_total{"))
        .map(|line| {
            let value = line.rsplit(' ').next().context("a value")?;
            Ok(value.parse::<f64>()?)
        })
        .sum()
}
