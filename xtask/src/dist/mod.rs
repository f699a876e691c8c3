//! `cargo xtask dist`: what is given away: a tarball with the program for any distribution, a Debian
//! package, their checksums.

mod emulated;
mod package;
mod program;
mod service;
mod tools;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::vm::arch::Arch;
use crate::{process, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kinds of machines that they are for
    #[arg(long, value_delimiter = ',', default_value = "x86_64")]
    arch: Vec<Arch>,
    /// Then install, start, upgrade and remove those for x86-64 in clean Debian systems, and start those for
    /// arm64 by emulation; needs root
    #[arg(long = "try")]
    try_them: bool,
    /// With --try, the suites that the tarball is started in
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "bullseye,bookworm,trixie,sid"
    )]
    suites: Vec<String>,
}

/// What was made.
struct Made {
    /// The package, and the same as its next revision.
    packages: [PathBuf; 2],
    sums: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::adopt_orphans();
    process::end_all_when_interrupted();
    let here = args.arch.contains(&Arch::X86_64);
    ensure!(
        here || !args.try_them,
        "what is for other machines is compared with what is for x86-64: --arch x86_64,aarch64"
    );
    let tools = tools::install()?;
    let out = shell::target().join("dist");
    let files = out.join("files");
    process::fresh_folder(&files)?;
    let manual = manual(&out)?;
    let mut made = Vec::new();
    for &arch in &args.arch {
        let program = program::build(&tools, arch)?;
        package::tarball(arch, &program, &manual, &files)?;
        made.push((arch, program, package::debs(arch, &files, &out)?));
    }
    let sums = checksums(&files)?;
    println!("{}", fs::read_to_string(&sums)?.trim_end());
    println!("in {}", files.display());
    if args.try_them {
        try_all(made, sums, &args.suites)?;
    }
    Ok(())
}

fn try_all(
    made: Vec<(Arch, PathBuf, [PathBuf; 2])>,
    sums: PathBuf,
    suites: &[String],
) -> Result<()> {
    ensure!(
        shell::is_root(),
        "--try makes whole systems: run it as root"
    );
    let (ours, others): (Vec<_>, Vec<_>) = made
        .into_iter()
        .partition(|(arch, ..)| *arch == Arch::X86_64);
    for (_, program, packages) in ours {
        let sums = sums.clone();
        service::run(&packages)?;
        let said = trial::run(&Made { packages, sums }, &program, suites)?;
        for (arch, program, packages) in &others {
            emulated::run(*arch, program, packages, suites, &said.verdicts)?;
        }
    }
    Ok(())
}

/// Manual pages and completions, made from the command line's definitions. Gives their folder.
pub(crate) fn manual(out: &Path) -> Result<PathBuf> {
    let folder = out.join("manual");
    process::fresh_folder(&folder)?;
    let mut cargo = shell::cargo();
    cargo
        .args(["run", "--quiet", "--package", "why502"])
        .args(["--example", "manual", "--"])
        .arg(&folder);
    shell::run(&mut cargo).context("make the manual pages")?;
    Ok(folder)
}

/// `SHA256SUMS` of the files in a folder, as `sha256sum --check` reads it.
fn checksums(folder: &Path) -> Result<PathBuf> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let bytes = fs::read(folder.join(&name)).with_context(|| format!("read {name}"))?;
        let sum = Sha256::digest(&bytes);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{sum}  {name}\n");
    }
    let path = folder.join("SHA256SUMS");
    fs::write(&path, text)?;
    Ok(path)
}
