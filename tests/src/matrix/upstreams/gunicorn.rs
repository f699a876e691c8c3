//! gunicorn's sync workers: one request each, no kept-alive connections.

use super::{Act, Server, Speaks, Upstream, hunger};
use crate::process;
use crate::software::Gunicorn;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "gunicorn",
    speaks: Speaks::Http,
    lacking: || {
        let missing = process::program("gunicorn").is_none();
        missing.then(|| "gunicorn is not installed".to_owned())
    },
    ask: |act| match act {
        Act::Alone | Act::Limit | Act::Quit => Some(String::new()),
        _ => ask(act),
    },
    start: |run, ns, to, manner| {
        let limit = manner.limit.unwrap_or(600).to_string();
        let options = ["--timeout", limit.as_str()];
        let bind = to.to_string();
        let gunicorn = Gunicorn::start(run, ns, "gunicorn", &bind, manner.workers, &options)?;
        Ok(Server {
            log: gunicorn.log.clone(),
            pid: gunicorn.pid(),
            running: Box::new(gunicorn),
        })
    },
};

/// What the model application can be asked, whatever serves it.
pub(super) fn ask(act: Act) -> Option<String> {
    Some(match act {
        Act::Answer => String::new(),
        Act::Status(status) => format!("status={status}"),
        Act::Sleep(time) => format!("do=sleep&ms={}", time.as_millis()),
        Act::Neglect(time) => format!("do=neglect&ms={}", time.as_millis()),
        Act::Exit => "do=exit".to_owned(),
        Act::Crash => "do=segv".to_owned(),
        Act::Hunger => return hunger(),
        Act::BadHead => "do=bad-head".to_owned(),
        _ => return None,
    })
}
