//! What the virtual machines with other kernels need.
//!
//! Nothing else needs it, so a machine that cannot have it is told so and goes on without.

use super::{Proof, apt};
use crate::shell;

/// Debian's packages and a program of each.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("e2fsprogs", "debugfs"),
    ("xz-utils", "xz"),
    ("libbpf-tools", "tcpstates"),
];

/// What machines of another kind need besides: installed when one is asked for.
const FOREIGN: &[(&str, Proof)] = &[
    ("qemu-system-arm", Proof::Program("qemu-system-aarch64")),
    (
        "gcc-aarch64-linux-gnu",
        Proof::Program("aarch64-linux-gnu-gcc"),
    ),
    (
        "libc6-dev-arm64-cross",
        Proof::File("/usr/aarch64-linux-gnu/include/stdio.h"),
    ),
];

/// Fails where something cannot be had: a person has asked for it.
pub(crate) fn install_foreign() -> anyhow::Result<()> {
    let missing = FOREIGN.iter().filter(|(_, proof)| !proof.holds());
    let missing: Vec<_> = missing.map(|&(package, _)| package).collect();
    apt::install(&missing)
}

/// What packages for machines of another kind are made with.
pub(crate) fn install_foreign_binutils() -> anyhow::Result<()> {
    match shell::find("aarch64-linux-gnu-strip") {
        Some(_) => Ok(()),
        None => apt::install(&["binutils-aarch64-linux-gnu"]),
    }
}

/// What starts arm64's programs, one by one.
pub(crate) const EMULATOR: &str = "qemu-aarch64";

pub(crate) fn install_emulator() -> anyhow::Result<()> {
    match shell::find(EMULATOR) {
        Some(_) => Ok(()),
        None => apt::install(&["qemu-user"]),
    }
}

pub(super) fn missing() -> Vec<String> {
    let missing = packages();
    missing.map(|name| format!("package {name}")).collect()
}

fn packages() -> impl Iterator<Item = &'static str> {
    let missing = PACKAGES
        .iter()
        .filter(|(_, program)| shell::find(program).is_none());
    missing.map(|&(package, _)| package)
}

/// Never fails: what cannot be installed is said, and again by the tests that are then skipped.
pub(super) fn install() {
    let missing: Vec<_> = packages().collect();
    if let Err(error) = apt::install(&missing) {
        println!(
            "setup: no virtual machines, so tests on other kernels will be skipped: {error:#}"
        );
    }
}
