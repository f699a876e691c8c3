//! uvicorn with the model application for ASGI: a supervisor, and workers with many requests each.

use super::{Act, KEPT, Server, Speaks, Upstream, hunger, is_kept};
use crate::process::{self, Proc};
use crate::run::START;
use crate::software::{AppLog, provide};

const APP: &str = include_str!("../../../apps/asgi.py");

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "uvicorn",
    speaks: Speaks::Http,
    lacking: || {
        let missing = process::program("uvicorn").is_none();
        missing.then(|| "uvicorn is not installed".to_owned())
    },
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            Act::Sleep(time) => format!("ms={}", time.as_millis()),
            Act::CloseIdle(idle) if is_kept(idle) => "ms=40".to_owned(),
            Act::BigHead => "do=big-head".to_owned(),
            Act::Exit => "do=exit".to_owned(),
            Act::Crash => "do=segv".to_owned(),
            Act::Hunger => return hunger(),
            _ => return None,
        })
    },
    start: |run, ns, to, manner| {
        // With one it would have no supervisor.
        let workers = manner.workers.max(2);
        let folder = run.folder.join("asgi");
        std::fs::create_dir_all(&folder)?;
        provide(&folder.join("asgi.py"), APP)?;
        let to = to.to_string();
        let log = AppLog::new(&run.folder.join("uvicorn-app.log"));
        let mut command = ns.command("uvicorn");
        match to.rsplit_once(':') {
            Some(("unix", path)) => command.args(["--uds", path]),
            Some((host, port)) => command.args(["--host", host, "--port", port]),
            None => &mut command,
        };
        command
            .args(["--workers", &workers.to_string()])
            .args(["--timeout-keep-alive", &KEPT.as_secs().to_string()])
            .args(["--log-level", "warning", "asgi:app", "--app-dir"])
            .arg(&folder)
            .env("APP_LOG", log.file())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut proc = Proc::spawn("uvicorn", command, &run.folder.join("uvicorn.log"))?;
        proc.wait_ready("uvicorn's workers", START, || {
            log.count("loaded") >= workers as usize
        })?;
        Ok(Server {
            log,
            pid: proc.pid(),
            running: Box::new(proc),
        })
    },
};
