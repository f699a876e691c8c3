//! Which files a proxy writes its logs to: those it holds open for appending.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files looked at of one process.
const FILES: usize = 4096;

/// Regular files that these processes append to, as this process can reach them.
pub fn open_logs(pids: impl IntoIterator<Item = u32>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in entries.into_iter().flatten().flatten().take(FILES) {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            if let Some(path) = log_of(pid, &entry.file_name().to_string_lossy(), &target) {
                found.insert(path);
            }
        }
    }
    found
}

fn log_of(pid: u32, fd: &str, target: &Path) -> Option<PathBuf> {
    // Sockets, pipes and what has no name any more.
    if !target.is_absolute() || target.to_string_lossy().ends_with(" (deleted)") {
        return None;
    }
    if !appended(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?) {
        return None;
    }
    let own = format!("/proc/{pid}/root");
    let elsewhere =
        fs::read_link(&own).is_ok_and(|root| root != Path::new("/")) || !same_mounts(pid);
    let path = match elsewhere {
        // Another mount namespace: by way of the process.
        true => PathBuf::from(format!("{own}{}", target.display())),
        false => target.to_owned(),
    };
    fs::metadata(&path).ok()?.is_file().then_some(path)
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
        let found = open_logs([std::process::id()]);
        assert!(found.contains(&path), "{found:?}");
        assert!(!found.contains(&folder.path().join("other")));
        drop((log, other));
    }
}
