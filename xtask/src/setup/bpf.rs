//! The kernel half's linker: built for the LLVM of the compiler that it has to follow.
//!
//! Which compiler is used is decided by the agent's build script, and there alone. Setup prepares
//! the first one that it would take on Debian; a person's own toolchain needs their own linker.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell;

const COMPILER: &str = "/usr/bin/rustc";
/// Reads bitcode of LLVM 21 to 23.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// What is missing, without installing anything.
pub(super) fn missing() -> Vec<String> {
    let package = llvm_package().map(|name| format!("package {name}"));
    let linker = (!current()).then(|| "bpf-linker (target/tools/bin)".to_owned());
    package.into_iter().chain(linker).collect()
}

/// The package with the LLVM that the compiler was built with, if it is not installed.
pub(super) fn llvm_package() -> Option<String> {
    let major = llvm_major()?;
    let config = llvm_prefix(major).join("bin/llvm-config");
    (!config.exists()).then(|| format!("llvm-{major}-dev"))
}

pub(super) fn install() -> Result<()> {
    let major = llvm_major()
        .with_context(|| format!("{COMPILER} does not say which LLVM it was built with"))?;
    if !current() {
        println!("setup: building bpf-linker for LLVM {major} (about a minute)");
        let mut cargo = shell::cargo();
        cargo
            .args(["install", "bpf-linker", "--force", "--no-default-features"])
            .args(["--features", &format!("llvm-{major}")])
            .arg("--root")
            .arg(shell::tools());
        if LINKER_LLVM.contains(&major) {
            cargo.args(["--locked", "--version", LINKER_VERSION]);
        } else {
            println!(
                "setup: bpf-linker {LINKER_VERSION}, which this repository is tested with, does \
                 not know LLVM {major}; taking the newest"
            );
        }
        // Its own folder: bpf-linker must not follow this repository's flags or settings.
        cargo
            .current_dir("/")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .env("LLVM_PREFIX", llvm_prefix(major));
        shell::run(&mut cargo).context("build bpf-linker")?;
        if !linker().exists() {
            bail!("cargo installed no {}", linker().display());
        }
        fs::write(record(), identity(major))?;
    }
    stamp()
}

/// Tells the agent's build script that the toolchain may have changed.
fn stamp() -> Result<()> {
    let path = shell::tools().join("bpf-toolchain");
    let compiler = shell::ask(shell::command(COMPILER).arg("-vV")).unwrap_or_default();
    let now = format!(
        "{compiler}{}",
        fs::read_to_string(record()).unwrap_or_default()
    );
    if fs::read_to_string(&path).unwrap_or_default() != now {
        fs::write(&path, now).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Whether the linker is there and was built for the compiler's LLVM.
fn current() -> bool {
    let Some(major) = llvm_major() else {
        return false;
    };
    linker().exists() && fs::read_to_string(record()).is_ok_and(|text| text == identity(major))
}

fn llvm_major() -> Option<u32> {
    let text = shell::ask(shell::command(COMPILER).arg("-vV"))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn llvm_prefix(major: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{major}"))
}

fn linker() -> PathBuf {
    shell::tools().join("bin/bpf-linker")
}

fn record() -> PathBuf {
    shell::tools().join("bpf-linker.built")
}

fn identity(major: u32) -> String {
    format!("bpf-linker {LINKER_VERSION} llvm-{major}\n")
}
