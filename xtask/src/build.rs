//! `cargo xtask build`: the agent, with the kernel half inside.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{setup, shell};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Optimise the agent (the kernel half always is)
    #[arg(long)]
    pub(crate) release: bool,
}

/// Builds and gives the program's path.
pub(crate) fn run(args: &Args) -> Result<PathBuf> {
    setup::run(&setup::Args::default())?;
    let mut cargo = shell::cargo();
    cargo.arg("build");
    if args.release {
        cargo.arg("--release");
    }
    agent(&mut cargo)
}

/// What this `cargo build` makes of the agent: its path, if the kernel half is in it.
pub(crate) fn agent(cargo: &mut Command) -> Result<PathBuf> {
    cargo.args(["--package", "why502", "--bin", "why502"]);
    shell::announce(cargo);
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("the agent does not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let half = kernel_half(&messages).context("the agent's build script did not report")?;
    // The build script leaves the object empty where it finds no toolchain.
    if half == "absent" {
        bail!("the agent was built without the kernel half; the warnings above say why");
    }
    let program = messages
        .iter()
        .filter(|message| message["target"]["name"] == "why502")
        .find_map(|message| message["executable"].as_str())
        .context("cargo named no program")?;
    println!("built {program}; kernel half by {half}");
    Ok(PathBuf::from(program))
}

/// Which compiler made the kernel half, as the build script tells the agent.
fn kernel_half(messages: &[Value]) -> Option<String> {
    messages
        .iter()
        .filter(|message| message["reason"] == "build-script-executed")
        .filter_map(|message| message["env"].as_array())
        .flatten()
        .find(|pair| pair[0] == "WHY502_KERNEL_HALF")
        .and_then(|pair| pair[1].as_str())
        .map(str::to_owned)
}
