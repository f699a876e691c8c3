//! Which processes are proxies: by program name, or by the process ids a person gave.

use std::collections::HashSet;
use std::fs;

use agent_ebpf::COMM;

use crate::sources::cluster;
use crate::sources::kernel::load::Asked;
use crate::sources::process::{Homes, Wanted};

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Program names, for now and for later starts.
    pub names: Vec<String>,
    /// Processes, with their children.
    pub pids: Vec<u32>,
    /// Names count in these containers and pods alone; with none, everywhere.
    pub places: Vec<Wanted>,
    /// Who knows what runs pods.
    pub cluster: cluster::Pods,
    /// What is watched only where it is asked for.
    pub asked: Asked,
}

impl Selection {
    /// The processes that run now, with their children where a process id was given.
    pub fn running(&self) -> HashSet<u32> {
        let names: HashSet<[u8; COMM]> = self.names.iter().map(|name| comm(name)).collect();
        let mut found: HashSet<u32> = self.pids.iter().copied().collect();
        let mut homes = Homes::default();
        let mut parents = Vec::new();
        for pid in processes() {
            let Some((name, parent)) = name_and_parent(pid) else {
                continue;
            };
            if names.contains(&comm_bytes(&name)) && self.admits(pid, &mut homes) {
                found.insert(pid);
            }
            parents.push((pid, parent));
        }
        // Children of a given process: its workers. Repeated, for their children.
        let mut grown = !self.pids.is_empty();
        while grown {
            grown = false;
            for (pid, parent) in &parents {
                grown |= found.contains(parent) && found.insert(*pid);
            }
        }
        found
    }

    /// Whether a process with one of the names is where it is looked for.
    pub fn admits(&self, pid: u32, homes: &mut Homes) -> bool {
        if self.places.is_empty() {
            return true;
        }
        let found = homes.find(pid);
        self.places.iter().any(|wanted| found.is(wanted))
    }
}

/// Whether a request's bytes stay where they were read or written until it is answered, so that they
/// need be read only when it fails. Known of nginx: both buffers belong to the request's own pool.
pub fn keeps_requests(name: &str) -> bool {
    name == "nginx"
}

/// The same of a process, whatever its program is called: nginx under another name is nginx.
pub fn process_keeps_requests(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Replaced since it was started.
        keeps_requests(name.trim_end_matches(" (deleted)"))
    })
}

/// A program name as the kernel keeps it: 15 bytes and a NUL.
pub fn comm(name: &str) -> [u8; COMM] {
    comm_bytes(name.as_bytes())
}

fn comm_bytes(name: &[u8]) -> [u8; COMM] {
    let mut out = [0; COMM];
    let len = name.len().min(COMM - 1);
    out[..len].copy_from_slice(&name[..len]);
    out
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The threads of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn name_and_parent(pid: u32) -> Option<(Vec<u8>, u32)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold any byte, parentheses too: it ends at the last one.
    let open = stat.iter().position(|&b| b == b'(')?;
    let close = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((stat[open + 1..close].to_vec(), parent))
}
