//! `cargo xtask lab`: scenarios of the lab, the matrix, or both, with a program built for them.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{build, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab's own options: `--list`; `--row 2,4`, `--full` for scenarios; `--proxy nginx`, `--cause
    /// keepalive_race`, `--repeat 3`, `--seed 7`, `--source kernel,packets,logs,all` for the matrix;
    /// `--help` for all of them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Args {
    /// The lab says that itself, and has nothing to test for it.
    pub(crate) fn asks_for_help(&self) -> bool {
        let help = |option: &String| option == "--help" || option == "-h";
        self.options.iter().any(help)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.asks_for_help() {
        return shell::run(lab().args(&args.options));
    }
    setup::pingora::install();
    let program = build::run(&build::Args { release: true })?;
    shell::run(command(&program).args(&args.options))
}

/// The lab, for this program.
pub(crate) fn command(program: &Path) -> Command {
    let mut lab = lab();
    lab.arg("--why502").arg(program);
    lab
}

fn lab() -> Command {
    let mut lab = shell::cargo();
    // SAFETY: the call is async-signal-safe and touches no memory.
    unsafe {
        lab.pre_exec(|| {
            // The lab clears up when it is told to end; nobody else tells it when this program is killed.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
            Ok(())
        });
    }
    lab.args(["run", "--release", "--quiet", "--package", "lab", "--"]);
    lab
}
