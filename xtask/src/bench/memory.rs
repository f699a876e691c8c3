//! How much memory the agent takes, with its maps and its ring buffer.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::probes;

/// A control group of the agent's own, whose peak counts its maps too: the kernel charges them to
/// the group of who made them.
pub(crate) struct Group {
    folder: PathBuf,
    peak: &'static str,
}

impl Group {
    /// `None` where no memory controller can be used.
    pub(crate) fn create() -> Option<Group> {
        let name = format!("why502-bench-{}", std::process::id());
        for (root, peak) in [
            ("/sys/fs/cgroup", "memory.peak"),
            ("/sys/fs/cgroup/memory", "memory.max_usage_in_bytes"),
        ] {
            let folder = Path::new(root).join(&name);
            // The root of version 1 is no cgroup file system; there this fails or has no peak.
            if fs::create_dir(&folder).is_ok() {
                if folder.join(peak).exists() {
                    return Some(Group { folder, peak });
                }
                let _ = fs::remove_dir(&folder);
            }
        }
        None
    }

    /// Lets the command start inside.
    pub(crate) fn enter(&self, command: &mut Command) {
        let procs = self.folder.join("cgroup.procs");
        // SAFETY: between fork and exec only a file is written; the path was made before. The
        // write allocates nothing but what the child then owns alone.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
    }

    fn peak(&self) -> Option<f64> {
        fs::read_to_string(self.folder.join(self.peak))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Bytes, and how they were measured.
pub(crate) struct Peak {
    pub(crate) bytes: f64,
    pub(crate) how: &'static str,
}

pub(crate) fn peak(pid: u32, group: Option<&Group>) -> Result<Peak> {
    if let Some(bytes) = group.and_then(Group::peak) {
        return Ok(Peak {
            bytes,
            how: "peak of its control group",
        });
    }
    let bytes = resident(pid, "VmHWM")? + probes::map_bytes(pid)?;
    Ok(Peak {
        bytes,
        how: "peak resident size and its maps",
    })
}

/// One of the sizes in `/proc/PID/status`, in bytes.
pub(crate) fn resident(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, text)| {
            text.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<f64>()
                .ok()
        })
        .with_context(|| format!("{field} of process {pid}"))?;
    Ok(kilobytes * 1024.0)
}
