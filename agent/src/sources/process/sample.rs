//! What a thread is doing now: its state, CPU time, the call it waits in, and whom it waits for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::around::Around;
use super::{cgroup, file, path, sockets, stat, syscalls};
use crate::signal::{Address, FlowId, ProcessSample, ThreadSample};

/// Descriptors looked at of one poll or select.
const MAX_DESCRIPTORS: usize = 64;
/// Processes whose throttling is remembered between samples.
const MAX_PROCESSES: usize = 1024;

/// A table of sockets is as good as new for this long, for the sockets that it lists.
const TABLE_KEPT: Duration = Duration::from_secs(2);

/// Samples threads; remembers how long each process's groups had been throttled before.
#[derive(Debug, Default)]
pub struct Sampler {
    throttled: HashMap<(u32, FlowId), Throttled>,
    tables: Tables,
}

/// What the groups around a process told last of how long they were throttled, in microseconds, by file.
/// Those that it has left since still tell of the time before.
#[derive(Debug, Default)]
struct Throttled(BTreeMap<PathBuf, u64>);

/// The other ends of sockets. Reading a table takes the kernel milliseconds, so one reading serves
/// all the threads that are sampled in a round.
#[derive(Debug, Default)]
struct Tables(HashMap<(u32, &'static str), Table>);

/// When it was read, and the other ends by inode.
type Table = (Instant, HashMap<u64, Address>);

impl Sampler {
    /// What this thread does now; `None` if it is gone. `flow` is the one that waits for it.
    pub fn sample(&mut self, pid: u32, thread: u32, flow: FlowId) -> Option<ProcessSample> {
        let task = |name: &str| file(pid, &format!("task/{thread}/{name}"));
        let state = stat::parse(&task("stat").ok()?)?.state;
        let (cpu_ns, wait_ns) = task("schedstat")
            .ok()
            .and_then(|s| stat::schedstat(&s))
            .unwrap_or((0, 0));
        let call = task("syscall")
            .ok()
            .filter(|_| state != 'R')
            .and_then(|text| {
                let (number, arguments) = syscalls::parse(std::str::from_utf8(&text).ok()?)?;
                Some((syscalls::name(number)?, arguments))
            });
        let (syscall, socket_peer) = match call {
            Some((name, arguments)) => self.tables.waits_for(pid, name, &arguments),
            None => (None, None),
        };
        let around = Around::of(pid);
        let throttled_us = self.throttled(pid, flow).since_last(around.stats);
        let thread = ThreadSample {
            thread,
            state,
            cpu_ns,
            wait_ns,
            syscall,
            socket_peer,
        };
        Some(ProcessSample {
            pid,
            flow,
            thread,
            throttled_us,
            frozen: around.frozen,
            throttling_unseen: around.throttling_unseen,
            freezing_unseen: around.freezing_unseen,
        })
    }

    /// The flow waits no longer.
    pub fn forget(&mut self, pid: u32, flow: FlowId) {
        self.throttled.remove(&(pid, flow));
    }

    fn throttled(&mut self, pid: u32, flow: FlowId) -> &mut Throttled {
        if self.throttled.len() >= MAX_PROCESSES && !self.throttled.contains_key(&(pid, flow)) {
            self.throttled.clear();
        }
        self.throttled.entry((pid, flow)).or_default()
    }
}

impl Throttled {
    /// The longest time that any group was since the last reading; `stats` are those of the groups in
    /// which the process is now. `None` for what is read for the first time.
    fn since_last(&mut self, stats: Vec<PathBuf>) -> Option<u64> {
        let known = self.0.keys().cloned();
        let files: BTreeSet<PathBuf> = known.chain(stats).collect();
        let mut longest = None;
        for file in files {
            let text = fs::read_to_string(&file).ok();
            let Some(now) = text.and_then(|text| cgroup::throttled_us(&text)) else {
                continue;
            };
            let before = self.0.insert(file, now);
            longest = longest.max(before.map(|before| now.saturating_sub(before)));
        }
        longest
    }
}

impl Tables {
    /// The call as evidence names it, and the other end of the socket it waits on.
    fn waits_for(
        &mut self,
        pid: u32,
        name: &str,
        arguments: &[u64; 6],
    ) -> (Option<String>, Option<Address>) {
        let (descriptors, nothing) = match name {
            "read" | "write" | "readv" | "writev" | "recvfrom" | "recvmsg" | "recvmmsg"
            | "sendto" | "sendmsg" | "connect" => (vec![arguments[0]], false),
            "poll" | "ppoll" => (polled(pid, arguments[0], arguments[1]), arguments[1] == 0),
            "select" | "pselect6" => (selected(pid, arguments), arguments[0] == 0),
            _ => return (Some(name.to_owned()), None),
        };
        if nothing {
            return (Some(format!("{name} (nothing)")), None);
        }
        let sockets: Vec<(u64, u64)> = descriptors
            .iter()
            .filter_map(|fd| Some((*fd, socket(pid, *fd)?)))
            .collect();
        // With several sockets it is an event loop: it waits for none of them in particular.
        let [(descriptor, inode)] = sockets.as_slice() else {
            return (Some(name.to_owned()), None);
        };
        let protocol = protocol(pid, *descriptor).unwrap_or_default();
        let peer = sockets::table(&protocol).and_then(|table| self.peer(pid, table, *inode));
        // The names of a Unix socket's other end are in no table; that it is a connection, is.
        if peer.is_none() && protocol.starts_with("UNIX") && !listens(pid, *inode) {
            return (Some(format!("{name} (socket)")), None);
        }
        (Some(name.to_owned()), peer)
    }

    fn peer(&mut self, pid: u32, table: &'static str, inode: u64) -> Option<Address> {
        let netns = fs::read_link(path(pid, "ns/net"))
            .ok()
            .and_then(|l| stat::namespace(&l))?;
        let now = Instant::now();
        self.0
            .retain(|_, (read, _)| now.duration_since(*read) < TABLE_KEPT);
        if let Some((_, peers)) = self.0.get(&(netns, table))
            && let Some(peer) = peers.get(&inode)
        {
            return Some(peer.clone());
        }
        // These tables may be long; they are text.
        let text = fs::read(path(pid, table)).ok()?;
        let peers = sockets::peers(&String::from_utf8_lossy(&text));
        let peer = peers.get(&inode).cloned();
        self.0.insert((netns, table), (now, peers));
        peer
    }
}

/// What kind of socket this descriptor is: `TCP`, `UNIX-STREAM`.
fn protocol(pid: u32, descriptor: u64) -> Option<String> {
    let path = CString::new(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    let mut name = [0_u8; 32];
    // SAFETY: both strings end in NUL, and `name` has room for the length given.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
        )
    };
    let name = name.get(..usize::try_from(length).ok()?)?;
    let text = name.split(|b| *b == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Whether a Unix socket accepts connections: in its table's flags.
fn listens(pid: u32, inode: u64) -> bool {
    let Ok(text) = fs::read(path(pid, "net/unix")) else {
        return false;
    };
    sockets::unix_listens(&String::from_utf8_lossy(&text), inode)
}

fn socket(pid: u32, descriptor: u64) -> Option<u64> {
    stat::socket(&fs::read_link(path(pid, &format!("fd/{descriptor}"))).ok()?)
}

/// The descriptors of a poll's array, read from the process's memory.
fn polled(pid: u32, array: u64, count: u64) -> Vec<u64> {
    let count = usize::try_from(count)
        .unwrap_or(MAX_DESCRIPTORS)
        .min(MAX_DESCRIPTORS);
    let mut bytes = vec![0; count * 8];
    if memory(pid, array, &mut bytes).is_none() {
        return Vec::new();
    }
    // struct pollfd: int fd; short events, revents. A negative one is left out.
    let fds = bytes.chunks_exact(8).filter_map(|entry| {
        let fd = i32::from_ne_bytes(entry.get(..4)?.try_into().ok()?);
        u64::try_from(fd).ok()
    });
    fds.collect()
}

/// The descriptors in a select's sets for reading and writing.
fn selected(pid: u32, arguments: &[u64; 6]) -> Vec<u64> {
    let bits = usize::try_from(arguments[0]).unwrap_or(1024).min(1024);
    let mut found = Vec::new();
    for set in [arguments[1], arguments[2]] {
        let mut bytes = vec![0; bits.div_ceil(64) * 8];
        if set == 0 || memory(pid, set, &mut bytes).is_none() {
            continue;
        }
        let is_set = |fd: &usize| bytes.get(fd / 8).is_some_and(|b| b & (1 << (fd % 8)) != 0);
        for fd in (0..bits).filter(is_set).map(|fd| fd as u64) {
            if !found.contains(&fd) && found.len() < MAX_DESCRIPTORS {
                found.push(fd);
            }
        }
    }
    found
}

fn memory(pid: u32, address: u64, into: &mut [u8]) -> Option<()> {
    let memory = fs::File::open(path(pid, "mem")).ok()?;
    memory.read_exact_at(into, address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    /// Samples a thread of this process until it is seen in this call.
    fn until_seen(thread: u32, wanted: impl Fn(&ThreadSample) -> bool) -> ThreadSample {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut sampler = Sampler::default();
        loop {
            let sample = sampler
                .sample(std::process::id(), thread, 1)
                .expect("it lives");
            if wanted(&sample.thread) {
                return sample.thread;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "last seen: {sample:?}"
            );
            std::thread::yield_now();
        }
    }

    fn thread_id() -> u32 {
        // SAFETY: gettid has no preconditions.
        u32::try_from(unsafe { libc::gettid() }).unwrap_or(0)
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn names_the_peer_of_a_blocked_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let mut client = TcpStream::connect(address).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        let client_address = client.local_addr().expect("address").to_string();
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(thread_id()).expect("send");
            std::io::Read::read(&mut &server, &mut [0]).expect("read");
        });
        let id = receive.recv().expect("the thread's id");
        let seen = until_seen(id, |t| t.socket_peer.is_some());
        assert_eq!(seen.socket_peer, Some(Address(client_address)));
        assert_eq!(seen.state, 'S');
        client.write_all(b"x").expect("write");
        thread.join().expect("join");
    }

    #[test]
    fn a_group_that_was_left_still_tells_of_the_time_before() {
        let folder = tempfile::tempdir().unwrap();
        let stat = |name: &str, us: u64| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("nr_throttled 1\nthrottled_usec {us}\n")).unwrap();
            path
        };
        let mut throttled = Throttled::default();
        let tight = stat("tight", 100);
        assert_eq!(throttled.since_last(vec![tight.clone()]), None);
        stat("tight", 700);
        let wide = stat("wide", 5000);
        // It has been moved meanwhile; what the other group was before is none of its business.
        assert_eq!(throttled.since_last(vec![wide.clone()]), Some(600));
        std::fs::remove_file(tight).unwrap();
        stat("wide", 5001);
        assert_eq!(throttled.since_last(vec![wide]), Some(1));
        assert_eq!(Throttled::default().since_last(Vec::new()), None);
    }

    #[test]
    fn the_gone_are_gone() {
        assert_eq!(Sampler::default().sample(u32::MAX, 1, 1), None);
    }
}
