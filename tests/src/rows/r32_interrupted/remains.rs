//! What a lab has made, remembered while it is there, and which of it is still there later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bpf::{self, Objects};
use crate::{keeper, process};

#[derive(Default)]
pub(super) struct Remains {
    /// The process that does the lab's work.
    pub(super) lab: u32,
    folder: PathBuf,
    /// When each process began, and its name.
    processes: BTreeMap<u32, (String, String)>,
    /// Network namespaces, held open: no other gets their numbers.
    namespaces: BTreeMap<u64, File>,
    groups: BTreeSet<PathBuf>,
    /// The probes' programs and maps.
    objects: Objects,
}

impl Remains {
    /// Of the lab that this process was started as.
    pub(super) fn of(front: u32, lab: u32, folder: &Path) -> Result<Remains> {
        let mut remains = Remains {
            lab,
            folder: folder.to_owned(),
            ..Remains::default()
        };
        let own = fs::metadata("/proc/self/ns/net")?.ino();
        for pid in keeper::below(front).into_iter().chain([front]) {
            let Some(began) = began(pid) else { continue };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = name.trim().to_owned();
            if name == "why502" {
                remains.objects.extend(bpf::held_by(pid)?);
            }
            remains.processes.insert(pid, (began, name));
            remains.groups.extend(keeper::groups_of(pid));
            if let Some((number, file)) = namespace(pid).filter(|(number, _)| *number != own) {
                remains.namespaces.insert(number, file);
            }
        }
        Ok(remains)
    }

    /// Whether some of everything is there, and these processes.
    pub(super) fn hold(&self, names: &[&str]) -> Result<()> {
        for wanted in names {
            let mut all = self.processes.values().map(|(_, name)| name);
            ensure!(all.any(|name| name == wanted), "no {wanted} runs");
        }
        ensure!(
            self.namespaces.len() >= 2,
            "{} namespaces",
            self.namespaces.len()
        );
        ensure!(!keeper::mounts(&self.folder).is_empty(), "no mount");
        ensure!(self.groups.iter().any(|group| group.exists()), "no group");
        ensure!(
            !names.contains(&"why502") || !self.objects.is_empty(),
            "the agent holds no program"
        );
        Ok(())
    }

    pub(super) fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (pid, (then, name)) in &self.processes {
            let is_dead = matches!(process::state(*pid), None | Some('Z'));
            if !is_dead && began(*pid).as_ref() == Some(then) {
                left.push(format!("process {name} (pid {pid})"));
            }
        }
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let there = pid.and_then(|pid: u32| Some((pid, namespace(pid)?.0)));
            if let Some((pid, number)) = there
                && self.namespaces.contains_key(&number)
            {
                left.push(format!("network namespace {number}, with process {pid}"));
            }
        }
        let mounts = keeper::mounts(&self.folder).into_iter();
        left.extend(mounts.map(|mount| format!("mount {}", mount.display())));
        let groups = self.groups.iter().filter(|group| is_left(group));
        left.extend(groups.map(|group| format!("control group {}", group.display())));
        if self.folder.exists() {
            left.push(format!("folder {}", self.folder.display()));
        }
        let objects = bpf::alive(&self.objects)?;
        left.extend((!objects.is_empty()).then(|| format!("in the kernel {objects:?}")));
        Ok(left)
    }
}

/// Whether a control group is there without anybody in it: its members were all this lab's, or are those of
/// another engine's containers.
fn is_left(group: &Path) -> bool {
    group.exists() && fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|all| all.is_empty())
}

/// When a process began, in the words of the kernel.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

fn namespace(pid: u32) -> Option<(u64, File)> {
    let file = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    Some((file.metadata().ok()?.ino(), file))
}

/// What a lab must not touch of the host's own.
pub(super) struct Host(BTreeSet<String>);

impl Host {
    pub(super) fn now() -> Result<Host> {
        let mut all = BTreeSet::new();
        let devices = fs::read_dir("/sys/class/net").context("the host's interfaces")?;
        for device in devices.flatten() {
            all.insert(format!("interface {}", device.file_name().display()));
        }
        for named in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            all.insert(format!("network namespace {}", named.path().display()));
        }
        for table in ["filter", "nat"] {
            let rules = Command::new("iptables").args(["-t", table, "-S"]).output();
            // Where the host has no such table there are no rules in it.
            let rules = rules.context("iptables")?.stdout;
            for rule in String::from_utf8_lossy(&rules).lines() {
                all.insert(format!("rule of {table}: {rule}"));
            }
        }
        Ok(Host(all))
    }

    pub(super) fn differ(&self, before: &Host) -> Vec<String> {
        let came = self
            .0
            .difference(&before.0)
            .map(|what| format!("left behind: {what}"));
        let went = before
            .0
            .difference(&self.0)
            .map(|what| format!("gone: {what}"));
        came.chain(went).collect()
    }
}
