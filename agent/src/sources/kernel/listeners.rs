//! The listeners of this host: who holds them, how a proxy's connect() names them, how long their queues are.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use agent_ebpf::{PATH, Socket};

use super::decode;
use crate::signal::{Address, Listener, Nanos, SynSettings};

const AF_UNIX: u16 = 1;

/// A file's identity, which a path is not: the same path is another file in another root.
pub(super) type FileId = (u64, u64);

/// One listening socket.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) socket: Socket,
    /// The first process that holds it, as a rule the supervisor.
    pub(super) pid: u32,
    pub(super) address: Address,
    pub(super) file: Option<FileId>,
    /// When it was first seen, if it is younger than the agent.
    pub(super) since: Option<Nanos>,
    /// `net.core.somaxconn` of its network namespace when it was first seen: the limit was set then.
    pub(super) somaxconn: Option<u32>,
}

/// All listeners, by their socket's identity.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    known: HashMap<u64, Known>,
    started: bool,
}

impl Listeners {
    /// Takes a fresh list. Returns what is new and what is gone. Where one of several that share an
    /// address is gone, another has its place.
    pub(super) fn update(
        &mut self,
        list: Vec<(Socket, Vec<u32>)>,
        now: Nanos,
    ) -> (Vec<Known>, Vec<Known>) {
        let mut fresh = HashMap::new();
        let mut new = Vec::new();
        for (socket, holders) in list {
            let pid = holders.first().copied().unwrap_or(socket.tgid);
            let known = match self.known.remove(&socket.cookie) {
                Some(mut known) => {
                    known.socket = socket;
                    known.pid = pid;
                    known
                }
                None => {
                    let known = describe(socket, pid, self.started.then_some(now));
                    new.push(known.clone());
                    known
                }
            };
            fresh.insert(socket.cookie, known);
        }
        self.started = true;
        let gone = std::mem::replace(&mut self.known, fresh).into_values();
        let (left, gone): (Vec<Known>, Vec<Known>) =
            gone.partition(|known| self.sharing(known).next().is_some());
        let places = left.iter().filter_map(|gone| self.sharing(gone).next());
        new.extend(places.cloned());
        (new, gone)
    }

    /// All TCP listeners at the address of this one, itself included: a connection is for any of them.
    pub(super) fn sharing<'a>(&'a self, one: &'a Known) -> impl Iterator<Item = &'a Known> {
        let ends = &one.socket.ends;
        self.known.values().filter(|known| {
            ends.family != AF_UNIX
                && known.socket.ends.netns == ends.netns
                && known.address == one.address
        })
    }

    pub(super) fn get(&self, cookie: u64) -> Option<&Known> {
        self.known.get(&cookie)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// The Unix listener behind a path as this process sees it: by file, never by string.
    pub(super) fn unix(&self, pid: u32, address: &Address) -> Option<&Known> {
        let path = address.0.strip_prefix("unix:")?;
        if path.starts_with('@') {
            return self.known.values().find(|k| &k.address == address);
        }
        if path.contains(char::REPLACEMENT_CHARACTER) {
            // Bytes that are no text are not in an address; the listener's own name has them.
            let mut named = self.known.values().filter(|k| {
                &k.address == address && k.file.is_some() && file_of(pid, k.path()) == k.file
            });
            return named.next().filter(|_| named.next().is_none());
        }
        let file = file_of(pid, path.as_bytes())?;
        self.known.values().find(|k| k.file == Some(file))
    }

    /// The TCP listener that takes connections to this address in this network namespace.
    pub(super) fn tcp(&self, netns: u32, address: &Address) -> Option<&Known> {
        let here = |k: &&Known| k.socket.ends.family != AF_UNIX && k.socket.ends.netns == netns;
        let at = |address: &Address| {
            let mut known = self.known.values().filter(here);
            known.find(|k| &k.address == address)
        };
        address.listened_at().iter().find_map(at)
    }
}

/// A Unix socket's own name: a path, or an abstract name with its zero byte in front.
fn path(socket: &Socket) -> &[u8] {
    let path = &socket.ends.path[..usize::from(socket.ends.path_len).min(PATH)];
    match path.first() {
        Some(0) | None => path,
        Some(_) => path.split(|&b| b == 0).next().unwrap_or(path),
    }
}

fn describe(socket: Socket, pid: u32, since: Option<Nanos>) -> Known {
    let ends = &socket.ends;
    let (address, file) = if ends.family == AF_UNIX {
        let path = path(&socket);
        let file = (path.first().is_some_and(|&b| b != 0))
            .then(|| file_of(pid, path))
            .flatten();
        (decode::unix(path), file)
    } else {
        (
            decode::inet(ends.family, &ends.local, ends.local_port),
            None,
        )
    };
    Known {
        socket,
        pid,
        address,
        file,
        since,
        somaxconn: (socket.somaxconn > 0).then_some(socket.somaxconn),
    }
}

/// The file at `path` as `pid` sees it, through its root and working directory.
pub(super) fn file_of(pid: u32, path: &[u8]) -> Option<FileId> {
    let base = if path.starts_with(b"/") {
        "root"
    } else {
        "cwd"
    };
    let mut full = PathBuf::from(format!("/proc/{pid}/{base}"));
    let rest = path.strip_prefix(b"/").unwrap_or(path);
    full.push(std::ffi::OsStr::from_bytes(rest));
    fs::metadata(full).ok().map(|m| (m.dev(), m.ino()))
}

impl Known {
    /// The name that its server gave it.
    pub(super) fn path(&self) -> &[u8] {
        path(&self.socket)
    }

