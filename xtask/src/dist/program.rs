//! The program for any distribution: linked against an old glibc, and looked at afterwards.

use std::path::{Path, PathBuf};

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, bail, ensure};

use super::tools::Tools;
use crate::vm::arch::Arch;
use crate::vm::foreign::Sysroot;
use crate::{process, setup, shell};

/// The oldest C library that it starts with: Debian 11's.
pub(super) const GLIBC: (u32, u32) = (2, 31);

/// Libraries that glibc itself consists of.
const GLIBC_FILES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

pub(super) fn build(tools: &Tools, arch: Arch) -> Result<PathBuf> {
    let target = arch.target();
    let mut cargo = shell::cargo();
    cargo
        .args(["zigbuild", "--release", "--locked"])
        .args(["--package", "why502", "--bin", "why502"])
        .arg("--target")
        .arg(format!("{target}.{}.{}", GLIBC.0, GLIBC.1))
        .env("CARGO_ZIGBUILD_ZIG_PATH", &tools.zig);
    let archive = match arch {
        Arch::X86_64 => {
            let mut cc = shell::command("cc");
            shell::ask(cc.arg("-print-file-name=libpcap.a")).map(|path| path.trim().into())
        }
        Arch::Aarch64 => {
            setup::machines::install_foreign_binutils()?;
            let sysroot = Sysroot::new(arch)?;
            sysroot.compiles(&mut cargo);
            Some(sysroot.libpcap().join("libpcap.a"))
        }
    };
    cargo.env("LIBPCAP_LIBDIR", libpcap(arch, archive)?);
    shell::run(&mut cargo).context("build the program against an old glibc")?;
    let program = shell::target().join(target).join("release/why502");
    inspect(&program)?;
    Ok(program)
}

/// A folder with libpcap's archive alone. The crate `pcap` asks for a shared library, and Zig takes
/// nothing else for one, but looks into what has its name.
fn libpcap(arch: Arch, archive: Option<PathBuf>) -> Result<PathBuf> {
    let archive = archive
        .and_then(|path| path.canonicalize().ok())
        .context("libpcap.a is not installed; Debian's libpcap-dev has it")?;
    let folder = shell::target().join("dist/libpcap").join(arch.name());
    process::fresh_folder(&folder)?;
    for name in ["libpcap.a", "libpcap.so"] {
        symlink(&archive, folder.join(name))?;
    }
    Ok(folder)
}

/// Needs nothing but glibc, of that age; has the kernel half and libpcap in it.
fn inspect(program: &Path) -> Result<()> {
    let ask = |option: &str| {
        // Which reads programs for other machines, too.
        let mut readelf = shell::command("readelf");
        readelf.arg("--wide").arg(option).arg(program);
        shell::ask(&mut readelf).context("look into the program with readelf")
    };
    let needed = needed(&ask("--dynamic")?);
    let foreign = needed
        .iter()
        .find(|name| !GLIBC_FILES.contains(&name.as_str()));
    if let Some(foreign) = foreign {
        bail!("the program needs {foreign}");
    }
    let symbols = ask("--version-info")?;
    let newest = newest(&symbols).context("the program names no version of glibc")?;
    ensure!(
        newest <= GLIBC,
        "the program needs glibc {}.{}, not {}.{}",
        newest.0,
        newest.1,
        GLIBC.0,
        GLIBC.1
    );
    println!(
        "the program needs glibc {}.{} or later, and {}",
        newest.0,
        newest.1,
        needed.join(", ")
    );
    Ok(())
}

fn needed(dynamic: &str) -> Vec<String> {
    let named = |line: &str| {
        let (_, name) = line.split_once("(NEEDED)")?;
        let (name, _) = name.split_once('[')?.1.split_once(']')?;
        Some(name.to_owned())
    };
    dynamic.lines().filter_map(named).collect()
}

/// The newest `GLIBC_x.y` that a symbol has.
fn newest(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1);
    versions
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            let mut numbers = rest[..end.unwrap_or(rest.len())].split('.');
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readelf_says() {
        let dynamic = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
                       \x20 0x0000000000000001 (NEEDED)  Shared library: [libm.so.6]\n\
                       \x20 0x000000000000000c (INIT)               0x103000\n";
        assert_eq!(needed(dynamic), ["libc.so.6", "libm.so.6"]);
        let versions = "  0x0010:   Name: GLIBC_2.2.5  Flags: none  Version: 10\n\
                        \x20 0x0020:   Name: GLIBC_2.30  Flags: none  Version: 9\n\
                        \x20 0x0030:   Name: GLIBC_2.4  Flags: none  Version: 8\n\
                        \x20 0x0040:   Name: GCC_3.0  Flags: none  Version: 7\n";
        assert_eq!(newest(versions), Some((2, 30)));
        assert_eq!(newest("nothing"), None);
    }
}
