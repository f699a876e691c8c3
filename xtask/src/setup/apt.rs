//! Installing Debian packages without surprises: no questions, no daemons started.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Debian asks this file whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

pub(super) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if shell::find("apt-get").is_none() {
        bail!("this machine lacks {list} (names as in Debian 12) and has no apt-get");
    }
    println!("setup: installing {list}");
    update()?;
    let _no_daemons = Policy::forbid_services();
    shell::run(
        apt()?
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
    .context("install what is missing")
}

/// Package lists age: an index that names a version the archive no longer has cannot install it.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = apt().and_then(|mut apt| shell::run(apt.arg("update"))));
    result
}

fn apt() -> Result<Command> {
    let mut command = if shell::is_root() {
        shell::command("apt-get")
    } else if shell::find("sudo").is_some() {
        let mut sudo = shell::command("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("packages are missing; run this as root, or install sudo");
    };
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt may be at work, as on a machine that has just booted.
        .args([
            "-q",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Use-Pty=0",
        ]);
    Ok(command)
}

/// Keeps nginx, HAProxy and Prometheus from starting on their default ports while they are
/// installed. Taken back when dropped; a policy that a person has is left alone.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> Policy {
        let path = Path::new(POLICY);
        let ours = shell::is_root()
            && !path.exists()
            && fs::write(path, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(path, fs::Permissions::from_mode(0o755)).is_ok();
        Policy { ours }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
