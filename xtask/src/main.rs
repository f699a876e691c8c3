//! Everything a person does to this repository, behind `cargo xtask`.

mod agent;
mod bench;
mod browser;
mod build;
mod containers;
mod demo;
mod dist;
mod exposition;
mod fuzz;
mod http;
mod lab;
mod process;
mod setup;
mod shell;
mod streams;
mod test;
#[cfg(test)]
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything a person does to this repository.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Examples:
  cargo xtask demo             break real servers and see each 502 and 504 explained
  cargo xtask test             everything that has to pass before a change lands
  cargo xtask bench --quick    what the probes cost, roughly, in two minutes
  cargo xtask build --release  target/release/why502, with the kernel half inside
  cargo xtask setup --check    what is missing on this machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing needs, through apt and cargo
    Setup(setup::Args),
    /// Build `why502` with the kernel half embedded
    Build(build::Args),
    /// Run every check: format, lints, unit tests, replays, the lab
    Test(test::Args),
    /// Run the lab alone: its scenarios and the matrix of proxies and causes
    #[command(disable_help_flag = true)]
    Lab(lab::Args),
    /// Rewrite the recordings that the agent's tests replay from a lab's output
    Streams(streams::Args),
    /// Break real servers and show each failed response labelled
    Demo(demo::Args),
    /// Take the README's picture of a report anew
    Picture,
    /// Measure what the probes cost the proxy, what the agent takes itself, and what a capture costs
    Bench(bench::Args),
    /// Make what is given away: the tarball, the Debian package, their checksums
    Dist(dist::Args),
    /// Feed the readers and decoders any bytes, for a bounded time
    Fuzz(fuzz::Args),
    /// Run the agent and the lab on Debian's kernels, old and new, in virtual machines
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args).map(drop),
        Command::Test(args) => test::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Streams(args) => streams::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Picture => browser::picture(),
        Command::Bench(args) => bench::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_help_is_the_labs_own() {
        for asked in [&["--help"][..], &["-h"], &["matrix", "--help"]] {
            let words = ["xtask", "lab"].iter().chain(asked);
            match Cli::try_parse_from(words).map(|cli| cli.command) {
                Ok(Command::Lab(args)) => assert!(args.asks_for_help(), "{asked:?}"),
                Ok(_) => panic!("{asked:?} is another command"),
                Err(error) => panic!("{asked:?}: {error}"),
            }
        }
        let short = Cli::try_parse_from(["xtask", "help", "lab"]);
        let short = short.err().map(|shown| shown.to_string());
        assert!(short.is_some_and(|shown| shown.contains("--row 2,4")));
    }
}
