//! One virtual machine: a kernel and a disk under QEMU, without any acceleration and without a network.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use super::packages::Unpacked;
use crate::process::{Process, until};
use crate::shell;

/// Seconds for which the kernel waits for its disk. Its clock leaps while it waits for nothing else: where this
/// host is slow to read, the usual 30 are over before the disk has answered.
const PATIENCE: u32 = 1_000_000;

/// What became of a machine.
pub(super) struct Ran {
    pub(super) took: Duration,
    /// Each command with its exit status, as init told.
    pub(super) commands: Vec<(i32, String)>,
}

/// Runs the machine until it powers off; its console is kept in a file.
pub(super) fn run(
    arch: Arch,
    kernel: &Unpacked,
    disk: &Path,
    console: &Path,
    limit: Duration,
) -> Result<Ran> {
    let start = Instant::now();
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
            "console={} quiet root=/dev/nvme0n1 rw init=/usr/bin/vm-init panic=-1 \
             nvme_core.io_timeout={PATIENCE} nvme_core.admin_timeout={PATIENCE}",
            arch.console()
        ))
        .arg("-drive")
        .arg(format!(
            "file={},if=none,id=disk,format=raw",
            disk.display()
        ))
        .args(["-device", "nvme,drive=disk,serial=disk"])
        .stdin(Stdio::null())
        .stdout(File::create(console)?)
        .stderr(File::options().append(true).open(console)?);
    let mut machine = Process::start(&kernel.release, &mut qemu)?;
    until("the machine to power off", limit, || {
        machine.ended().is_some()
    })
    .with_context(|| {
        format!(
            "Linux {}; its console is {}",
            kernel.release,
            console.display()
        )
    })?;
    let text = String::from_utf8_lossy(&fs::read(console)?).into_owned();
    let (commands, done) = told(&text);
    if !done {
        bail!(
            "Linux {} did not come to its end: {}; its console is {}",
            kernel.release,
            text.lines()
                .rev()
                .find(|line| line.contains("vm: ") || line.contains("anic"))
                .unwrap_or("nothing said"),
            console.display()
        );
    }
    Ok(Ran {
        took: start.elapsed(),
        commands,
    })
}

/// What init told on the console, and whether it came to its end.
fn told(console: &str) -> (Vec<(i32, String)>, bool) {
    let mut commands = Vec::new();
    let mut done = false;
    for line in console.lines() {
        // The kernel's own lines may stand ahead of it.
        let Some((_, line)) = line.trim_end().split_once("vm: ") else {
            continue;
        };
        done |= line == "done";
        if let Some((status, command)) = line.split_once(' ')
            && let Ok(status) = status.parse()
        {
            commands.push((status, command.to_owned()));
        }
    }
    (commands, done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_tells_is_understood() {
        let console = "[ 1.0] noise\r\nvm: Linux 6.1\r\nvm: 0 true\r\n[ 2.0] vm: 3 lab --row 2\r\nvm: done\r\n";
        let (commands, done) = told(console);
        assert!(done);
        assert_eq!(
            commands,
            [(0, "true".to_owned()), (3, "lab --row 2".to_owned())]
        );
        assert!(!told("vm: 0 true\n").1);
    }
}
