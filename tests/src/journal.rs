//! A journal of its own, kept by systemd's real daemon, and a service that is none of the host's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::keeper::{self, Made};
use crate::process::Proc;
use crate::run::{Run, START};

/// Where Debian has it.
pub const DAEMON: &str = "/lib/systemd/systemd-journald";

pub struct Journal {
    name: String,
    daemon: Option<Proc>,
}

impl Journal {
    pub fn start(run: &Run) -> Result<Journal> {
        let name = format!("why502-lab-{}", std::process::id());
        let mut journal = Journal { name, daemon: None };
        for folder in journal.folders() {
            keeper::note(Made::Folder, &folder)?;
        }
        std::fs::create_dir_all(journal.sockets())?;
        let mut command = Command::new(DAEMON);
        command.arg(&journal.name);
        let log = run.folder.join("journald.log");
        let mut daemon = Proc::spawn("systemd-journald", command, &log)?;
        let socket = journal.syslog();
        daemon.wait_ready("the journal's socket", START, || socket.exists())?;
        journal.daemon = Some(daemon);
        Ok(journal)
    }

    /// Where it takes what others send to `/dev/log`.
    pub fn syslog(&self) -> PathBuf {
        self.sockets().join("dev-log")
    }

    fn sockets(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}", self.name))
    }

    /// Its sockets', and the two of which it keeps its entries in one.
    fn folders(&self) -> [PathBuf; 3] {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let own = format!("{}.{}", machine.trim(), self.name);
        let [run, log] =
            ["/run/log/journal", "/var/log/journal"].map(|folder| Path::new(folder).join(&own));
        [self.sockets(), run, log]
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.daemon = None;
        for folder in self.folders() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
