//! Adds to a record what only user space can read: who the processes are, the listener behind a path.

use super::*;
use agent_ebpf::Socket;

use crate::sources::process::Seen;

impl Watch {
    /// Adds what the kernel half could not know: who the processes are, the listener behind a path.
    pub(super) fn complete(&mut self, attempt: &mut Attempt) {
        self.describe(attempt.proxy);
        let peer = attempt.peer.clone();
        if let Some(peer) = &peer {
            if let Some(reader) = &peer.reader {
                self.describe(reader.pid);
                if attempt.end == End::GivenUp && peer.closed.is_none() {
                    self.sample(reader.pid, reader.thread, attempt.flow);
                }
            }
            if let Some(closed) = &peer.closed {
                self.describe(closed.pid);
            }
        }
        if matches!(
            attempt.end,
            End::ConnectFailed {
                errno: libc::ENOENT | libc::ECONNREFUSED
            }
        ) {
            self.look_for_starting(attempt);
        }
        if attempt.upstream.is_unix() {
            self.complete_unix(attempt);
        } else if let Some((address, netns)) = attempt.called()
            && let Some(known) = self.listeners.tcp(netns, address)
        {
            let pid = known.pid;
            if let Some(queue) = &mut attempt.queue
                && self.listeners.sharing(known).nth(1).is_some()
            {
                queue.shared = true;
            }
            let (cookie, listens_at) = (known.socket.cookie, known.address.clone());
            let settings = known.syn_settings();
            if half_open::matters(attempt)
                && let Some(queue) = &mut attempt.queue
            {
                queue.half_open = self.half_open.count(cookie, pid, &listens_at);
                queue.syn_settings = settings.filter(|_| queue.half_open.is_some());
            }
            self.describe(pid);
            self.find_full_one(attempt);
        }
    }

    /// Of several listeners at one address the kernel half has looked at one, with room: another may
    /// be full.
    fn find_full_one(&mut self, attempt: &mut Attempt) {
        let at_limit = |length: u32, limit: u32| length > limit;
        let Some(queue) = attempt.queue.as_ref() else {
            return;
        };
        if !queue.shared || attempt.end == End::Answered || at_limit(queue.length, queue.limit) {
            return;
        }
        let Some(known) = attempt
            .called()
            .and_then(|(address, netns)| self.listeners.tcp(netns, address))
        else {
            return;
        };
        let cookies: Vec<u64> = self
            .listeners
            .sharing(known)
            .map(|k| k.socket.cookie)
            .collect();
        let full = self.read_listening().into_iter().find(|socket| {
            cookies.contains(&socket.cookie) && at_limit(socket.queue_length, socket.queue_limit)
        });
        if let Some(socket) = full {
            attempt.queue = Some(Queue {
                shared: true,
                ..measured(&socket)
            });
        }
    }

    fn read_listening(&mut self) -> Vec<Socket> {
        let file = self.probes.listening_sockets();
        file.and_then(sockets::read).unwrap_or_default()
    }

    /// A refused connect may be a server's that is there and does not listen yet. Asks every
    /// process, so once a second and address at most.
    fn look_for_starting(&mut self, attempt: &Attempt) {
        let upstream = &attempt.upstream;
        // On another host, or in another network namespace, others have the same addresses.
        if !upstream.is_unix() && !attempt.calls_own_namespace() {
            return;
        }
        let now = Instant::now();
        if self
            .looked
            .get(upstream)
            .is_some_and(|at| now < *at + SECOND)
        {
            return;
        }
        if self.looked.len() >= LOOKED {
            self.looked.retain(|_, at| now < *at + SECOND);
        }
        if self.looked.len() >= LOOKED {
            return;
        }
        self.looked.insert(upstream.clone(), now);
        for seen in process::told_to_serve(upstream, STARTING, &mut self.homes) {
            if self
                .described
                .lacks(seen.process.pid, clock::now(), process::incarnation)
            {
                self.tell_process(seen);
            }
        }
    }

    pub(super) fn complete_unix(&mut self, attempt: &mut Attempt) {
        let failed = matches!(attempt.end, End::ConnectFailed { .. });
        let Some(known) = self
            .listeners
            .unix(attempt.proxy, &attempt.upstream)
            .cloned()
        else {
            // The queue was another file's of the same name.
            if failed {
                attempt.queue = None;
            }
            return;
        };
        self.describe(known.pid);
        if !failed {
            return;
        }
        if attempt.queue.is_none() {
            attempt.queue = self.measure(known.socket.cookie);
            self.remember(attempt, known.socket.sk, known.socket.cookie);
        }
    }

