//! Removes what a run has left that could not do it itself: processes, containers, mounts, control groups,
//! folders. Network namespaces and the rules in them end with the processes.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LOCK, Made, PREFIX, is_free, living, noted};
use crate::{container, wait};

const GROUPS: &str = "/sys/fs/cgroup";

/// What is left of the run that this process waited for.
pub(super) fn run(folder: &Path) {
    all_of(folder, living::end_below);
    // Its own labs, if it had any, have just been killed.
    former();
}

/// What is left of runs of which nobody lives that would clear it.
pub fn former() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    for entry in entries.flatten() {
        let folder = entry.path();
        let is_named = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if !is_named || !is_own(&folder) {
            continue;
        }
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            continue;
        };
        if is_free(&lock) {
            all_of(&folder, || living::end_of(&folder));
        }
    }
}

/// Anybody may put something into the folder for temporary files.
fn is_own(folder: &Path) -> bool {
    // SAFETY: reads the effective user id.
    let own = unsafe { libc::geteuid() };
    fs::symlink_metadata(folder)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == own && meta.mode() & 0o022 == 0)
}

fn all_of(folder: &Path, end: impl Fn() -> BTreeSet<PathBuf>) {
    let mut groups = end();
    let made = noted(folder);
    let of = |kind: Made| {
        let own = made.iter().filter(move |(what, _)| *what == kind);
        own.map(|(_, path)| path)
    };
    for engine in of(Made::Engine).filter(|engine| engine.exists()) {
        container::remove_all(engine);
    }
    groups.extend(end());
    groups.extend(of(Made::Group).cloned());
    // Those within others first.
    groups.iter().rev().for_each(|group| remove_group(group));
    for path in of(Made::Folder) {
        let _ = fs::remove_dir_all(path);
    }
    for path in of(Made::Empty) {
        let _ = fs::remove_dir(path);
    }
    // The last one lies on top.
    for mount in mounts(folder).iter().rev() {
        if let Ok(place) = CString::new(mount.as_os_str().as_bytes()) {
            let how = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
            // SAFETY: a string that lives in this frame.
            unsafe { libc::umount2(place.as_ptr(), how) };
        }
    }
    // What is still mounted there is not this folder's to be removed.
    let removed = match mounts(folder).first() {
        Some(mount) => Err(std::io::Error::other(format!(
            "{} is mounted",
            mount.display()
        ))),
        None => fs::remove_dir_all(folder),
    };
    if let Err(error) = removed {
        eprintln!("lab: left behind: {}: {error}", folder.display());
    }
}

/// With those around it that hold nothing else.
fn remove_group(group: &Path) {
    let below = |path: &Path| path.starts_with(GROUPS) && path != Path::new(GROUPS);
    if !below(group) || !group.exists() {
        return;
    }
    // Who is in it now is another's: containers of all engines have some in common.
    let is_used =
        || fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|all| !all.is_empty());
    let mut gone = false;
    let settled = wait::until("removal of a control group", Duration::from_secs(5), || {
        gone = fs::remove_dir(group).is_ok();
        gone || is_used()
    });
    if let Err(error) = settled {
        eprintln!("lab: left behind: {}: {error}", group.display());
    }
    if !gone {
        return;
    }
    let around = group.ancestors().skip(1).take_while(|path| below(path));
    for path in around {
        if fs::remove_dir(path).is_err() {
            return;
        }
    }
}

/// What is mounted in a folder or on it, in the order in which it came.
pub fn mounts(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    below(&table, folder)
}

fn below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let places = places.map(|place| PathBuf::from(std::ffi::OsString::from_vec(plain(place))));
    places.filter(|place| place.starts_with(folder)).collect()
}

/// Spaces and the like are written as three octal digits.
fn plain(escaped: &str) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = escaped.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_whole_names() {
        let table = "\
            30 1 0:1 / / rw - overlay overlay rw\n\
            31 30 0:2 / /tmp/why502-lab-a/r1/a\\040b\\134 rw shared:1 - tmpfs tmpfs rw\n\
            32 30 0:3 / /tmp/why502-lab-ab rw - tmpfs tmpfs rw\n\
            33 30 0:4 / /tmp/why502-lab-a rw - tmpfs tmpfs rw\n";
        let found = below(table, Path::new("/tmp/why502-lab-a"));
        assert_eq!(
            found,
            [
                Path::new("/tmp/why502-lab-a/r1/a b\\"),
                Path::new("/tmp/why502-lab-a")
            ]
        );
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        assert!(is_own(folder.path()));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(!is_own(&link));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_own(folder.path()));
    }

    #[test]
    fn what_was_noted_is_removed_with_the_folder_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (folder, logs) = (make("run"), make("logs/pod"));
        let (full, empty) = (make("full"), make("empty"));
        fs::write(logs.join("0.log"), "").unwrap();
        fs::write(full.join("other"), "").unwrap();
        let lines = [
            format!("folder {}", logs.display()),
            format!("empty {}", full.display()),
            format!("empty {}", empty.display()),
            format!("group {}", full.display()),
            format!("engine {}/gone", place.path().display()),
            format!("other {}", full.display()),
        ];
        fs::write(folder.join(super::super::MADE), lines.join("\n")).unwrap();
        all_of(&folder, BTreeSet::new);
        assert!(!folder.exists() && !logs.exists() && !empty.exists());
        assert!(full.join("other").exists());
    }
}
