//! The agent is killed with SIGKILL under load: nothing of it stays in the kernel, the proxy does
//! not notice, and a new agent labels again.

use anyhow::{Result, bail};

use super::{Host, fail, refused, under_load};
use crate::agent::Capture;
use crate::bpf::{self, Kind};
use crate::expect::Expect;
use crate::run::{Run, START};
use crate::wait;

/// A quarter of what the verifier allows: other kernels go through more for the same program.
const VERIFIED: u64 = 250_000;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    let killed = Capture::start(run.why502()?, &run.out.join("killed"), &[])?;
    let failed = fail(run, &host.ns, &refused("before"))?;
    wait::until("the first agent's verdicts", START, || {
        let lines = killed.lines();
        let told = |path: &String| {
            lines
                .iter()
                .any(|line| line["type"] == "verdict" && line["request"]["path"] == **path)
        };
        failed.iter().all(told)
    })?;
    let objects = bpf::held_by(killed.pid())?;
    for kind in [Kind::Program, Kind::Map] {
        let count = objects.iter().filter(|(of, _)| *of == kind).count();
        if count < 5 {
            bail!("the agent holds {count} of {kind:?}: the harness does not see them");
        }
    }
    let hardest = match bpf::hardest_to_verify(killed.pid())? {
        Some(count @ 1..=VERIFIED) => format!("verified in {count} instructions at most"),
        Some(count) => bail!("a program was verified in {count} instructions, of {VERIFIED}"),
        None => "the kernel does not say how hard they were to verify".to_owned(),
    };
    // Those that fail around the kill are told or not, as it happens.
    let meanwhile = Expect::apart("meanwhile", &[502]);
    let captured = under_load(run, &host.ns, &meanwhile, || {
        let captured = killed.end(libc::SIGKILL)?;
        let mut left = objects.clone();
        // The kernel frees them after a grace period.
        let freed = wait::until("the end of the agent's programs and maps", START, || {
            left = bpf::alive(&left).unwrap_or_default();
            left.is_empty()
        });
        if freed.is_err() {
            bail!("left in the kernel: {left:?}");
        }
        Ok(captured)
    })?;
    run.note(format!(
        "{} programs, maps and links gone; {hardest}",
        objects.len()
    ));
    run.said(captured.lines);
    run.watch(&[&host.nginx])?;
    fail(run, &host.ns, &refused("after"))?;
    host.hold(run);
    Ok(())
}
