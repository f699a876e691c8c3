//! A host that offers less: a command is shown a copy of the kernel's BTF in which some names are missing, or
//! none, and no tracefs. Nothing else on the host sees that.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

const BTF_FOLDER: &str = "/sys/kernel/btf";
const BTF: &str = "/sys/kernel/btf/vmlinux";
const TRACEFS: &str = "/sys/kernel/tracing";
/// What no name in BTF begins with.
const OTHER: u8 = b'~';

#[derive(clap::Args)]
pub struct Args {
    /// Names of types and functions.
    #[arg(long, value_delimiter = ',')]
    btf: Vec<String>,
    /// The folder of BTF is empty.
    #[arg(long, conflicts_with = "btf")]
    no_btf: bool,
    /// Nor may the command mount it: it loses CAP_SYS_ADMIN.
    #[arg(long)]
    tracefs: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// A program that runs another one so, as a file in this folder.
pub fn wrapper(folder: &Path, btf: &[&str], program: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = std::env::current_exe()?;
    let path = folder.canonicalize()?.join("why502-without");
    let script = format!(
        "#!/bin/sh\nexec '{}' without --tracefs --btf {} -- '{}' \"$@\"\n",
        lab.display(),
        btf.join(","),
        program.display()
    );
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Becomes the command; returns only what kept it from that.
pub fn exec(args: &Args) -> Result<()> {
    let btf = fs::read(BTF).with_context(|| format!("read {BTF}"))?;
    let btf = lacking(btf, &args.btf)?;
    // SAFETY: no memory is involved; this process has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context("unshare the mounts")?;
    mount(None, "/", libc::MS_REC | libc::MS_SLAVE)?;
    // What is mounted stays there when its own name is gone.
    if args.no_btf {
        let empty = tempfile::tempdir()?;
        mount(Some(empty.path()), BTF_FOLDER, libc::MS_BIND)?;
        empty.close()?;
    } else {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&btf)?;
        mount(Some(file.path()), BTF, libc::MS_BIND)?;
        file.close()?;
    }
    if args.tracefs {
        let place = CString::new(TRACEFS)?;
        // SAFETY: a string that lives in this frame. There may be several on top of each other.
        while unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) } == 0 {}
        const CAP_SYS_ADMIN: libc::c_ulong = 21;
        // SAFETY: no memory is involved.
        checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) })
            .context("give up CAP_SYS_ADMIN")?;
    }
    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("no command");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

fn mount(what: Option<&Path>, place: &str, flags: libc::c_ulong) -> Result<()> {
    let name = what.unwrap_or(Path::new("none")).to_string_lossy();
    let (what, at) = (CString::new(&*name)?, CString::new(place)?);
    // SAFETY: strings that live in this frame; these kinds of mounts take neither type nor data.
    checked(unsafe {
        libc::mount(
            what.as_ptr(),
            at.as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    })
    .with_context(|| format!("mount on {place}"))
}

fn checked(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same BTF with other names in the place of these: all types keep their numbers.
fn lacking(mut btf: Vec<u8>, names: &[String]) -> Result<Vec<u8>> {
    ensure!(btf.len() >= 24, "{BTF} is cut");
    let word = |at: usize| u32::from_ne_bytes([btf[at], btf[at + 1], btf[at + 2], btf[at + 3]]);
    let start = word(4) as usize + word(16) as usize;
    let end = start + word(20) as usize;
    let mut strings = btf.get_mut(start..end).context("no strings in BTF")?;
    while let Some(length) = strings.iter().position(|byte| *byte == 0) {
        let (string, rest) = strings.split_at_mut(length + 1);
        if names
            .iter()
            .any(|name| name.as_bytes() == &string[..length])
        {
            string[0] = OTHER;
        }
        strings = rest;
    }
    Ok(btf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_strings_alone_are_missing() {
        let strings = b"\0tcp_sendmsg\0sendmsg\0";
        let mut btf = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, 0, 0, strings.len() as u32] {
            btf.extend_from_slice(&u32::to_ne_bytes(word));
        }
        btf.extend_from_slice(strings);
        let after = lacking(btf.clone(), &["sendmsg".to_owned()]).unwrap();
        assert_eq!(&after[..24], &btf[..24]);
        assert_eq!(&after[24..], b"\0tcp_sendmsg\0~endmsg\0");
        btf.pop();
        assert!(lacking(btf, &[]).is_err());
    }
}
