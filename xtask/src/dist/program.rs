//! The program for any distribution: linked against an old glibc, and looked at afterwards.

use std::path::{Path, PathBuf};

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, bail, ensure};

use super::tools::Tools;
use crate::{process, shell};

/// The oldest C library that it starts with: Debian 11's.
pub(super) const GLIBC: (u32, u32) = (2, 31);
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Libraries that glibc itself consists of.
const GLIBC_FILES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
];

pub(super) fn build(tools: &Tools) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo
        .args(["zigbuild", "--release", "--locked"])
        .args(["--package", "why502", "--bin", "why502"])
        .arg("--target")
        .arg(format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1))
        .env("CARGO_ZIGBUILD_ZIG_PATH", &tools.zig)
        .env("LIBPCAP_LIBDIR", libpcap()?);
    shell::run(&mut cargo).context("build the program against an old glibc")?;
    let program = shell::target().join(TARGET).join("release/why502");
    inspect(&program)?;
    Ok(program)
}

/// A folder with libpcap's archive alone. The crate `pcap` asks for a shared library, and Zig takes
/// nothing else for one, but looks into what has its name.
fn libpcap() -> Result<PathBuf> {
    let mut cc = shell::command("cc");
    let archive = shell::ask(cc.arg("-print-file-name=libpcap.a"))
        .and_then(|path| Path::new(path.trim()).canonicalize().ok())
        .context("libpcap.a is not installed; Debian's libpcap-dev has it")?;
    let folder = shell::target().join("dist/libpcap");
    process::fresh_folder(&folder)?;
    for name in ["libpcap.a", "libpcap.so"] {
        symlink(&archive, folder.join(name))?;
    }
    Ok(folder)
}

/// Needs nothing but glibc, of that age; has the kernel half and libpcap in it.
fn inspect(program: &Path) -> Result<()> {
    let ask = |option: &str| {
        let mut objdump = shell::command("objdump");
        shell::ask(objdump.arg(option).arg(program)).context("look into the program with objdump")
    };
    let needed = needed(&ask("-p")?);
    let foreign = needed
        .iter()
        .find(|name| !GLIBC_FILES.contains(&name.as_str()));
    if let Some(foreign) = foreign {
        bail!("the program needs {foreign}");
    }
    let symbols = ask("-T")?;
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

fn needed(headers: &str) -> Vec<String> {
    let lines = headers.lines();
    lines
        .filter_map(|line| Some(line.trim().strip_prefix("NEEDED")?.trim().to_owned()))
        .collect()
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
    fn what_objdump_says() {
        let headers =
            "Dynamic Section:\n  NEEDED               libc.so.6\n  NEEDED  libm.so.6\n  INIT 0x1\n";
        assert_eq!(needed(headers), ["libc.so.6", "libm.so.6"]);
        let symbols = "0 DF *UND* 0 (GLIBC_2.2.5) free\n0 DF *UND* 0 (GLIBC_2.30) gettid\n\
                       0 DF *UND* 0  GLIBC_2.4 x\n0 DO .bss 8 (GCC_3.0) y\n";
        assert_eq!(newest(symbols), Some((2, 30)));
        assert_eq!(newest("nothing"), None);
    }
}
