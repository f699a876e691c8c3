//! `cargo xtask lab`: scenarios of the lab, the matrix, or both, with a program built for them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{build, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab's own options: `--list`; `--row 2,4`, `--full` for scenarios; `--proxy nginx`, `--cause
    /// keepalive_race`, `--repeat 3`, `--seed 7`, `--source kernel,packets,logs,all` for the matrix
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::pingora::install();
    let program = build::run(&build::Args { release: true })?;
    shell::run(command(&program).args(&args.options))
}

/// The lab, for this program.
pub(crate) fn command(program: &Path) -> Command {
    let mut lab = shell::cargo();
    lab.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "lab",
        "--",
        "--why502",
    ])
    .arg(program);
    lab
}
