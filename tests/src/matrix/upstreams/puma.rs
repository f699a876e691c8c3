//! Puma with the model application for Rack: a cluster of workers, a few threads each. It closes idle
//! connections some tenths of a second late: no race can be aimed at.

use super::{Act, KEPT, Server, Speaks, Upstream, hunger};
use crate::process::{self, Proc};
use crate::run::START;
use crate::software::{AppLog, provide};

const APP: &str = include_str!("../../../apps/config.ru");

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "puma",
    speaks: Speaks::Http,
    lacking: || {
        let missing = process::program("puma").is_none();
        missing.then(|| "puma is not installed".to_owned())
    },
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            Act::Sleep(time) => format!("ms={}", time.as_millis()),
            Act::Exit => "do=exit".to_owned(),
            Act::Crash => "do=segv".to_owned(),
            Act::Hunger => return hunger(),
            Act::BadHead => "do=bad-head".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, manner| {
        let workers = manner.workers.max(1);
        let folder = run.folder.join("rack");
        std::fs::create_dir_all(&folder)?;
        provide(&folder.join("config.ru"), APP)?;
        provide(
            &folder.join("puma.rb"),
            &format!(
                "persistent_timeout {}\nworker_check_interval 1\n",
                KEPT.as_secs()
            ),
        )?;
        let to = to.to_string();
        let bind = match to.strip_prefix("unix:") {
            Some(path) => format!("unix://{path}"),
            None => format!("tcp://{to}"),
        };
        let log = AppLog::new(&run.folder.join("puma-app.log"));
        let mut command = ns.command("puma");
        command
            .current_dir(&folder)
            .args(["--config", "puma.rb", "--bind", &bind, "--threads", "1:4"])
            .args([
                "--workers",
                &workers.to_string(),
                "--environment",
                "production",
            ])
            .arg("config.ru")
            .env("APP_LOG", log.file());
        let mut proc = Proc::spawn("puma", command, &run.folder.join("puma.log"))?;
        proc.wait_ready("puma's workers", START, || {
            log.count("loaded") >= workers as usize
        })?;
        Ok(Server {
            log,
            pid: proc.pid(),
            running: Box::new(proc),
        })
    },
};
