//! The scripted upstream as a process of the scenario.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Result;

use super::AppLog;
use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Run, START};
use crate::upstream::Mode;

pub struct Scripted {
    proc: Proc,
    pub log: AppLog,
}

impl Scripted {
    pub fn start(
        run: &Run,
        ns: &NetNs,
        name: &str,
        listen: &str,
        mode: Mode,
        backlog: u32,
    ) -> Result<Scripted> {
        let me = std::env::current_exe()?;
        Scripted::start_program(run, ns, &me, name, listen.as_ref(), mode, backlog)
    }

    /// The same from another file, after which its process is named.
    pub fn start_program(
        run: &Run,
        ns: &NetNs,
        program: &Path,
        name: &str,
        listen: &OsStr,
        mode: Mode,
        backlog: u32,
    ) -> Result<Scripted> {
        let log = AppLog::new(&run.folder.join(format!("{name}-app.log")));
        let mut command = ns.command(program);
        command
            .args(["upstream", "--mode", &mode.name(), "--listen"])
            .arg(listen)
            .args(["--backlog", &backlog.to_string(), "--log"])
            .arg(log.file());
        let mut proc = Proc::spawn(name, command, &run.folder.join(format!("{name}.log")))?;
        proc.wait_ready("the scripted upstream", START, || {
            log.count("listening") > 0
        })?;
        Ok(Scripted { proc, log })
    }

    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn signal(&self, signal: i32) {
        self.proc.signal(signal);
    }
}
