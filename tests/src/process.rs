//! Child processes that never outlive the lab: each leads a process group, killed when dropped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// The groups alive now, so that an interrupted lab can end them.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

pub struct Proc {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts `command` with both outputs appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Proc> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdout(out.try_clone()?).stderr(out);
        Proc::spawn_as_is(name, command, log)
    }

    /// Starts `command` with the outputs it already has.
    pub fn spawn_as_is(name: &str, mut command: Command, log: &Path) -> Result<Proc> {
        // SAFETY: both calls are async-signal-safe, and the set lives in the closure's frame.
        unsafe {
            command.pre_exec(|| {
                // The lab blocks the signals it waits for; its children must not.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                Ok(())
            });
        }
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        GROUPS.lock().expect("groups").insert(child.id() as i32);
        Ok(Proc {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: None,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the leader alone.
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    pub fn running(&mut self) -> bool {
        self.ended.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = self.ended;
        let child = &mut self.child;
        wait::until(&format!("end of {}", self.name), limit, || {
            if status.is_none() {
                status = child.try_wait().ok().flatten();
            }
            status.is_some()
        })?;
        self.ended = status;
        status.context("no exit status")
    }

    /// Waits until the program is up, and fails with its own words if it dies first.
    pub fn wait_ready(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut died = None;
        let waited = wait::until(what, limit, || {
            died = self.child.try_wait().ok().flatten();
            died.is_some() || ready()
        });
        if let Some(status) = died {
            bail!(
                "{} ended at once ({status}, signal {:?}):\n{}",
                self.name,
                status.signal(),
                tail(&self.log)
            );
        }
        waited.with_context(|| format!("{} said:\n{}", self.name, tail(&self.log)))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let group = self.child.id() as i32;
        kill_group(group);
        // The leader is reaped here; orphans of its group go to init.
        let _ = self.child.wait();
        GROUPS.lock().expect("groups").remove(&group);
    }
}

fn kill_group(group: i32) {
    // SAFETY: plain system call; the group was created by us and its leader is not yet reaped.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// Ends everything that is still running: for an interrupted lab.
pub fn kill_all() {
    for group in GROUPS.lock().expect("groups").iter() {
        kill_group(*group);
    }
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: plain system call on a process id.
    unsafe { libc::kill(pid as i32, signal) };
}

/// A thread, and what it starts from now on, runs on the first processor that it may run on; 0 is the
/// calling one.
pub fn keep_on_first_processor(tid: u32) -> Result<()> {
    // SAFETY: the set lives in this frame, and its size is its type's.
    let kept = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(tid as i32, size, &raw mut set) == 0
            && let Some(first) = (0..libc::CPU_SETSIZE as usize).find(|&n| libc::CPU_ISSET(n, &set))
        {
            libc::CPU_ZERO(&mut set);
            libc::CPU_SET(first, &mut set);
        }
        libc::sched_setaffinity(tid as i32, size, &raw const set)
    };
    match kept {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("keep a thread on a processor"),
    }
}

/// The direct children of a process, in the order they were started.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found: Vec<u32> = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    found.sort_unstable();
    found
}

/// The state letter of a process, `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Where a program is, searching `PATH` and the folders of system programs.
pub fn program(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join(&name))
        .find(|file| file.is_file())
}

/// The last lines of a log, for messages.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
