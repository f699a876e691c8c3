//! uWSGI with the model server, on a socket that speaks the uwsgi protocol.

use anyhow::Result;

use super::AppLog;
use super::gunicorn::app_folder;
use crate::netns::NetNs;
use crate::process::{self, Proc};
use crate::run::{Run, START};

pub struct Uwsgi {
    proc: Proc,
    pub log: AppLog,
}

impl Uwsgi {
    pub fn start(
        run: &Run,
        ns: &NetNs,
        name: &str,
        socket: &str,
        workers: u32,
        options: &[&str],
    ) -> Result<Uwsgi> {
        let folder = app_folder(&run.folder)?;
        let log = AppLog::new(&run.folder.join(format!("{name}-app.log")));
        let mut command = ns.command("uwsgi-core");
        command
            .args(["--plugin", "python3", "--master", "--die-on-term"])
            .args(["--chmod-socket=666", "--lazy-apps", "--socket", socket])
            .args(["--processes", &workers.to_string(), "--module", "model:app"])
            .arg("--chdir")
            .arg(&folder)
            .args(options)
            .env("APP_LOG", log.file())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut proc = Proc::spawn("uWSGI", command, &run.folder.join(format!("{name}.log")))?;
        proc.wait_ready("uWSGI's workers", START, || {
            log.count("loaded") >= workers as usize
        })?;
        Ok(Uwsgi { proc, log })
    }

    /// The master's.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn workers(&self) -> Vec<u32> {
        process::children(self.proc.pid())
    }
}
