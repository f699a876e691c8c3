//! Fills the kernel half's maps with what only user space knows: proxies, older connections, listeners.

use std::iter;

use aya::maps::MapError;

use super::*;

impl Watch {
    pub(super) fn add_proxy(&mut self, pid: u32, name: String) -> Result<()> {
        let mut thread = Thread::new_zeroed();
        thread.tgid = pid;
        let keeps = proxies::keeps_requests(&name) || proxies::process_keeps_requests(pid);
        thread.lazy = u32::from(keeps);
        if keeps && !proxies::keeps_requests(&name) {
            self.keeps_requests_by_another_name(&name)?;
        }
        {
            let mut map: HashMap<_, u32, Thread> = map(&mut self.probes.ebpf, "THREADS")?;
            for tid in proxies::threads(pid) {
                // Already there: the kernel half saw it start.
                let _ = map.insert(tid, thread, NOEXIST);
            }
        }
        self.take_slots(pid, thread)?;
        self.strangers.remove(&pid);
        self.proxies.insert(pid);
        self.send(clock::now(), Fact::ProxyStarted { pid, name });
        self.describe(pid);
        Ok(())
    }

    /// What is started under this name from now on, and what runs already, keeps requests.
    fn keeps_requests_by_another_name(&mut self, name: &str) -> Result<()> {
        let ebpf = &mut self.probes.ebpf;
        let mut names: HashMap<_, [u8; COMM], u8> = map(ebpf, "PROXY_NAMES")?;
        if names.get(&proxies::comm(name), 0).is_ok() {
            names.insert(proxies::comm(name), name::KEEPS_REQUESTS, 0)?;
        }
        let mut threads: HashMap<_, u32, Thread> = map(ebpf, "THREADS")?;
        let known: Vec<(u32, Thread)> = threads.iter().filter_map(Result::ok).collect();
        let mut changed = Vec::new();
        for (tid, mut thread) in known {
            if thread.lazy == 0 && proxies::process_keeps_requests(thread.tgid) {
                thread.lazy = 1;
                threads.insert(tid, thread, 0)?;
                changed.push(tid);
            }
        }
        let slots = ebpf
            .map_mut("SLOT_THREADS")
            .context("no SLOT_THREADS map")?;
        let mut slots = Array::<_, Thread>::try_from(slots)?;
        for tid in changed {
            let mut slot = slots.get(&(tid % SLOTS), 0)?;
            if slot.owner == tid {
                slot.lazy = 1;
                slots.set(tid % SLOTS, slot, 0)?;
            }
        }
        Ok(())
    }

    /// Gives a process's threads their places in the array, where they are free.
    pub(super) fn take_slots(&mut self, pid: u32, mut thread: Thread) -> Result<()> {
        let slots = self
            .probes
            .ebpf
            .map_mut("SLOT_THREADS")
            .context("no SLOT_THREADS map")?;
        let mut slots = Array::<_, Thread>::try_from(slots)?;
        for tid in proxies::threads(pid) {
            if slots.get(&(tid % SLOTS), 0)?.owner == 0 {
                thread.owner = tid;
                slots.set(tid % SLOTS, thread, 0)?;
            }
        }
        Ok(())
    }

    /// Sets the filter's byte of every watched thread that lacks it. The kernel half sets those of
    /// threads that start; writing a block from here can overwrite one, so this is repeated.
    pub(super) fn mark_watched(&mut self) -> Result<()> {
        let threads: HashMap<_, u32, Thread> = map(&mut self.probes.ebpf, "THREADS")?;
        let tids: Vec<u32> = threads.keys().filter_map(Result::ok).collect();
        let watched = self
            .probes
            .ebpf
            .map_mut("WATCHED")
            .context("no WATCHED map")?;
        let mut watched = Array::<_, [u8; WATCHED_BLOCK]>::try_from(watched)?;
        for tid in tids.into_iter().filter(|tid| *tid < WATCHED_THREADS) {
            let index = tid / WATCHED_BLOCK as u32;
            let mut block = watched.get(&index, 0)?;
            let byte = &mut block[tid as usize % WATCHED_BLOCK];
            if *byte == 0 {
                *byte = 1;
                watched.set(index, block, 0)?;
            }
        }
        Ok(())
    }

    /// Connections and listeners that were there before the probes.
    pub(super) fn pick_up(&mut self) -> Result<()> {
        let Ok(file) = self.probes.open_sockets() else {
            return Ok(());
        };
        let list = sockets::read(file)?;
        let flows = sockets::older_flows(&list, &self.proxies, clock::now(), clock::tick_ns());
        let ebpf = &mut self.probes.ebpf;
        for (sk, flow) in &flows {
            self.flows.insert(ebpf, *sk, flow)?;
            if flow.peer_sk != 0 {
                let peer = Peer {
                    sk: *sk,
                    cookie: flow.cookie,
                    read: agent_ebpf::Read::new_zeroed(),
                };
                self.peers.insert(ebpf, flow.peer_sk, &peer)?;
            }
        }
        self.take_listeners(list)
    }

