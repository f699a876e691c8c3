//! `cargo xtask dist --try` for machines of another kind: tarball, package and image, started by an emulator
//! of their processor with the C library of each Debian.
//!
//! A capture is read there. Probes are no part of it: the kernel is this host's. `cargo xtask vm` has them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::package;
use super::trial::{self, CAPTURE, PACKAGED_FOR};
use crate::containers::{IMAGE, Podman};
use crate::setup::machines::{self, EMULATOR};
use crate::vm::arch::Arch;
use crate::vm::foreign;
use crate::{process, shell};

/// Of every kind it gives these verdicts.
pub(super) fn run(
    arch: Arch,
    program: &Path,
    packages: &[PathBuf; 2],
    suites: &[String],
    verdicts: &[String],
) -> Result<()> {
    machines::install_emulator()?;
    let folder = shell::target().join("dist").join(arch.name());
    process::fresh_folder(&folder)?;
    let same = |library: &Path, program: &Path| -> Result<()> {
        let said = explain(library, program)?;
        ensure!(
            said == verdicts,
            "{} said\n{said:#?}\nand what is for this host\n{verdicts:#?}",
            program.display()
        );
        Ok(())
    };
    let tarball = from_tarball(arch, &folder)?;
    let package = from_package(arch, &packages[0], &folder)?;
    for suite in suites {
        let library = foreign::c_library(arch, suite)?;
        for program in [&tarball, &package] {
            same(&library, program).with_context(|| format!("with {suite}'s C library"))?;
        }
        println!(
            "dist: {}: with {suite}'s C library the tarball's program and the package's give the same {} \
             verdicts",
            arch.debian(),
            verdicts.len()
        );
    }
    let image = image(arch, program, &folder)?;
    same(&image, &image.join("usr/bin/why502")).context("in the image")?;
    println!("dist: {}: so does the image's", arch.debian());
    Ok(())
}

fn from_tarball(arch: Arch, folder: &Path) -> Result<PathBuf> {
    let name = package::name(arch);
    let file = shell::target().join(format!("dist/files/{name}.tar.gz"));
    let mut tar = shell::command("tar");
    tar.arg("--extract").arg("--file").arg(&file);
    shell::run(tar.arg("--directory").arg(folder))?;
    Ok(folder.join(name).join("why502"))
}

fn from_package(arch: Arch, file: &Path, folder: &Path) -> Result<PathBuf> {
    let mut field = shell::command("dpkg-deb");
    field.arg("--field").arg(file).arg("Architecture");
    let named = shell::ask(&mut field).context("ask dpkg-deb what the package is for")?;
    ensure!(
        named.trim() == arch.debian(),
        "the package is for {}",
        named.trim()
    );
    let place = folder.join("package");
    let mut unpack = shell::command("dpkg-deb");
    shell::run(unpack.arg("--extract").arg(file).arg(&place))?;
    Ok(place.join("usr/bin/why502"))
}

/// The root of the image, unpacked.
fn image(arch: Arch, program: &Path, folder: &Path) -> Result<PathBuf> {
    let library = foreign::c_library(arch, PACKAGED_FOR)?;
    let base = folder.join("base.tar");
    let mut tar = shell::command("tar");
    tar.arg("--create").arg("--file").arg(&base);
    shell::run(tar.arg("--directory").arg(&library).arg("."))?;
    let podman = Podman {
        folder: folder.join("podman"),
    };
    fs::create_dir_all(&podman.folder)?;
    podman.build(program, &base, arch.debian())?;
    let mut inspect = podman.quick();
    inspect.args(["image", "inspect", IMAGE, "--format", "{{.Architecture}}"]);
    let named = shell::ask(&mut inspect).context("ask Podman what the image is for")?;
    ensure!(
        named.trim() == arch.debian(),
        "the image is for {}",
        named.trim()
    );
    let mut create = podman.quick();
    create.args(["create", "--pull=never", "--arch", arch.debian(), IMAGE]);
    let made = shell::ask(&mut create).context("make a container of the image")?;
    let archive = folder.join("image.tar");
    let mut export = podman.quick();
    export.args(["export", "--output"]).arg(&archive);
    shell::run(export.arg(made.trim()))?;
    let root = folder.join("image");
    fs::create_dir_all(&root)?;
    let mut tar = shell::command("tar");
    tar.arg("--extract").arg("--file").arg(&archive);
    shell::run(tar.arg("--directory").arg(&root))?;
    Ok(root)
}

fn explain(library: &Path, program: &Path) -> Result<Vec<String>> {
    let mut emulator = shell::command(EMULATOR);
    emulator.arg("-L").arg(library).arg(program);
    emulator.args(["explain", "--json"]);
    emulator.arg(shell::root().join("tests/captures").join(CAPTURE));
    let said =
        shell::ask(&mut emulator).with_context(|| format!("{} fails", shell::line(&emulator)))?;
    Ok(trial::verdicts(&said))
}