    /// What its network namespace allowed of half-open connections when the listeners were read last.
    pub(super) fn syn_settings(&self) -> Option<SynSettings> {
        let socket = &self.socket;
        (socket.max_syn_backlog != u32::MAX).then_some(SynSettings {
            max_backlog: socket.max_syn_backlog,
            cookies: socket.syncookies,
        })
    }

    /// As a signal's fact; `address` as the proxy names it.
    pub(super) fn seen(&self, address: Address, peak: u32, gone: bool) -> Listener {
        Listener {
            address,
            netns: self.socket.ends.netns,
            pid: self.pid,
            length: self.socket.queue_length,
            limit: self.socket.queue_limit,
            peak: peak.max(self.socket.queue_length),
            somaxconn: self.somaxconn,
            since: self.since,
            gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn a_unix_listener_is_found_by_its_file_whatever_bytes_its_path_has() {
        let folder = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        for name in [&b"plain.sock"[..], b"a \"b\n\xff\xfe.sock"] {
            let path = folder.path().join(std::ffi::OsStr::from_bytes(name));
            let _listener = UnixListener::bind(&path).unwrap();
            let bytes = path.as_os_str().as_bytes();
            let mut socket = Socket::new_zeroed();
            socket.cookie = 1;
            socket.ends.family = AF_UNIX;
            // The length counts the zero byte at the end.
            socket.ends.path_len = bytes.len() as u16 + 1;
            socket.ends.path[..bytes.len()].copy_from_slice(bytes);
            let mut listeners = Listeners::default();
            listeners.update(vec![(socket, vec![pid])], 0);

            let address = decode::unix(bytes);
            assert!(listeners.unix(pid, &address).is_some(), "{address:?}");
            // Deleted while it listens: nobody can call it by this path any more.
            fs::remove_file(&path).unwrap();
            assert!(listeners.unix(pid, &address).is_none(), "{address:?}");
        }
    }

    #[test]
    fn where_one_of_several_at_an_address_goes_another_has_its_place() {
        let socket = |cookie, pid: u32| {
            let mut socket = Socket::new_zeroed();
            (socket.cookie, socket.tgid) = (cookie, pid);
            (
                socket.ends.family,
                socket.ends.netns,
                socket.ends.local_port,
            ) = (2, 7, 9000);
            (socket, vec![pid])
        };
        let cookies = |known: Vec<Known>| -> Vec<u64> {
            known.iter().map(|known| known.socket.cookie).collect()
        };
        let mut listeners = Listeners::default();
        listeners.update(vec![socket(1, 10), socket(2, 20)], 0);
        let address = Address("127.0.0.1:9000".into());
        let one = listeners.tcp(7, &address).expect("two listen");
        assert_eq!(listeners.sharing(one).count(), 2);
        assert!(listeners.tcp(8, &address).is_none(), "another namespace");

        let (new, gone) = listeners.update(vec![socket(2, 20)], 1);
        assert_eq!((cookies(new), cookies(gone)), (vec![2], vec![]));
        let (new, gone) = listeners.update(Vec::new(), 2);
        assert_eq!((cookies(new), cookies(gone)), (vec![], vec![2]));
    }
}
