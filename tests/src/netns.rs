//! Network namespaces: each scenario has its own, so ports, filters and queues are its own too.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::container::Engine;

/// A network namespace, alive as long as this value (or a process in it).
pub struct NetNs {
    handle: File,
    /// Programs run in a container of this name.
    container: Option<(Arc<Engine>, &'static str)>,
}

/// A program's file, if it is found.
fn found(program: impl AsRef<Path>) -> PathBuf {
    let program = program.as_ref();
    crate::process::program(program).unwrap_or_else(|| program.to_owned())
}

impl NetNs {
    /// A new namespace with its loopback up.
    pub fn new() -> Result<NetNs> {
        let handle = thread::spawn(|| -> Result<File> {
            // SAFETY: affects only this thread, which ends right after.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error()).context("unshare network namespace");
            }
            File::open("/proc/thread-self/ns/net").context("open network namespace")
        })
        .join()
        .expect("namespace thread")?;
        let ns = NetNs {
            handle,
            container: None,
        };
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// The namespace that a process lives in.
    pub fn of_process(pid: u32) -> Result<NetNs> {
        let path = format!("/proc/{pid}/ns/net");
        let handle = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok(NetNs {
            handle,
            container: None,
        })
    }

    /// A new namespace whose one program will run in a container of its own.
    pub fn contained(engine: &Arc<Engine>, name: &'static str) -> Result<NetNs> {
        let mut ns = NetNs::new()?;
        ns.container = Some((Arc::clone(engine), name));
        Ok(ns)
    }

    /// What the kernel knows it by.
    pub fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.handle.metadata()?.ino())
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.handle.as_raw_fd()
    }

    /// A command whose process will live in this namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        match &self.container {
            Some((engine, name)) => engine.run(name, self.descriptor(), &found(program)),
            None => self.host_command(&found(program)),
        }
    }

    /// The same for a client, which is in no container.
    pub fn outside(&self, program: impl AsRef<Path>) -> Command {
        self.host_command(&found(program))
    }

    fn host_command(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        let fd = self.handle.as_raw_fd();
        // SAFETY: setns is async-signal-safe; the descriptor outlives the spawn because `self`
        // is borrowed for as long as commands of a scenario are made.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Joins two namespaces by a network of their own: 10.60.NET.1 here, 10.60.NET.2 there.
    pub fn join(&self, other: &NetNs, net: u8) -> Result<()> {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.descriptor());
        self.sh(&format!(
            "ip link add to{net} type veth peer name eth0 netns {there}"
        ))?;
        for (ns, device, end) in [(self, format!("to{net}"), 1), (other, "eth0".to_owned(), 2)] {
            ns.sh(&format!(
                "ip addr add 10.60.{net}.{end}/24 dev {device} && ip link set {device} up"
            ))?;
        }
        Ok(())
    }

    /// Runs one shell line in the namespace.
    pub fn sh(&self, line: &str) -> Result<String> {
        let output = self
            .host_command(Path::new("/bin/sh"))
            .args(["-c", line])
            .output()?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: affects only this thread, which ends with the closure.
                    if unsafe { libc::setns(self.handle.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                        return Err(std::io::Error::last_os_error()).context("enter namespace");
                    }
                    work()
                })
                .join()
                .expect("thread in namespace")
        })
    }

    /// Runs asynchronous traffic inside the namespace, on one thread.
    pub fn traffic<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T>>,
    {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            tokio::task::LocalSet::new().block_on(&runtime, work())
        })
    }
}
