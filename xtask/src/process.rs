//! Programs that run beside this one, each in a process group of its own that ends with it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The groups to end when a person interrupts; 0 is a free place. An array of atomics because a
/// signal handler may not lock.
static GROUPS: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

/// From now on an interrupt or a termination ends every group started here, and this program.
pub(crate) fn end_all_when_interrupted() {
    extern "C" fn end(signal: libc::c_int) {
        for group in &GROUPS {
            let group = group.load(Ordering::Relaxed);
            if group > 0 {
                // SAFETY: kill may be called from a signal handler; the group is ours.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        }
        // SAFETY: _exit may be called from a signal handler.
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler calls nothing but what signal-safety(7) allows.
        unsafe { libc::signal(signal, end as *const () as libc::sighandler_t) };
    }
}

/// Orphans of what is started here become children of this program instead of the system's, so
/// that `descendants` finds them.
pub(crate) fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one flag and changes nothing in memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// A program beside this one. Dropping it kills its whole group.
pub(crate) struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Process> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", shell::line(command)))?;
        let group = i32::try_from(child.id()).context("a pid that is no pid")?;
        for place in &GROUPS {
            if place
                .compare_exchange(0, group, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                break;
            }
        }
        Ok(Process {
            name: name.to_owned(),
            child,
            ended: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Asks it to stop, and sees that it does.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        signal(self.pid(), libc::SIGTERM);
        let name = self.name.clone();
        until(&format!("{name} to stop"), Duration::from_secs(10), || {
            self.ended().is_some()
        })?;
        self.ended.context("its status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = i32::try_from(self.pid()).unwrap_or(0);
        if group > 0 {
            // What it forked may live on in the group when it has ended itself.
            // SAFETY: kill has no memory effects; the group is one that `start` made.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
        // Adopted members of the group are this program's to bury; without `adopt_orphans` there
        // are none. SAFETY: waitpid may be given no place for the status.
        while group > 0 && unsafe { libc::waitpid(-group, std::ptr::null_mut(), 0) } > 0 {}
        for place in &GROUPS {
            let _ = place.compare_exchange(group, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, signal: libc::c_int) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill has no memory effects.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Waits for a condition, not for a time.
pub(crate) fn until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let end = Instant::now() + deadline;
    while !condition() {
        if Instant::now() > end {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// One living process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Living {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    pub(crate) state: char,
}

/// Every living process but zombies.
pub(crate) fn living() -> io::Result<Vec<Living>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that has just ended has no file any more.
        if let Ok(text) = fs::read_to_string(entry.path().join("stat"))
            && let Some(process) = stat(pid, &text)
            && process.state != 'Z'
        {
            all.push(process);
        }
    }
    Ok(all)
}

/// The name is in parentheses and may itself hold any of " ()".
fn stat(pid: u32, text: &str) -> Option<Living> {
    let (_, rest) = text.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Living {
        pid,
        parent,
        name: name.to_owned(),
        state,
    })
}

/// The processes below this one, whose parents may have ended before them.
pub(crate) fn descendants(of: u32) -> io::Result<Vec<Living>> {
    let all = living()?;
    let mut found: Vec<Living> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    Ok(found)
}

/// An empty folder for the run's files.
pub(crate) fn fresh_folder(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("empty {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let process = stat(7, "7 (a) (b c) S 1 7 7 0").unwrap();
        assert_eq!(
            (process.name.as_str(), process.state, process.parent),
            ("a) (b c", 'S', 1)
        );
    }

    #[test]
    fn what_is_cut_short_is_no_process() {
        for text in ["", "7", "7 (a", "7 (a)", "7 (a) S", "7 (a) S x"] {
            assert_eq!(stat(7, text), None, "{text:?}");
        }
    }
}
