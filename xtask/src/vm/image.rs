//! The machine's disk: this host's own packages and programs, the programs under test and what they are
//! to do, as one ext4 image. No kernel needs a module to read it (NVMe and ext4 are built in).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::arch::Arch;
use super::foreign;
use super::packages::Unpacked;
use crate::shell;

/// What a host for the lab consists of, with all that these depend on.
pub(super) const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "curl",
    "dash",
    "grep",
    "gunicorn",
    "iproute2",
    "iptables",
    "libbpf-tools",
    "libc-bin",
    "libpcap0.8",
    "libstdc++6",
    "mount",
    "netbase",
    "nginx-light",
    "procps",
    "python3",
    "sed",
    "tcpdump",
    "util-linux",
];

/// What no program reads.
pub(super) const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/zoneinfo/",
    "/usr/share/i18n/",
    "/usr/lib/locale/",
    "/usr/lib/x86_64-linux-gnu/gconv/",
    "/usr/lib/aarch64-linux-gnu/gconv/",
    "/var/cache/",
    "/var/lib/dpkg/",
];

/// The agent as a user who owns nothing, with these capabilities (`bpf,perfmon`) and no others.
pub(super) const AS_NOBODY: &str = "why502-as-nobody";
const AS_NOBODY_SCRIPT: &str = "#!/bin/sh
set=-all$(echo \",$1\" | sed s/,/,+/g)
shift
# Before 5.11 maps count as locked memory.
ulimit -l unlimited
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps \"$set\" --ambient-caps \"$set\" \\
    --bounding-set \"$set\" /usr/bin/why502 \"$@\"
";
/// The same with no more than CAP_BPF and CAP_PERFMON.
pub(super) const LEAST: &str = "why502-least";
const LEAST_SCRIPT: &str = "#!/bin/sh
exec why502-as-nobody bpf,perfmon \"$@\"
";

/// Kernel modules that the lab needs: a wire with a delay, and what a firewall is made of.
const MODULES: &[&str] = &["drivers/net/tun"];

/// Makes the tree that every kernel's image has in common.
pub(super) fn tree(place: &Path, arch: Arch, programs: &[PathBuf]) -> Result<()> {
    crate::process::fresh_folder(place)?;
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/local/bin",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "etc",
        "var/log/nginx",
        "var/lib/nginx",
        "vm/out",
    ] {
        fs::create_dir_all(place.join(folder))?;
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{folder}"), place.join(folder))?;
    }
    let node = match arch {
        Arch::X86_64 => {
            copy_files(&files()?, place)?;
            let node = shell::find("node");
            let node = node.context("no node on PATH: `cargo xtask setup` installs it")?;
            fs::canonicalize(node)?
        }
        Arch::Aarch64 => {
            foreign::unpack_host(arch, place)?;
            copy_files(&chosen(), place)?;
            foreign::node(arch)?
        }
    };
    fs::copy(node, place.join("usr/local/bin/node"))?;
    for (from, to) in [("passwd.master", "passwd"), ("group.master", "group")] {
        let master = place.join("usr/share/base-passwd").join(from);
        fs::copy(&master, place.join("etc").join(to))
            .with_context(|| format!("copy {}", master.display()))?;
    }
    fs::write(
        place.join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n",
    )?;
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        fs::copy(program, place.join("usr/bin").join(name))
            .with_context(|| format!("copy {}", program.display()))?;
    }
    for (name, script) in [(AS_NOBODY, AS_NOBODY_SCRIPT), (LEAST, LEAST_SCRIPT)] {
        let path = place.join("usr/bin").join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The files of the packages and of all they depend on.
fn files() -> Result<Vec<String>> {
    let depends = shell::ask(
        shell::command("apt-cache")
            .args(["depends", "--recurse", "--installed", "--no-recommends"])
            .args(["--no-suggests", "--no-conflicts", "--no-breaks"])
            .args(["--no-replaces", "--no-enhances"])
            .args(PACKAGES),
    )
    .context("ask apt-cache what the packages depend on")?;
    let packages: BTreeSet<&str> = depends
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']))
        .collect();
    // One that is only named by another is not installed: dpkg-query lists the rest all the same.
    let listed = shell::command("dpkg-query")
        .arg("--listfiles")
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .context("start dpkg-query")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let merged = |path: &str| match path.split('/').nth(1) {
        Some("bin" | "sbin" | "lib" | "lib64") => format!("/usr{path}"),
        _ => path.to_owned(),
    };
    let mut files: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with('/'))
        .map(merged)
        .filter(|path| !LEFT_OUT.iter().any(|left_out| path.starts_with(left_out)))
        .filter(|path| {
            Path::new(path)
                .symlink_metadata()
                .is_ok_and(|file| !file.is_dir())
        })
        .collect();
    files.extend(chosen());
    ensure!(
        files.len() > 1000,
        "dpkg-query named only {} files",
        files.len()
    );
    Ok(files.into_iter().collect())
}

