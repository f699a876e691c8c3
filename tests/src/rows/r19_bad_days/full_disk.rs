//! `--record` on a disk that fills up: it is said once, verdicts go on, what was written stays
//! readable; and on a disk that is full from the start: an error that names the file.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::{Host, fail, fail_times, refused};
use crate::agent::Capture;
use crate::process;
use crate::run::{Run, START};

/// In bytes: some hundred failures fit. The recorder writes up to 64 KiB at a time, of which nothing
/// stays where not all fits.
const DISK: u32 = 256 * 1024;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.add_proxy(host.nginx.pid())?;
    let disk = run.folder.join("disk");
    std::fs::create_dir(&disk)?;
    let recording = disk.join("recording.jsonl");

    let mut filling = record(run, "filling", &disk, "true", &recording)?;
    filling.wait_ready()?;
    let full = "the recording ends here";
    let end = Instant::now() + START;
    while filling.told(full) == 0 {
        if Instant::now() > end {
            bail!("a disk of {DISK} bytes did not fill up");
        }
        fail_times(run, &host.ns, &refused("filling"), 50)?;
    }
    fail(run, &host.ns, &refused("disk_full"))?;

    // Its file can be seen only through it: nobody else has that disk.
    let inside = format!("/proc/{}/root{}", filling.pid(), recording.display());
    let kept = run.out.join("cut-short.jsonl");
    std::fs::copy(inside, &kept)?;
    let explained = Command::new(run.why502()?)
        .args(["explain", "--json"])
        .arg(&kept)
        .output()?;
    let said = String::from_utf8_lossy(&explained.stdout);
    if !explained.status.success() || !said.contains("connection_refused") {
        run.problem(format!("explain of what was written: {explained:?}"));
    }
    if filling.told(full) != 1 {
        run.problem(format!("said {} times: {full}", filling.told(full)));
    }
    run.loses_signals();
    run.watched_by(filling);

    let without_room = record(
        run,
        "full",
        &disk,
        "dd if=/dev/zero of=fill bs=4k",
        &recording,
    )?;
    let without_room = without_room.ended()?;
    let named = without_room
        .messages
        .iter()
        .any(|line| line.starts_with("error:") && line.contains(&*recording.to_string_lossy()));
    if without_room.exit != 1 || !named {
        run.problem(format!(
            "on a full disk: status {}, {:?}",
            without_room.exit, without_room.messages
        ));
    }
    host.hold(run);
    Ok(())
}

/// `why502 capture --record` with a small disk of its own mounted there, after `prepare` ran in it.
fn record(run: &Run, name: &str, disk: &Path, prepare: &str, to: &Path) -> Result<Capture> {
    let Some(unshare) = process::program("unshare") else {
        bail!("unshare is not installed");
    };
    let why502 = Capture::command(run.why502()?);
    ensure!(disk.is_dir(), "no folder to mount on");
    let mut command = Command::new(unshare);
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(
            "mount -t tmpfs -o size=$1 tmpfs \"$2\" && (cd \"$2\" && $3 2>/dev/null); shift 3; exec \"$@\"",
        )
        .args(["sh", &DISK.to_string()])
        .arg(disk)
        .arg(prepare)
        .arg(why502.get_program())
        .args(why502.get_args())
        .arg("--record")
        .arg(to);
    Capture::launch(command, &run.out.join(name))
}
