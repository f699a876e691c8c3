//! Newer versions of proxies than this Debian's, with libraries of their own: the folder /usr of another
//! suite, over this system's in a mount namespace that is gone with the proxy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{process, shell, vm};

const SUITE: &str = "sid";

struct Newer {
    /// What the lab calls it by.
    name: &'static str,
    program: &'static str,
    package: &'static str,
    version: &'static str,
    /// What it says of its version, so that the archive's next series is not taken for this one.
    says: &'static str,
}

const ALL: &[Newer] = &[
    Newer {
        name: "nginx-1.30",
        program: "nginx",
        package: "nginx-light",
        version: "1.30.6-2",
        says: "nginx/1.30.",
    },
    Newer {
        name: "haproxy-3.2",
        program: "haproxy",
        package: "haproxy",
        version: "3.2.26-1",
        says: "HAProxy version 3.2.",
    },
];

pub(super) fn missing() -> impl Iterator<Item = &'static str> {
    ALL.iter()
        .map(|newer| newer.name)
        .filter(|name| shell::find(name).is_none())
}

/// Fails when there is no such system; one proxy that it lacks is said.
pub(super) fn install() -> Result<()> {
    if missing().next().is_none() {
        return Ok(());
    }
    let system = system()?;
    for newer in ALL {
        if let Err(error) = wrap(newer, &system) {
            println!(
                "setup: no {}, so it will be skipped in the matrix: {error:#}",
                newer.name
            );
        }
    }
    Ok(())
}

/// Only its /usr is used.
fn system() -> Result<PathBuf> {
    let place = shell::tools().join(SUITE);
    if place.join("usr/sbin/nginx").is_file() {
        return Ok(place);
    }
    println!("setup: making a Debian {SUITE} with newer proxies, for this repository alone");
    let pinned: Vec<String> = ALL
        .iter()
        .map(|newer| format!("{}={}", newer.package, newer.version))
        .collect();
    if let Err(error) = make(&place, &pinned.join(",")) {
        println!("setup: FALL-BACK: what is pinned is not to be had: {error:#}; taking the newest");
        let newest: Vec<&str> = ALL.iter().map(|newer| newer.package).collect();
        make(&place, &newest.join(","))?;
    }
    Ok(place)
}

fn make(place: &Path, packages: &str) -> Result<()> {
    process::fresh_folder(place)?;
    let mut make = shell::command("mmdebstrap");
    make.args(["--mode=root", "--variant=minbase", "--quiet"])
        .args(["--aptopt=Acquire::Check-Valid-Until \"false\""])
        .args(["--aptopt=APT::Sandbox::User \"root\""])
        .arg(format!("--keyring={}", vm::apt::KEYRING))
        .arg(format!("--include={packages}"))
        .arg(SUITE)
        .arg(place)
        .arg(vm::apt::archive(false)?);
    shell::run(&mut make)
}

fn wrap(newer: &Newer, system: &Path) -> Result<()> {
    let bin = shell::tools().join("bin");
    fs::create_dir_all(&bin)?;
    let place = bin.join(newer.name);
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /usr && exec /usr/sbin/{} \"$@\"' '{}' \"$@\"\n",
        newer.program,
        system.join("usr").display(),
    );
    fs::write(&place, script)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    let says = shell::command("sh")
        .args(["-c", "\"$0\" -v 2>&1"])
        .arg(&place)
        .output()
        .context("ask for its version")?;
    let says = String::from_utf8_lossy(&says.stdout).into_owned();
    let right = says.contains(newer.says);
    if !right {
        fs::remove_file(&place)?;
    }
    let first = says.lines().next().unwrap_or_default();
    ensure!(
        right,
        "{SUITE} has {first:?} where {:?} is wanted",
        newer.says
    );
    Ok(())
}
