//! The scripted upstream as a process of the scenario.

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
        let log = AppLog::new(&run.folder.join(format!("{name}-app.log")));
        let me = std::env::current_exe()?;
        let mut command = ns.command(&me.to_string_lossy());
        command
            .args(["upstream", "--listen", listen, "--mode", &mode.name()])
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
