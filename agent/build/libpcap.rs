//! Has libpcap linked into the program where its archive is installed, so that the program starts
//! on a host that has no libpcap.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Result, watch};

/// The folder in which a person says that libpcap is; the crate `pcap` knows it too.
const FOLDER: &str = "LIBPCAP_LIBDIR";
const ARCHIVE: &str = "libpcap.a";

pub(crate) fn link(out: &Path) -> Result<()> {
    println!("cargo:rustc-check-cfg=cfg(libpcap_linked_in)");
    println!("cargo:rerun-if-env-changed={FOLDER}");
    let Some(archive) = archive() else {
        println!(
            "cargo:warning=there is no {ARCHIVE} (Debian's package libpcap-dev has it): the \
             program will need libpcap.so where it runs"
        );
        return Ok(());
    };
    watch(&archive);
    // In a folder of its own: beside a shared library the linker would take that one.
    let folder = out.join("libpcap");
    fs::create_dir_all(&folder)?;
    let link = folder.join(ARCHIVE);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => symlink(archive, &link)?,
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-cfg=libpcap_linked_in");
    Ok(())
}

/// Where the person says, else where the linker would look.
fn archive() -> Option<PathBuf> {
    let path = match env::var_os(FOLDER) {
        Some(folder) => PathBuf::from(folder).join(ARCHIVE),
        None => {
            let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
            let ask = format!("-print-file-name={ARCHIVE}");
            let output = Command::new(linker).arg(ask).output().ok()?;
            // A linker that does not find it repeats the name.
            PathBuf::from(String::from_utf8(output.stdout).ok()?.trim())
        }
    };
    path.is_absolute()
        .then(|| path.canonicalize().ok())
        .flatten()
}