    /// The queue right now, from a fresh reading.
    pub(super) fn measure(&mut self, cookie: u64) -> Option<Queue> {
        let list = self.read_listening();
        list.iter().find(|s| s.cookie == cookie).map(measured)
    }

    /// The next failure on this path is measured as it happens.
    pub(super) fn remember(&mut self, attempt: &Attempt, sk: u64, cookie: u64) {
        let Some(mntns) = mount_namespace(attempt.proxy) else {
            return;
        };
        let Some(path) = attempt.upstream.0.strip_prefix("unix:") else {
            return;
        };
        let text = !path.contains(char::REPLACEMENT_CHARACTER);
        if !path.starts_with('/') || path.len() >= PATH || !text {
            return;
        }
        let mut key = UnixKey {
            mntns,
            path: [0; PATH],
        };
        key.path[..path.len()].copy_from_slice(path.as_bytes());
        let _ = self.insert_unix(vec![(key, sk, cookie)]);
    }

    /// Says who a process is, once.
    pub(super) fn describe(&mut self, pid: u32) {
        let Some(parent) = self.describe_one(pid) else {
            return;
        };
        // The supervisor: gunicorn's arbiter, uWSGI's master, nginx's master.
        if parent > 1 {
            self.describe_one(parent);
        }
    }

    /// Returns the parent of one that was not described yet.
    fn describe_one(&mut self, pid: u32) -> Option<u32> {
        if pid == 0
            || !self
                .described
                .lacks(pid, clock::now(), process::incarnation)
        {
            return None;
        }
        let seen = process::read(pid, &mut self.homes)?;
        let parent = seen.process.parent;
        self.tell_process(seen);
        Some(parent)
    }

    fn tell_process(&mut self, seen: Seen) {
        self.described.add(&seen, clock::now());
        if seen.unnamed && self.unnamed.len() < UNNAMED {
            self.unnamed.entry(seen.process.pid).or_insert(NAMED_WITHIN);
        }
        if seen.untold {
            if self.untold.len() >= UNNAMED {
                self.untold
                    .retain(|pid| process::incarnation(*pid).is_some());
            }
            if self.untold.len() < UNNAMED {
                self.untold.insert(seen.process.pid);
            }
        }
        self.send(clock::now(), Fact::ProcessSeen(seen.process));
    }

    /// A container's log is named after the container's start: who had no name yet is asked again.
    pub(super) fn name_homes(&mut self) {
        for (pid, tries) in std::mem::take(&mut self.unnamed) {
            let Some(seen) = process::read(pid, &mut self.homes) else {
                continue;
            };
            if !seen.unnamed {
                self.tell_process(seen);
            } else if tries > 1 {
                self.unnamed.insert(pid, tries - 1);
            }
        }
    }

    /// The Kubernetes API tells of a pod after its start, or long after, where it was away.
    pub(super) fn name_workloads(&mut self) {
        if !self.homes.has_news() {
            return;
        }
        for pid in std::mem::take(&mut self.untold) {
            match process::read(pid, &mut self.homes) {
                Some(seen) if seen.untold => {
                    self.untold.insert(pid);
                }
                Some(seen) => self.tell_process(seen),
                None => {}
            }
        }
    }

    /// Workers that were started in the place of others: once one has failed, it may be too late to
    /// ask who it was.
    pub(super) fn describe_workers(&mut self) {
        for supervisor in self.described.supervisors() {
            for worker in process::children(supervisor) {
                self.describe_one(worker);
            }
        }
    }

    pub(super) fn sample(&mut self, pid: u32, thread: u32, flow: u64) {
        if let Some(sample) = self.sampler.sample(pid, thread, flow) {
            self.send(clock::now(), Fact::ProcessSampled(sample));
        }
    }
}

fn measured(socket: &Socket) -> Queue {
    Queue {
        length: socket.queue_length,
        limit: socket.queue_limit,
        drops: 0,
        later: true,
        shared: false,
        half_open: None,
        syn_settings: None,
    }
}