    pub(super) fn take_listeners(&mut self, list: Vec<agent_ebpf::Socket>) -> Result<()> {
        let now = clock::now();
        let listening = sockets::listeners(&list);
        let owners: Vec<u32> = listening
            .iter()
            .flat_map(|(_, holders)| holders.clone())
            .collect();
        let (new, gone) = self.listeners.update(listening, now);
        {
            let mut map: HashMap<_, ListenerKey, ListenerValue> =
                map(&mut self.probes.ebpf, "LISTENERS")?;
            for known in self.listeners.iter() {
                let Some(key) = sockets::listener_key(&known.socket) else {
                    continue;
                };
                let value = listener_value(known.socket.sk, known.socket.cookie);
                let full = map.insert(key, value, NOEXIST).is_err_and(is_full);
                // Of each once: a full map stays full.
                let is_new = || new.iter().any(|n| n.socket.cookie == known.socket.cookie);
                self.no_room += u64::from(full && is_new());
            }
        }
        {
            let mut map: HashMap<_, u32, u32> = map(&mut self.probes.ebpf, "SERVERS")?;
            for pid in owners.iter().filter(|pid| !self.proxies.contains(pid)) {
                let parent = process::parent(*pid).filter(|p| *p > 1);
                for pid in iter::once(*pid).chain(parent) {
                    self.unguarded += u64::from(map.insert(pid, 1, 0).is_err());
                }
            }
        }
        for pid in owners {
            self.describe(pid);
        }
        for known in &new {
            self.send(
                now,
                Fact::ListenerSeen(known.seen(known.address.clone(), 0, false)),
            );
        }
        for known in &gone {
            self.send(
                now,
                Fact::ListenerSeen(known.seen(known.address.clone(), 0, true)),
            );
        }
        self.name_unix_listeners()
    }

    /// Tells the kernel half which Unix listener a proxy means by which path.
    pub(super) fn name_unix_listeners(&mut self) -> Result<()> {
        let mut roots: StdMap<u32, u32> = StdMap::new();
        for pid in &self.proxies {
            if let Some(namespace) = mount_namespace(*pid) {
                roots.entry(namespace).or_insert(*pid);
            }
        }
        let mut named = Vec::new();
        for known in self.listeners.iter().filter(|k| k.address.is_unix()) {
            let path = known.path();
            for (&mntns, &pid) in &roots {
                let same = match path.first() {
                    Some(0) => true,
                    Some(b'/') => {
                        known.file.is_some()
                            && super::super::listeners::file_of(pid, path) == known.file
                    }
                    _ => false,
                };
                if same {
                    let mut key = UnixKey {
                        mntns,
                        path: [0; PATH],
                    };
                    key.path[..path.len()].copy_from_slice(path);
                    named.push((key, known.socket.sk, known.socket.cookie));
                }
            }
        }
        self.insert_unix(named)
    }

    pub(super) fn insert_unix(&mut self, named: Vec<(UnixKey, u64, u64)>) -> Result<()> {
        let mut map: HashMap<_, UnixKey, ListenerValue> =
            map(&mut self.probes.ebpf, "UNIX_LISTENERS")?;
        for (key, sk, cookie) in named {
            if map.get(&key, 0).is_ok_and(|old| old.cookie == cookie) {
                continue;
            }
            let value = listener_value(sk, cookie);
            if map.insert(key, value, 0).is_err_and(is_full) {
                // Nothing else removes the names of those that are gone.
                let used: Vec<_> = map.iter().filter_map(Result::ok).collect();
                let gone =
                    |(_, value): &&(_, ListenerValue)| self.listeners.get(value.cookie).is_none();
                for (key, _) in used.iter().filter(gone) {
                    let _ = map.remove(key);
                }
                // Without a place its queue is read after the failure, and said to be.
                let _ = map.insert(key, value, 0);
            }
        }
        Ok(())
    }

    /// What a dead proxy still held was closed without a system call: nothing else forgets it.
    pub(super) fn forget_flows(&mut self, pid: u32) {
        let ebpf = &mut self.probes.ebpf;
        let mut dead = Vec::new();
        self.flows.each(ebpf, usize::MAX, |sk, flow| {
            if flow.tgid == pid && flow.role == role::UPSTREAM {
                dead.push(sk);
            }
        });
        for sk in dead {
            self.flows.remove(ebpf, sk);
        }
    }
}

fn listener_value(sk: u64, cookie: u64) -> ListenerValue {
    ListenerValue {
        sk,
        cookie,
        peak: 0,
        overflows: 0,
    }
}

fn is_full(error: MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    matches!(
        error.io_error.raw_os_error(),
        Some(libc::E2BIG | libc::ENOMEM)
    )
}
