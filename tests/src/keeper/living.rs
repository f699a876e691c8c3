//! The processes of a run: those below this one, or those that have its folder open or in their environment.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MARK;
use crate::{process, wait};

/// For processes that were killed.
const DEAD: Duration = Duration::from_secs(10);

/// All below this process, whoever their parents were.
pub fn below(pid: u32) -> Vec<u32> {
    let mut found = process::children(pid);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(process::children(*pid));
        next += 1;
    }
    found
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Waits for those below this process; who still lives then, by pid and name.
pub(super) fn after(limit: Duration) -> Vec<(u32, String)> {
    let own = std::process::id();
    let left = || {
        super::reap(0);
        below(own)
    };
    let _ = wait::until("the end of all processes", limit, || left().is_empty());
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let named = left()
        .into_iter()
        .map(|pid| (pid, name(&pid).trim().to_owned()));
    named.collect()
}

/// Kills all below this process; the control groups that were theirs alone.
pub(super) fn end_below() -> BTreeSet<PathBuf> {
    end(|| {
        super::reap(0);
        below(std::process::id())
    })
}

/// The same for what a run has left whose processes are gone that could have waited for it.
pub(super) fn end_of(folder: &Path) -> BTreeSet<PathBuf> {
    end(|| all().filter(|pid| is_of(*pid, folder)).collect())
}

fn end(living: impl Fn() -> Vec<u32>) -> BTreeSet<PathBuf> {
    let mut groups = BTreeSet::new();
    let ended = wait::until("the end of what was killed", DEAD, || {
        let living = living();
        for pid in &living {
            groups.extend(groups_of(*pid));
            process::kill(*pid, libc::SIGKILL);
        }
        living.is_empty()
    });
    if let Err(error) = ended {
        eprintln!("lab: {error}");
    }
    groups
}

fn all() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| *pid != own)
}

fn is_of(pid: u32, folder: &Path) -> bool {
    if matches!(process::state(pid), None | Some('Z')) {
        return false;
    }
    let own = PathBuf::from(format!("/proc/{pid}"));
    let environment = fs::read(own.join("environ")).unwrap_or_default();
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    if environment.split(|byte| *byte == 0).any(|one| one == mark) {
        return true;
    }
    let open = fs::read_dir(own.join("fd")).into_iter().flatten().flatten();
    let links = [own.join("cwd"), own.join("root")].into_iter();
    let mut links = links.chain(open.map(|entry| entry.path()));
    links.any(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(folder)))
}

/// The control groups of a process in which this one is not.
pub fn groups_of(pid: u32) -> Vec<PathBuf> {
    let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups(&read(&pid.to_string()), &read("self"))
}

fn groups(theirs: &str, own: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let other = theirs
        .lines()
        .filter(|line| !own.lines().any(|own| own == *line));
    let place = |line: &str| -> Option<PathBuf> {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.strip_prefix('/').filter(|path| !path.is_empty())?;
        // One that a namespace hides.
        if path.split('/').any(|part| part == "..") {
            return None;
        }
        let mixed = root.join("unified");
        let folder = match hierarchy.strip_prefix("name=").unwrap_or(hierarchy) {
            "" if mixed.is_dir() => mixed,
            "" => root.to_owned(),
            name => root.join(name),
        };
        Some(folder.join(path))
    };
    other.filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_their_own_are_named() {
        let own = "5:cpu:/\n4:memory:/lab\n1:name=systemd:/\n";
        let theirs =
            "5:cpu:/why502-lab-7-0\n4:memory:/lab\n1:name=systemd:/libpod_parent/libpod-a\n";
        let paths: Vec<PathBuf> = ["cpu/why502-lab-7-0", "systemd/libpod_parent/libpod-a"]
            .map(|path| Path::new("/sys/fs/cgroup").join(path))
            .into();
        assert_eq!(groups(theirs, own), paths);
        // The root of a hierarchy, and what another namespace has above its own.
        assert!(
            groups(
                "5:cpu:/\n4:memory:/../b\n",
                own.replace("cpu:/", "cpu:/x").as_str()
            )
            .is_empty()
        );
    }

    #[test]
    fn a_process_is_found_by_its_environment_or_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("sleep");
        command.arg("60");
        let mut marked = command.env(MARK, folder.path()).spawn().unwrap();
        let mut inside = command
            .env_remove(MARK)
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        let mut other = command.current_dir("/").spawn().unwrap();
        // What the child was called before it became the program is this one's.
        let exec = |pid: u32| {
            wait::until("the program", DEAD, || {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
            })
        };
        for child in [&marked, &inside, &other] {
            exec(child.id()).unwrap();
        }
        let found: BTreeSet<u32> = all().filter(|pid| is_of(*pid, folder.path())).collect();
        assert_eq!(found, [marked.id(), inside.id()].into());
        end_of(folder.path());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        for child in [&mut marked, &mut inside, &mut other] {
            child.wait().unwrap();
        }
    }
}
