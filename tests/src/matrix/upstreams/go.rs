//! Go's `net/http`, one process, in a program of the lab's own.

use super::{Act, KEPT, Server, Speaks, Upstream, is_kept};
use crate::process::{self, Proc};
use crate::run::START;
use crate::software::{AppLog, go_program};

const SOURCE: &str = include_str!("../../../apps/goserver.go");

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "go",
    speaks: Speaks::Http,
    lacking: || {
        let missing = process::program("go").is_none();
        missing.then(|| "go is not installed".to_owned())
    },
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            // It waits until the proxy has given up.
            Act::Sleep(_) => "do=hold".to_owned(),
            Act::Neglect(time) => format!("do=neglect&ms={}", time.as_millis()),
            Act::CloseIdle(idle) if is_kept(idle) => "ms=40".to_owned(),
            Act::Close => "do=close".to_owned(),
            Act::Reset => "do=reset".to_owned(),
            Act::Partial => "do=partial".to_owned(),
            Act::Banner => "do=banner".to_owned(),
            Act::BadHead => "do=bad-head".to_owned(),
            Act::BigHead => "do=big-head".to_owned(),
            Act::Reject => "do=reject".to_owned(),
            Act::Spurn => "do=spurn".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, _| {
        let log = AppLog::new(&run.folder.join("go-app.log"));
        let mut command = ns.command(go_program(&run.options.out, "goserver", SOURCE)?);
        command
            .args([to.to_string(), format!("{}s", KEPT.as_secs())])
            .arg(log.file());
        let mut proc = Proc::spawn("the Go server", command, &run.folder.join("goserver.log"))?;
        proc.wait_ready("the Go server", START, || log.count("listening") > 0)?;
        Ok(Server {
            log,
            pid: proc.pid(),
            running: Box::new(proc),
        })
    },
};
