//! What a test run left behind: processes, network namespaces, control groups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::Count;
use crate::process;

/// What was there before the run.
pub(super) struct Before {
    things: BTreeSet<PathBuf>,
}

impl Before {
    pub(super) fn now() -> Before {
        Before { things: things() }
    }

    /// Names what is new, ends the processes, and fails if there was any.
    pub(super) fn compare(&self) -> Result<Count> {
        let own = std::process::id();
        let ended = || process::descendants(own).is_ok_and(|left| left.is_empty());
        // A server that was told to stop may need a moment.
        let in_time = process::until("every process to end", Duration::from_secs(3), ended);
        let mut count = Count::PASSED;
        if in_time.is_err() {
            for left in process::descendants(own)? {
                println!("left running: {} (pid {})", left.name, left.pid);
                process::signal(left.pid, libc::SIGKILL);
                count = Count::FAILED;
            }
        }
        for path in things().difference(&self.things) {
            println!("left behind: {}", path.display());
            count = Count::FAILED;
        }
        Ok(count)
    }
}

/// Named network namespaces and control groups of ours. Unnamed namespaces end with their
/// processes.
fn things() -> BTreeSet<PathBuf> {
    let groups = Path::new("/sys/fs/cgroup");
    let controllers = entries(groups).into_iter().filter(|path| path.is_dir());
    let groups = controllers
        .chain([groups.to_owned()])
        .flat_map(|folder| entries(&folder))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"why502-"))
        });
    groups.chain(entries(Path::new("/run/netns"))).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