/// What the packages' own scripts chose here: links that name no kind of machine.
fn chosen() -> Vec<String> {
    let links = fs::read_dir("/etc/alternatives");
    let links = links.into_iter().flatten().flatten();
    links
        .map(|entry| entry.path().display().to_string())
        .collect()
}

fn copy_files(files: &[String], place: &Path) -> Result<()> {
    let mut pack = Command::new("tar")
        .args(["-C", "/", "--no-recursion", "-cf", "-", "-T", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tar")?;
    let unpack = Command::new("tar")
        .args(["-xf", "-", "-C"])
        .arg(place)
        .stdin(pack.stdout.take().context("tar has no output")?)
        .spawn()
        .context("start tar")?;
    let mut input = pack.stdin.take().context("tar has no input")?;
    for file in files {
        writeln!(input, "{}", file.trim_start_matches('/'))?;
    }
    drop(input);
    let unpacked = unpack.wait_with_output()?.status;
    ensure!(
        pack.wait()?.success() && unpacked.success(),
        "copy the packages' files"
    );
    Ok(())
}

/// The image of one kernel's machine, which is to run these commands.
pub(super) fn make(
    tree: &Path,
    kernel: &Unpacked,
    commands: &[String],
    image: &Path,
) -> Result<()> {
    let folder = tree.join("vm/modules.d");
    crate::process::fresh_folder(&folder)?;
    let mut loaded = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        let plain = kernel.modules.join(format!("{module}.ko"));
        let packed = kernel.modules.join(format!("{module}.ko.xz"));
        let to = folder.join(format!("{name}.ko"));
        if plain.exists() {
            fs::copy(&plain, &to)?;
        } else {
            let mut xz = shell::command("xz");
            let unpacked = xz
                .args(["--decompress", "--stdout"])
                .arg(&packed)
                .output()
                .context("start xz")?;
            ensure!(unpacked.status.success(), "unpack {}", packed.display());
            fs::write(&to, unpacked.stdout)?;
        }
        loaded += &format!("/vm/modules.d/{name}.ko\n");
    }
    fs::write(tree.join("vm/modules"), loaded)?;
    fs::write(tree.join("vm/run"), commands.join("\n") + "\n")?;
    ext4(tree, image, 1 << 30)
}

/// A file system with what a folder holds, as an image of so many bytes.
pub(super) fn ext4(tree: &Path, image: &Path, bytes: u64) -> Result<()> {
    let _ = fs::remove_file(image);
    // Sparse: what is not written takes no room.
    fs::File::create(image)?.set_len(bytes)?;
    let mut mkfs = shell::command("mkfs.ext4");
    let made = mkfs
        .args(["-q", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(tree)
        .arg(image)
        .stdout(Stdio::null())
        .status()
        .context("start mkfs.ext4")?;
    ensure!(made.success(), "mkfs.ext4 of {}: {made}", image.display());
    Ok(())
}

/// What the machine left, out of its image and into a folder `out`.
pub(super) fn results(image: &Path, place: &Path) -> Result<PathBuf> {
    let mut debugfs = shell::command("debugfs");
    let read = debugfs
        .arg("-R")
        .arg(format!("rdump /vm/out {}", place.display()))
        .arg(image)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("start debugfs")?;
    ensure!(read.success(), "read {}: {read}", image.display());
    Ok(place.join("out"))
}
