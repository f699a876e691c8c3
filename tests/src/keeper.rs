//! Nothing of a lab outlives it, however it ends.
//!
//! Three processes, each of which clears up when the one that it waits for or belongs to is gone: in front
//! the one that a person started and signals; the keeper, in a session of its own, to which all orphans
//! come; below it the lab. What is left when all of them are killed at once, the next lab clears.

mod clear;
mod living;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use clear::{former, mounts};
pub use living::{below, groups_of, parent};

const PREFIX: &str = "why502-lab-";
/// Held for as long as one of the three lives.
const LOCK: &str = "lock";
/// What a run has made outside of its folder.
const MADE: &str = "made";
/// Names the folder to every program that the lab starts.
pub(crate) const MARK: &str = "LAB_FOLDER";
/// For servers that were told to stop.
const SOON: Duration = Duration::from_secs(10);

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// What is removed when the lab cannot do it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A control group.
    Group,
    /// A folder with all that is in it, or only if it is empty.
    Folder,
    Empty,
    /// The folder of an engine of containers.
    Engine,
}

impl Made {
    const ALL: [Made; 4] = [Made::Group, Made::Folder, Made::Empty, Made::Engine];

    fn name(self) -> &'static str {
        match self {
            Made::Group => "group",
            Made::Folder => "folder",
            Made::Empty => "empty",
            Made::Engine => "engine",
        }
    }
}

/// Returns in the lab alone, a process of its own from then on. There may be no threads yet.
pub fn keep() -> Result<()> {
    former();
    let (folder, lock) = claim().context("a folder for this run")?;
    let signals = Signals::block();
    let front = std::process::id();
    adopt_orphans();
    if let Some(keeper) = fork()? {
        in_front(keeper, &folder, &signals);
    }
    // SAFETY: changes what this process belongs to; whoever kills the front's group or terminal does not
    // reach it.
    unsafe { libc::setsid() };
    end_with(front);
    adopt_orphans();
    let keeper = std::process::id();
    if let Some(lab) = fork()? {
        beside(lab, &folder, &signals);
    }
    end_with(keeper);
    signals.restore();
    // SAFETY: there is one thread.
    unsafe { std::env::set_var(MARK, &folder) };
    std::mem::forget(lock);
    FOLDER.set(folder).ok().context("it is kept already")
}

/// The folder of this run, where a keeper has an eye on it.
pub fn folder() -> Option<&'static Path> {
    FOLDER.get().map(PathBuf::as_path)
}

/// A new folder for files of this run.
pub fn temporary() -> io::Result<tempfile::TempDir> {
    match folder() {
        // Paths of sockets have 107 bytes.
        Some(folder) => tempfile::Builder::new()
            .prefix("r")
            .rand_bytes(4)
            .tempdir_in(folder),
        None => tempfile::Builder::new().prefix(PREFIX).tempdir(),
    }
}

/// Remembers what is about to be made outside of the folder. What is gone when the lab ends does no harm.
pub fn note(what: Made, path: &Path) -> io::Result<()> {
    let Some(folder) = folder() else {
        return Ok(());
    };
    let mut made = File::options()
        .create(true)
        .append(true)
        .open(folder.join(MADE))?;
    made.write_all(format!("{} {}\n", what.name(), path.display()).as_bytes())
}

/// What was noted of a run.
fn noted(folder: &Path) -> Vec<(Made, PathBuf)> {
    let text = fs::read_to_string(folder.join(MADE)).unwrap_or_default();
    let one = |line: &str| {
        let (name, path) = line.split_once(' ')?;
        let what = Made::ALL.into_iter().find(|what| what.name() == name)?;
        Some((what, PathBuf::from(path)))
    };
    text.lines().filter_map(one).collect()
}

