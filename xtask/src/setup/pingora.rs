//! The lab's proxy made with pingora: a package outside of the workspace, which takes longer to build than
//! all else of the lab, so that only who runs the lab by itself waits for it.

use std::fs;

use anyhow::{Context as _, Result};

use super::apt;
use crate::shell;

const NAME: &str = "pingora-lab";

/// Never fails: what cannot be built is said, and again by the matrix, which skips it.
pub(crate) fn install() {
    if shell::find(NAME).is_some() {
        return;
    }
    println!("setup: building {NAME}");
    if let Err(error) = build() {
        println!("setup: no {NAME}, so it will be skipped in the matrix: {error:#}");
    }
}

fn build() -> Result<()> {
    // Its zlib is built with it.
    if shell::find("cmake").is_none() {
        apt::install(&["cmake"])?;
    }
    let target = shell::tools().join("pingora");
    let mut cargo = shell::cargo();
    cargo
        .args(["build", "--release", "--quiet", "--locked"])
        .args(["--manifest-path", "tests/apps/pingora/Cargo.toml"])
        .arg("--target-dir")
        .arg(&target);
    shell::run(&mut cargo)?;
    let bin = shell::tools().join("bin");
    fs::create_dir_all(&bin)?;
    let program = target.join("release").join(NAME);
    fs::copy(&program, bin.join(NAME)).with_context(|| format!("copy {}", program.display()))?;
    Ok(())
}
