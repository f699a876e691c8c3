//! What packaging needs besides a build: Zig as a linker that knows old glibcs, and cargo-deb. Installed
//! into this repository's tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::setup::{self, wheel};
use crate::shell;

/// As wheels both need no compiling.
const ZIG: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];
const DEB: &str = "3.8.0";

pub(super) struct Tools {
    pub(super) zig: PathBuf,
}

pub(super) fn install() -> Result<Tools> {
    setup::run(&setup::Args::default())?;
    install_crate("cargo-deb", DEB)?;
    let venv = wheel::environment("zig", &ZIG)?;
    let zig = zig(&venv).with_context(|| format!("{} holds no zig", ZIG[0]))?;
    // Where cargo finds it.
    let link = shell::tools().join("bin/cargo-zigbuild");
    let _ = fs::remove_file(&link);
    symlink(venv.join("bin/cargo-zigbuild"), &link)
        .with_context(|| format!("link {}", link.display()))?;
    Ok(Tools { zig })
}

fn install_crate(name: &str, version: &str) -> Result<()> {
    let proof = shell::tools().join(format!("{name}.built"));
    if shell::tools().join("bin").join(name).is_file()
        && fs::read_to_string(&proof).is_ok_and(|built| built == version)
    {
        return Ok(());
    }
    println!("dist: installing {name} {version} for this repository alone (a minute or two)");
    let mut cargo = shell::cargo();
    cargo
        .args(["install", name, "--version", version, "--locked", "--force"])
        .arg("--root")
        .arg(shell::tools())
        // Not this repository's flags and settings.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    shell::run(&mut cargo).with_context(|| format!("build {name}"))?;
    fs::write(proof, version)?;
    Ok(())
}

fn zig(venv: &Path) -> Option<PathBuf> {
    let mut python = shell::command(&venv.join("bin/python3").display().to_string());
    let find = "import ziglang, os; print(os.path.dirname(ziglang.__file__))";
    let zig = PathBuf::from(shell::ask(python.args(["-c", find]))?.trim()).join("zig");
    zig.is_file().then_some(zig)
}
