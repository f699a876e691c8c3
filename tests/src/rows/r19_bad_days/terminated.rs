//! SIGTERM at any moment under load, in the start too: the agent ends at once with its summary and
//! status 0, and another beside it misses nothing.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Host, fail, refused, under_load};
use crate::agent::{Capture, Captured};
use crate::run::{Run, START};
use crate::wait;

/// Longer than any end on a busy machine, far shorter than `--for`.
const PROMPT: Duration = Duration::from_secs(5);
/// The moments lie within so many milliseconds after it can take the signal; it starts within a few
/// hundred.
const WITHIN: u64 = 1500;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.watch(&[&host.nginx])?;
    fail(run, &host.ns, &refused("before"))?;
    let mut random = 19_u64;
    let mut problems = Vec::new();
    let mut longest = Duration::ZERO;
    under_load(run, &host.ns, &refused("meanwhile"), || {
        for round in 0..run.either(5, 40) {
            let command = Capture::command(run.why502()?);
            let capture = Capture::launch(command, &run.out.join(format!("round-{round}")))?;
            wait::until("its signal handler", START, || {
                catches(capture.pid(), libc::SIGTERM)
            })?;
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Not a wait for something: the moment is what is tried.
            std::thread::sleep(Duration::from_millis((random >> 33) % WITHIN));
            let began = Instant::now();
            let captured = capture.end(libc::SIGTERM)?;
            longest = longest.max(began.elapsed());
            if let Err(error) = check(run, &captured) {
                problems.push(format!("round {round}: {error:#}"));
            }
        }
        Ok(())
    })?;
    if longest > PROMPT {
        problems.push(format!("it took {longest:?} to end"));
    }
    run.note(format!("the slowest end took {longest:.1?}"));
    for problem in problems {
        run.problem(problem);
    }
    fail(run, &host.ns, &refused("after"))?;
    host.hold(run);
    Ok(())
}

fn catches(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

/// The summary is there and true, and nothing said before it is wrong.
fn check(run: &Run, captured: &Captured) -> Result<()> {
    anyhow::ensure!(captured.exit == 0, "exit status {}", captured.exit);
    let summary = captured.summary()?;
    let verdicts: Vec<_> = captured
        .lines
        .iter()
        .filter(|line| line["type"] == "verdict")
        .collect();
    let counted = summary["responses"]["failed"].as_u64();
    anyhow::ensure!(
        counted == Some(verdicts.len() as u64),
        "{} verdicts, the summary says {counted:?}",
        verdicts.len()
    );
    for verdict in verdicts {
        let path = verdict["request"]["path"].as_str().unwrap_or_default();
        let cause = verdict["cause"].as_str().context("a cause")?;
        // One that was under way as the agent came or went may lack a fact, and says so.
        let right = cause == "connection_refused" || verdict["confidence"] == "unknown";
        anyhow::ensure!(!run.ledger.owns(path) || right, "{verdict}");
    }
    Ok(())
}
