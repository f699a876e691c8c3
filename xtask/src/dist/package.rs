//! The tarball and the Debian packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::vm::arch::Arch;
use crate::{process, shell};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the repository that come with the program, and where in the tarball.
const WITH_IT: &[(&str, &str)] = &[
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("deploy/why502.service", "why502.service"),
    ("deploy/why502.toml", "why502.toml"),
    ("docs", "docs"),
    ("dashboards", "dashboards"),
];

/// The name without its ending, which is also the folder inside.
pub(super) fn name(arch: Arch) -> String {
    format!("why502-{VERSION}-{}", arch.target())
}

pub(super) fn tarball(arch: Arch, program: &Path, manual: &Path, out: &Path) -> Result<()> {
    let staged = shell::target().join("dist/staged");
    process::fresh_folder(&staged)?;
    let name = name(arch);
    let folder = staged.join(&name);
    fs::create_dir_all(&folder)?;
    fs::copy(program, folder.join("why502"))?;
    for (from, to) in WITH_IT {
        let mut copy = shell::command("cp");
        copy.arg("--recursive").arg(shell::root().join(from));
        shell::run(copy.arg(folder.join(to)))?;
    }
    for part in ["man", "completions"] {
        fs::create_dir_all(folder.join(part))?;
        for entry in fs::read_dir(manual.join(part))? {
            let path = entry?.path();
            let name = path.file_name().context("a page's name")?;
            fs::copy(&path, folder.join(part).join(name))?;
        }
    }
    let file = out.join(format!("{name}.tar.gz"));
    // The same bytes from the same files: nothing of this machine or moment is in it.
    let mut tar = shell::command("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args([
            "--mtime=@0",
            "--mode=u+w,go-w",
            "--use-compress-program=gzip -9n",
        ])
        .arg("--create")
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(&staged)
        .arg(&name);
    shell::run(&mut tar)
}

/// The package, and beside what is given away its next revision, to upgrade to.
pub(super) fn debs(arch: Arch, out: &Path, aside: &Path) -> Result<[PathBuf; 2]> {
    Ok([deb(arch, out, 1)?, deb(arch, aside, 2)?])
}

fn deb(arch: Arch, out: &Path, revision: u32) -> Result<PathBuf> {
    let debian = arch.debian();
    let file = out.join(format!("why502_{VERSION}-{revision}_{debian}.deb"));
    let mut cargo = shell::cargo();
    cargo
        .args(["deb", "--package", "why502", "--no-build", "--locked"])
        .args(["--target", &arch.target()])
        .args(["--deb-revision", &revision.to_string()])
        .arg("--output")
        .arg(&file);
    shell::run(&mut cargo).context("make the Debian package")?;
    Ok(file)
}
