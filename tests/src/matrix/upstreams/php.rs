//! php-fpm, spoken to in FastCGI without kept-alive connections, each of which would keep a worker.

use super::{Act, SCRIPT, Server, Speaks, Upstream, hunger};
use crate::process::{self, Proc};
use crate::run::START;
use crate::software::{AppLog, provide};

const PROGRAM: &str = "php-fpm8.2";
const APP: &str = include_str!("../../../apps/app.php");

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "php-fpm",
    speaks: Speaks::FastCgi,
    lacking: || {
        let missing = process::program(PROGRAM).is_none();
        missing.then(|| format!("{PROGRAM} is not installed"))
    },
    ask: |act| {
        Some(match act {
            Act::Answer | Act::Alone | Act::Limit => String::new(),
            Act::Sleep(time) => format!("ms={}", time.as_millis()),
            Act::Exit => "do=exit".to_owned(),
            Act::Crash => "do=segv".to_owned(),
            Act::Hunger => return hunger(),
            Act::Status(status) => format!("status={status}"),
            Act::BigHead => "do=big-head".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, manner| {
        let script = run.folder.join(SCRIPT);
        if let Some(folder) = script.parent() {
            std::fs::create_dir_all(folder)?;
        }
        provide(&script, APP)?;
        let log = AppLog::new(&run.folder.join("php-app.log"));
        let config = run.folder.join("php-fpm.conf");
        let text = format!(
            "[global]\ndaemonize = no\nerror_log = /dev/stderr\n\
             [lab]\nlisten = {to}\nuser = root\ngroup = root\nclear_env = no\n\
             pm = static\npm.max_children = {}\nrequest_terminate_timeout = {}s\n\
             php_admin_value[ffi.enable] = 1\n",
            manner.workers,
            manner.limit.unwrap_or(600),
        );
        std::fs::write(&config, text)?;
        let mut command = ns.command(PROGRAM);
        command
            .args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"])
            .arg(&config)
            .env("APP_LOG", log.file());
        let said = run.folder.join("php-fpm.log");
        let mut proc = Proc::spawn("php-fpm", command, &said)?;
        proc.wait_ready("php-fpm's workers", START, || {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            text.contains("ready to handle connections")
        })?;
        Ok(Server {
            log,
            pid: proc.pid(),
            running: Box::new(proc),
        })
    },
};
