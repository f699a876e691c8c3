//! What a systemd service writes to the journal, followed by way of `journalctl`: systemd's own reader of
//! its files, whose format is no interface.

mod entries;
pub mod services;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::{Counts, Template, Timed, Zone};
use crate::signal::Nanos;
use entries::{Entries, FIELDS};

/// Entries from before by which it is recognised.
const BEFORE: u32 = 64;
/// Read of one journal before other logs have their turn.
const TURN: usize = 1024 * 1024;
/// An entry longer than this is left out.
const ENTRY: usize = 1024 * 1024;
/// Descriptors that are kept from `journalctl` one by one where the kernel cannot do it at once.
const DESCRIPTORS: i32 = 4096;

/// The journal of one service.
pub struct Journal {
    /// What it is called in messages.
    path: PathBuf,
    child: Child,
    entries: Entries,
    partial: Vec<u8>,
    skipping: bool,
    quiet: bool,
}

impl Journal {
    /// From `now` on.
    pub fn follow(
        service: &str,
        now: Nanos,
        templates: &Arc<[Template]>,
        zone: Zone,
    ) -> io::Result<Journal> {
        let mut command = Command::new("journalctl");
        command
            .args(["--follow", "--quiet", "--all", "--output=json"])
            .arg(format!("--lines={BEFORE}"))
            // Also of services with a journal of their own.
            .arg("--namespace=*")
            .arg(format!("--output-fields={FIELDS}"))
            .arg(format!("_SYSTEMD_UNIT={service}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What is typed at a terminal is not for it: its last lines are still wanted.
            .process_group(0);
        // SAFETY: only system calls, which may be made between fork and exec.
        unsafe { command.pre_exec(detach) };
        let child = command.spawn()?;
        if let Some(output) = &child.stdout {
            // SAFETY: the descriptor is open as long as `child` is.
            if unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Journal {
            path: PathBuf::from(format!("journal of {service}")),
            child,
            entries: Entries::new(now, templates, zone),
            partial: Vec::new(),
            skipping: false,
            quiet: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn counts(&self) -> Counts {
        self.entries.counts()
    }

    /// What it was recognised as.
    pub fn format(&self) -> Option<String> {
        self.entries.format()
    }

    pub fn tells(&self) -> Vec<&'static str> {
        self.entries.tells()
    }

    /// The proxy's processes now, whose lines alone are believed.
    pub fn know(&mut self, pids: &BTreeSet<u32>) {
        self.entries.know(pids);
    }

    /// Its processes are to be looked for: another one has written.
    pub fn waits(&self) -> bool {
        self.entries.waits()
    }

    /// Takes in what was written since the last look; an error when there will be no more.
    pub fn look(&mut self, out: &mut Vec<Timed>) -> io::Result<()> {
        let Some(output) = &mut self.child.stdout else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        let read = output.by_ref().take(TURN as u64).read_to_end(&mut bytes);
        let ended = match read {
            Ok(_) => bytes.len() < TURN,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        self.entries.take_known(out);
        self.take(&bytes, out);
        if bytes.is_empty() && self.quiet {
            self.entries.flush(out);
        }
        self.quiet = bytes.is_empty();
        match ended {
            true => Err(io::Error::other("journalctl has ended")),
            false => Ok(()),
        }
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<Timed>) {
        let mut pieces = bytes.split(|b| *b == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let ends = pieces.peek().is_some();
            if self.partial.len() + piece.len() > ENTRY {
                self.skipping = true;
            }
            if !self.skipping {
                self.partial.extend_from_slice(piece);
            }
            if ends {
                let entry = std::mem::take(&mut self.partial);
                if !std::mem::take(&mut self.skipping) {
                    self.entries.take(&entry, out);
                }
            }
        }
    }
}

/// Whether a program that this one starts may read the host's journal, as far as there is one.
pub fn is_readable() -> bool {
    let folders = ["/run/log/journal", "/var/log/journal"];
    let hosts = folders
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok());
    let hosts = hosts.flatten().flatten();
    hosts
        .map(|host| host.path().join("system.journal"))
        .any(may_read)
}

/// By the rights of the user: capabilities are not handed on.
fn may_read(path: PathBuf) -> bool {
    let path = CString::new(path.into_os_string().into_encoded_bytes());
    // SAFETY: the path is a string with a NUL at its end.
    path.is_ok_and(|path| unsafe { libc::access(path.as_ptr(), libc::R_OK) } == 0)
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It ends with the thread that follows it, whatever ends that, and has none of this process's descriptors:
/// libpcap's are not closed by an exec.
fn detach() -> io::Result<()> {
    // SAFETY: these take numbers alone.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        let flag = libc::CLOSE_RANGE_CLOEXEC;
        // Since Linux 5.11.
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flag) != 0 {
            for descriptor in 3..DESCRIPTORS {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
    Ok(())
}
