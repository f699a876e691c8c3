//! gunicorn with the model server; ready when every worker has loaded the application.

use std::path::Path;

use anyhow::Result;

use super::AppLog;
use crate::netns::NetNs;
use crate::process::{self, Proc};
use crate::run::{Run, START};

pub struct Gunicorn {
    proc: Proc,
    pub log: AppLog,
}

const APP: &str = include_str!("../../apps/model.py");

impl Gunicorn {
    /// `bind` as gunicorn takes it (`unix:/path`, `IP:port`), `options` as on its command line.
    pub fn start(
        run: &Run,
        ns: &NetNs,
        name: &str,
        bind: &str,
        workers: u32,
        options: &[&str],
    ) -> Result<Gunicorn> {
        let mut gunicorn = Gunicorn::launch(run, ns, name, bind, workers, options, &[])?;
        gunicorn.wait_loaded(workers as usize)?;
        Ok(gunicorn)
    }

    /// Starts it and does not wait.
    pub fn launch(
        run: &Run,
        ns: &NetNs,
        name: &str,
        bind: &str,
        workers: u32,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Gunicorn> {
        let folder = app_folder(&run.folder)?;
        let log = run.folder.join(format!("{name}-app.log"));
        let mut command = ns.command("gunicorn");
        command
            .args(["--bind", bind, "--workers", &workers.to_string()])
            .args(["--graceful-timeout", "10", "--chdir"])
            .arg(&folder)
            .args(options)
            .arg("model:app")
            .env("APP_LOG", &log)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(environment.iter().copied());
        let proc = Proc::spawn("gunicorn", command, &run.folder.join(format!("{name}.log")))?;
        Ok(Gunicorn {
            proc,
            log: AppLog::new(&log),
        })
    }

    /// Waits until the application has been loaded `times` times since the start.
    pub fn wait_loaded(&mut self, times: usize) -> Result<()> {
        let log = self.log.clone();
        self.proc
            .wait_ready("gunicorn's workers", START, || log.count("loaded") >= times)
    }

    /// The arbiter's.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn workers(&self) -> Vec<u32> {
        process::children(self.proc.pid())
    }

    pub fn signal(&self, signal: i32) {
        self.proc.signal(signal);
    }

    pub fn proc_mut(&mut self) -> &mut Proc {
        &mut self.proc
    }
}

/// Writes the application where a server can import it.
pub(super) fn app_folder(folder: &Path) -> Result<std::path::PathBuf> {
    let app = folder.join("app");
    std::fs::create_dir_all(&app)?;
    super::provide(&app.join("model.py"), APP)?;
    Ok(app)
}
