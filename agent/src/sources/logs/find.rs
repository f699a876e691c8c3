//! Where proxies write their logs: files that they hold open for appending, what their containers write,
//! and the journals of their services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::sources::process::Homes;

/// Files looked at of one process.
const FILES: usize = 4096;

/// Where the logs of some processes are, as far as that can be seen.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that they append to, and with what their containers write, as this process can reach them.
    pub files: BTreeSet<PathBuf>,
    /// The services whose journals have what they write, with the processes of each.
    pub services: BTreeMap<String, BTreeSet<u32>>,
    /// Processes that may have further files open: this one has not the right to see all of them.
    pub unseen: BTreeSet<u32>,
}

/// The logs of these processes.
pub fn logs_of(pids: &[u32], homes: &Homes) -> Found {
    let mut found = Found {
        files: homes.logs(pids),
        services: homes.services(pids),
        unseen: BTreeSet::new(),
    };
    for &pid in pids {
        match open_logs(pid, &mut found.files) {
            Err(error) if is_refused(&error) => {
                found.unseen.insert(pid);
            }
            // It has ended meanwhile.
            _ => {}
        }
    }
    found
}

/// Whether a process has this one's root: it is in no container, or in the same. What is mounted for one of the
/// two alone does not count.
pub fn shares_root(pid: u32) -> bool {
    let identity = |root: &str| fs::metadata(root).ok().map(|m| (m.dev(), m.ino()));
    let own = identity("/");
    own.is_some() && own == identity(&format!("/proc/{pid}/root/"))
}

/// Whether a process and this one mean the same file by a name.
fn shares_files(pid: u32) -> bool {
    let root = fs::read_link(format!("/proc/{pid}/root"));
    root.is_ok_and(|root| root == Path::new("/")) && same_mounts(pid)
}

/// Regular files that a process appends to; an error if there may be others that cannot be seen.
fn open_logs(pid: u32, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let mut refused = Ok(());
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    for entry in entries.flatten().take(FILES) {
        match log_of(pid, &entry) {
            Ok(log) => found.extend(log),
            Err(error) if is_refused(&error) => refused = Err(error),
            // Closed meanwhile.
            Err(_) => {}
        }
    }
    refused
}

fn log_of(pid: u32, entry: &fs::DirEntry) -> io::Result<Option<PathBuf>> {
    let target = fs::read_link(entry.path())?;
    // Sockets, pipes and what has no name any more.
    if !target.is_absolute() || target.to_string_lossy().ends_with(" (deleted)") {
        return Ok(None);
    }
    let fd = entry.file_name();
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.to_string_lossy()))?;
    if !appended(&info) {
        return Ok(None);
    }
    // In another mount namespace: by way of the process.
    let path = match shares_files(pid) {
        true => target,
        false => PathBuf::from(format!("/proc/{pid}/root{}", target.display())),
    };
    Ok(fs::metadata(&path)?.is_file().then_some(path))
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn same_mounts(pid: u32) -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of(&pid.to_string()) == of("self")
}

/// Whether `/proc/PID/fdinfo/N` says that it is open for appending, and not for reading.
fn appended(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok());
    flags.is_some_and(|f| f & libc::O_ACCMODE == libc::O_WRONLY && f & libc::O_APPEND != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::privileges;

    #[test]
    fn files_open_for_appending_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let log = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        let other = File::create(folder.path().join("other")).unwrap();
        let found = logs_of(&[std::process::id()], &Homes::default());
        assert!(found.files.contains(&path), "{found:?}");
        assert!(!found.files.contains(&folder.path().join("other")));
        assert!(found.unseen.is_empty(), "{found:?}");
        drop((log, other));
    }

    #[test]
    fn a_root_is_shared_with_oneself_and_not_with_the_gone() {
        assert!(shares_root(std::process::id()));
        assert!(!shares_root(u32::MAX));
    }

    #[test]
    fn what_may_not_be_seen_is_not_taken_for_nothing() {
        let (found, refused) = std::thread::spawn(|| {
            privileges::keep(&[]);
            let refused = fs::read_link("/proc/1/exe").is_err_and(|error| is_refused(&error));
            (logs_of(&[1], &Homes::default()), refused)
        })
        .join()
        .unwrap();
        // Where the first process has no more rights than this test, it hides nothing from it.
        assert_eq!(found.unseen.contains(&1), refused, "{found:?}");
        // Who has ended hides nothing.
        let gone = logs_of(&[u32::MAX], &Homes::default());
        assert!(gone.unseen.is_empty() && gone.files.is_empty(), "{gone:?}");
    }
}
