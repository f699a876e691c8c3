//! One virtual machine: a kernel and a disk under QEMU, without any acceleration and without a network.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;

use super::arch::Arch;
use super::console::Told;
use super::pace::Pace;
use super::packages::Unpacked;
use crate::process::{Process, until};
use crate::shell;

/// Seconds for which the kernel waits for its disk. Its clock leaps while it waits for nothing else: where this
/// host is slow to read, the usual 30 are over before the disk has answered.
const PATIENCE: u32 = 1_000_000;

/// What became of a machine.
pub(super) struct Ran {
    pub(super) pace: Pace,
    pub(super) told: Told,
    /// It was still running when its time was over.
    pub(super) too_long: Option<String>,
}

/// Runs the machine until it powers off or its time is over; its console is kept in a file. Process 1 is
/// `init`, which may have arguments.
pub(super) fn run(
    arch: Arch,
    kernel: &Unpacked,
    disk: &Path,
    init: &str,
    console: &Path,
    limit: Duration,
) -> Result<Ran> {
    let mut pace = Pace::new();
    let mut qemu = shell::command(arch.qemu());
    qemu.args(arch.machine())
        .args(["-accel", "tcg", "-m", "2048", "-smp", "1"])
        // The machine's clock counts its instructions and leaps over idle time: however busy this
        // host is, the machine is as fast by its own clock, and races are as narrow as on a real one.
        .args(["-icount", "shift=1,sleep=off"])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-append")
        .arg(format!(
            "console={} quiet root=/dev/nvme0n1 rw init={init} panic=-1 \
             nvme_core.io_timeout={PATIENCE} nvme_core.admin_timeout={PATIENCE}",
            arch.console()
        ))
        .arg("-drive")
        // Read back on this host alone: what the machine has synced need not be on this host's disk.
        .arg(format!(
            "file={},if=none,id=disk,format=raw,cache=unsafe",
            disk.display()
        ))
        .args(["-device", "nvme,drive=disk,serial=disk"])
        .stdin(Stdio::null())
        .stdout(File::create(console)?)
        .stderr(File::options().append(true).open(console)?);
    let mut machine = Process::start(&kernel.release, &mut qemu)?;
    let in_time = until("the machine to power off", limit, || {
        pace.look(console);
        machine.ended().is_some()
    });
    pace.look(console);
    let text = String::from_utf8_lossy(&fs::read(console)?).into_owned();
    Ok(Ran {
        pace,
        told: Told::read(&text),
        too_long: in_time.err().map(|error| format!("{error:#}")),
    })
}
