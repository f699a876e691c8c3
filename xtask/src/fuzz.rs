//! `cargo xtask fuzz`: every fuzz target for a bounded time.
//!
//! cargo-fuzz wants a nightly compiler for its instrumentation; RUSTC_BOOTSTRAP lends the stable
//! one the same options.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::shell;

const VERSION: &str = "0.13.2";
/// More than any input may make the program take.
const MEMORY_MB: u32 = 1024;
/// Bytes of an input; more where a seed has more.
const LONGEST: u64 = 8192;
/// A single input that takes longer hangs.
const SLOWEST_SECONDS: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only this target; may be repeated
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
    /// Leave out AddressSanitizer: several times as many inputs, and no look into unsafe code
    #[arg(long)]
    fast: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!(
            "no fuzz target is named {unknown}; there are {}",
            all.join(", ")
        );
    }
    install()?;
    let mut failed = Vec::new();
    for target in &all {
        if !args.targets.is_empty() && !args.targets.contains(target) {
            continue;
        }
        if let Err(error) = fuzz(target, args) {
            eprintln!("{error:#}");
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "an input breaks {}; it is in fuzz/artifacts, and the text above says how to repeat it",
            failed.join(", ")
        );
    }
    Ok(())
}

fn folder() -> PathBuf {
    shell::root().join("fuzz")
}

/// The targets by their files.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

fn install() -> Result<()> {
    let installed = shell::ask(shell::cargo().args(["fuzz", "--version"]));
    if installed.is_some() {
        return Ok(());
    }
    println!("fuzz: installing cargo-fuzz {VERSION} for this repository alone");
    shell::run(
        shell::cargo()
            .args([
                "install",
                "cargo-fuzz",
                "--locked",
                "--version",
                VERSION,
                "--root",
            ])
            .arg(shell::tools()),
    )
}

fn fuzz(target: &str, args: &Args) -> Result<()> {
    let found = folder().join("corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("create {}", found.display()))?;
    let mut cargo = shell::cargo();
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", "--sanitizer"])
        .arg(if args.fast { "none" } else { "address" })
        .arg(target)
        .arg(&found);
    let seeds = seeds(target);
    cargo.args(&seeds);
    let dictionary = folder().join(format!("dictionaries/{target}.dict"));
    cargo.arg("--").args([
        format!("-max_total_time={}", args.seconds),
        format!("-rss_limit_mb={MEMORY_MB}"),
        format!("-timeout={SLOWEST_SECONDS}"),
        format!("-max_len={}", longest(&seeds)?.max(LONGEST)),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    if dictionary.exists() {
        cargo.arg(format!("-dict={}", dictionary.display()));
    }
    shell::run(&mut cargo)
}

/// Folders of files that a target may begin with; what it finds goes elsewhere.
fn seeds(target: &str) -> Vec<PathBuf> {
    let own = folder().join("seeds").join(target);
    let captures = (target == "capture").then(|| shell::root().join("tests/captures"));
    own.is_dir()
        .then_some(own)
        .into_iter()
        .chain(captures)
        .collect()
}

/// A seed that is cut is damaged before the first look at it.
fn longest(folders: &[PathBuf]) -> Result<u64> {
    let mut longest = 0;
    for folder in folders {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            longest = longest.max(entry?.metadata()?.len());
        }
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_and_dictionary_is_a_targets_and_no_seed_is_empty() {
        let targets = targets().unwrap();
        for (under, suffix) in [("seeds", ""), ("dictionaries", ".dict")] {
            for entry in fs::read_dir(folder().join(under)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let target = name.strip_suffix(suffix).unwrap().to_owned();
                assert!(targets.contains(&target), "{under}/{name}");
            }
        }
        let with_seeds: Vec<&String> = targets.iter().filter(|t| !seeds(t).is_empty()).collect();
        assert_eq!(with_seeds, ["capture", "http"]);
        for target in with_seeds {
            assert!(longest(&seeds(target)).unwrap() > 0, "{target}");
        }
    }
}
