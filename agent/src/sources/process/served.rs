//! Which addresses a network namespace serves, and which of some processes does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};

use super::{file, path, sockets, stat};

/// Descriptors of one process that are looked at: it opens its listeners first.
const DESCRIPTORS: usize = 1024;

/// What one network namespace serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Its own addresses.
    pub local: BTreeSet<IpAddr>,
    /// Every listening socket, and which of the processes has it; `None`: none of them.
    pub listeners: Vec<(SocketAddr, Option<u32>)>,
}

/// Finds the owners of listening sockets, whose descriptors are looked through only when there
/// are new sockets or processes.
#[derive(Debug, Default)]
pub struct Owners {
    by_inode: HashMap<u64, Option<u32>>,
    processes: BTreeSet<u32>,
}

impl Owners {
    /// What each network namespace serves, by its inode; `processes` are the ones asked for in each.
    pub fn served(&mut self, processes: &BTreeMap<u64, Vec<u32>>) -> BTreeMap<u64, Served> {
        let tables: BTreeMap<u64, Vec<(SocketAddr, u64)>> = processes
            .iter()
            .filter_map(|(netns, pids)| Some((*netns, listening(*pids.first()?))))
            .collect();
        let inodes = || tables.values().flatten().map(|(_, inode)| *inode);
        let all: BTreeSet<u32> = processes.values().flatten().copied().collect();
        if self.processes != all || inodes().any(|inode| !self.by_inode.contains_key(&inode)) {
            self.by_inode = inodes().map(|inode| (inode, None)).collect();
            self.look(&all);
            self.processes = all;
        }
        let served = |(netns, table): (u64, Vec<(SocketAddr, u64)>)| {
            let pid = *processes.get(&netns)?.first()?;
            let owner = |inode| self.by_inode.get(&inode).copied().flatten();
            let listeners = table.iter().map(|(at, inode)| (*at, owner(*inode)));
            let served = Served {
                local: local(pid),
                listeners: listeners.collect(),
            };
            Some((netns, served))
        };
        tables.into_iter().filter_map(served).collect()
    }

    /// A socket's owner is the first process that has it: as a rule the one that the others come from.
    fn look(&mut self, processes: &BTreeSet<u32>) {
        for pid in processes {
            let descriptors = fs::read_dir(path(*pid, "fd")).into_iter().flatten();
            for descriptor in descriptors.flatten().take(DESCRIPTORS) {
                let link = fs::read_link(descriptor.path()).ok();
                let inode = link.and_then(|link| stat::socket(&link));
                if let Some(owner) = inode.and_then(|inode| self.by_inode.get_mut(&inode)) {
                    owner.get_or_insert(*pid);
                }
            }
        }
    }
}

fn listening(pid: u32) -> Vec<(SocketAddr, u64)> {
    let of = |table| {
        let file = File::open(path(pid, table)).ok()?;
        Some(sockets::listening(BufReader::new(file)))
    };
    ["net/tcp", "net/tcp6"]
        .into_iter()
        .filter_map(of)
        .flatten()
        .collect()
}

fn local(pid: u32) -> BTreeSet<IpAddr> {
    let text = |name| {
        let bytes = file(pid, name).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut found: BTreeSet<IpAddr> = sockets::local_v4(&text("net/fib_trie"))
        .into_iter()
        .collect();
    found.extend(sockets::local_v6(&text("net/if_inet6")));
    found
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_owner_of_a_listener_is_found_when_it_comes_and_gone_when_it_goes() {
        let own = std::process::id();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let processes = BTreeMap::from([(7, vec![own])]);
        let mut owners = Owners::default();
        let mut owner = |address| {
            let served = owners.served(&processes).remove(&7).unwrap();
            assert!(served.local.contains(&IpAddr::from([127, 0, 0, 1])));
            let mut listeners = served.listeners.into_iter();
            listeners.find(|(at, _)| *at == address).map(|(_, pid)| pid)
        };
        assert_eq!(owner(address), Some(Some(own)));
        let later = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = later.local_addr().unwrap();
        assert_eq!(owner(at), Some(Some(own)));
        drop(later);
        // A child that another test has just forked holds it until it runs its own program.
        let patience = Instant::now() + Duration::from_secs(10);
        while owner(at).is_some() {
            assert!(Instant::now() < patience, "it is still there");
            std::thread::yield_now();
        }
        // Of nobody who was asked for.
        let nobody = BTreeMap::from([(7, vec![1])]);
        let served = Owners::default().served(&nobody);
        let of_init = served
            .get(&7)
            .map(|s| s.listeners.clone())
            .unwrap_or_default();
        assert!(!of_init.contains(&(address, Some(own))));
    }
}
