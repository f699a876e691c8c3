//! Control groups with a memory limit or a CPU quota, on version 1 and version 2 hosts.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::keeper::{self, Made};
use crate::wait;

const PERIOD_US: u64 = 100_000;
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group, removed when dropped (everything in it is killed first).
pub struct Cgroup {
    path: PathBuf,
    /// Groups around it that were made with it, the outermost last.
    around: Vec<PathBuf>,
}

enum Hierarchy {
    V1(PathBuf),
    V2(PathBuf),
}

/// Where `controller` can be used, or why not.
fn hierarchy(controller: &str) -> Result<Hierarchy> {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    if v1.join("cgroup.procs").exists() {
        return Ok(Hierarchy::V1(v1));
    }
    let root = Path::new("/sys/fs/cgroup");
    let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if offered.split_whitespace().any(|name| name == controller) {
        fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .with_context(|| format!("enable the {controller} controller"))?;
        return Ok(Hierarchy::V2(root.to_owned()));
    }
    anyhow::bail!("this host has no {controller} controller")
}

/// Why `controller` cannot be used here; `None` when it can.
pub fn unusable(controller: &str) -> Option<String> {
    hierarchy(controller).err().map(|error| error.to_string())
}

fn create(root: &Path) -> Result<PathBuf> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = root.join(format!("why502-lab-{}-{number}", std::process::id()));
    keeper::note(Made::Group, &path)?;
    fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

impl Cgroup {
    /// Processes in it share `percent` of one CPU.
    pub fn with_cpu_percent(percent: u64) -> Result<Cgroup> {
        let quota = PERIOD_US * percent / 100;
        let path = match hierarchy("cpu")? {
            Hierarchy::V1(root) => {
                let path = create(&root)?;
                fs::write(path.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                fs::write(path.join("cpu.cfs_quota_us"), quota.to_string())?;
                path
            }
            Hierarchy::V2(root) => {
                let path = create(&root)?;
                fs::write(path.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                path
            }
        };
        Ok(Cgroup::at(path))
    }

    /// Processes in it are killed by the kernel when they need more than `bytes`.
    pub fn with_memory_limit(bytes: u64) -> Result<Cgroup> {
        let path = match hierarchy("memory")? {
            Hierarchy::V1(root) => {
                let path = create(&root)?;
                fs::write(path.join("memory.limit_in_bytes"), bytes.to_string())?;
                path
            }
            Hierarchy::V2(root) => {
                let path = create(&root)?;
                fs::write(path.join("memory.max"), bytes.to_string())?;
                // Without this a host with swap pages out instead of killing.
                fs::write(path.join("memory.swap.max"), "0").ok();
                path
            }
        };
        Ok(Cgroup::at(path))
    }

    /// A container's of a pod, named as the kubelet and its engine name it.
    pub fn of_pod(uid: &str, container: &str) -> Result<Cgroup> {
        let (Hierarchy::V1(root) | Hierarchy::V2(root)) = hierarchy("cpu")?;
        let all = root.join("kubepods");
        let pod = all.join(format!("pod{uid}"));
        let path = pod.join(container);
        keeper::note(Made::Group, &path)?;
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Cgroup {
            path,
            around: vec![pod, all],
        })
    }

    /// A systemd service's, in the hierarchy in which systemd has its own.
    pub fn of_service(name: &str) -> Result<Cgroup> {
        let root = Path::new("/sys/fs/cgroup");
        let mixed = root.join("unified");
        let root = if mixed.is_dir() { &mixed } else { root };
        let slice = root.join("system.slice");
        let path = slice.join(name);
        keeper::note(Made::Group, &path)?;
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Cgroup {
            path,
            around: vec![slice],
        })
    }

    fn at(path: PathBuf) -> Cgroup {
        Cgroup {
            path,
            around: Vec::new(),
        }
    }

    /// What this command starts is in it from the beginning.
    pub fn starts(&self, command: &mut Command) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        let group = fs::File::options()
            .write(true)
            .open(&file)
            .with_context(|| format!("open {}", file.display()))?;
        // SAFETY: a write to an open file is async-signal-safe; 0 is whoever writes.
        unsafe { command.pre_exec(move || (&group).write_all(b"0")) };
        Ok(())
    }

    /// Moves a process (its later children follow).
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("move process {pid} into {}", self.path.display()))
    }

    /// Lets its members go, back to the root of the hierarchy.
    pub fn lift(&self) {
        let Some(root) = self.path.parent() else {
            return;
        };
        for pid in self.members() {
            // One that has just ended needs no moving.
            let _ = fs::write(root.join("cgroup.procs"), pid.to_string());
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn members(&self) -> Vec<u32> {
        fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for pid in self.members() {
            crate::process::kill(pid, libc::SIGKILL);
        }
        let removed = wait::until("removal of a control group", Duration::from_secs(5), || {
            fs::remove_dir(&self.path).is_ok()
        });
        if let Err(error) = removed {
            eprintln!("lab: {}: {error}", self.path.display());
        }
        for group in &self.around {
            // Others may still be in it.
            let _ = fs::remove_dir(group);
        }
    }
}
