//! `cargo xtask dist --try`: the package as a service of a real systemd, which a machine of its own has as
//! process 1.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::trial::{self, PACKAGED_FOR};
use crate::vm::system::{self, Booted};
use crate::{process, shell};

/// What the machine has: systemd and its bus, a proxy that is a service too, and who asks it.
const PACKAGES: &[&str] = &["systemd", "systemd-sysv", "dbus", "nginx-light", "curl"];

/// Under emulation it takes a quarter of that here.
const LIMIT: Duration = Duration::from_secs(600);

/// Its output is the machine's console; the machine is off when it ends, however it ends.
const UNIT: &str = "\
[Unit]
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/bash /trial/service.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
";

/// How the trial's own lines begin.
const LINE: &str = "service: ";

pub(super) fn run(packages: &[PathBuf]) -> Result<()> {
    let clean = trial::system("bookworm-systemd", PACKAGED_FOR, PACKAGES)?;
    let place = shell::target().join("dist/service");
    process::fresh_folder(&place)?;
    let root = place.join("root");
    let mut copy = shell::command("cp");
    shell::run(copy.arg("--archive").arg(&clean).arg(&root))?;
    let trial = root.join("trial");
    fs::create_dir(&trial)?;
    fs::write(trial.join("service.sh"), include_str!("service.sh"))?;
    for package in packages {
        let name = package.file_name().context("a package's name")?;
        fs::copy(package, trial.join(name))?;
    }
    let units = root.join("etc/systemd/system");
    fs::write(units.join("trial.service"), UNIT)?;
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    std::os::unix::fs::symlink("../trial.service", wanted.join("trial.service"))?;
    let said = match system::boot(&root, &place.join("machine"), LIMIT)? {
        Booted::Done(said) => said,
        Booted::Skipped(why) => {
            println!("dist: the service under systemd SKIPPED: {why}");
            return Ok(());
        }
    };
    let lines: Vec<_> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix(LINE))
        .collect();
    ensure!(lines.len() >= 5, "it told less than it does: {said}");
    for line in lines {
        println!("dist: under systemd: {line}");
    }
    Ok(())
}