/// A new folder, and its lock.
fn claim() -> Result<(PathBuf, File)> {
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    // It has its name once it is held: without it nobody takes the folder for one that was left.
    let unnamed = folder.path().join("unlocked");
    let lock = File::create(&unnamed)?;
    anyhow::ensure!(is_free(&lock), "a new file is locked");
    fs::rename(&unnamed, folder.path().join(LOCK))?;
    Ok((folder.keep(), lock))
}

/// Whether nobody held it; this process does from now on.
fn is_free(lock: &File) -> bool {
    // SAFETY: a descriptor that is open for the call.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Passes a person's interrupt on and waits for the end.
fn in_front(keeper: i32, folder: &Path, signals: &Signals) -> ! {
    let mut asked = None;
    let status = loop {
        match signals.wait() {
            libc::SIGCHLD => {
                if let Some(status) = reap(keeper) {
                    break status;
                }
            }
            signal => {
                asked.get_or_insert(signal);
                // SAFETY: kill has no memory effects; the child is not reaped yet.
                unsafe { libc::kill(keeper, libc::SIGTERM) };
            }
        }
    };
    if libc::WIFSIGNALED(status) {
        // The orphans came here.
        clear::run(folder);
    }
    std::process::exit(asked.map_or(code(status), |signal| 128 + signal))
}

/// Waits for the lab's end, or for the order to bring it about.
fn beside(lab: i32, folder: &Path, signals: &Signals) -> ! {
    let status = loop {
        if signals.wait() != libc::SIGCHLD {
            break None;
        }
        let status = reap(lab);
        if status.is_some() {
            break status;
        }
    };
    let mut code = status.map_or(128 + libc::SIGTERM, code);
    if code < 128 {
        // It has ended by itself: what it left is a fault of its own.
        for (pid, name) in living::after(SOON) {
            eprintln!("lab: left running: {name} (pid {pid})");
            code = code.max(1);
        }
    }
    clear::run(folder);
    std::process::exit(code)
}

/// As a shell has it.
fn code(status: i32) -> i32 {
    match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status),
        false => libc::WEXITSTATUS(status),
    }
}

/// Buries who has ended; the status of `wanted`, if it is among them.
fn reap(wanted: i32) -> Option<i32> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: the place for the status lives in this frame.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            pid if pid <= 0 => return found,
            pid if pid == wanted => found = Some(status),
            _ => {}
        }
    }
}

/// The child's pid, or `None` in the child.
fn fork() -> Result<Option<i32>> {
    // SAFETY: there is one thread, so the child may do whatever its parent may.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()).context("fork"),
    }
}

/// Has this process told to end when that one, its parent, is gone.
fn end_with(parent: u32) {
    // SAFETY: neither touches memory. Who has lost its parent before the call is not told.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
        if libc::getppid() != parent as i32 {
            libc::raise(libc::SIGTERM);
        }
    }
}

/// Orphans of what is started below come to this process instead of the system's first.
fn adopt_orphans() {
    // SAFETY: takes one flag and changes nothing in memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// What asks a lab to end, and SIGCHLD.
struct Signals {
    set: libc::sigset_t,
    before: libc::sigset_t,
}

impl Signals {
    fn block() -> Signals {
        let mut set = ends();
        // SAFETY: plain calls on sets that live in this frame; a signal's default way is no handler.
        unsafe {
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            Signals { set, before }
        }
    }

    fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: waits for one of the signals blocked above.
        unsafe { libc::sigwait(&raw const self.set, &raw mut signal) };
        signal
    }

    fn restore(&self) {
        // SAFETY: a set that was filled by the call that blocked the others.
        unsafe {
            libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            )
        };
    }
}

/// The signals by which a person, a terminal or a system asks a program to end; without those that it was
/// started to ignore, as `nohup` has it.
pub fn ends() -> libc::sigset_t {
    // SAFETY: plain calls on a set and an action that live in this frame.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut action);
            if signal != libc::SIGHUP || action.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&raw mut set, signal);
            }
        }
        set
    }
}
