//! uWSGI with the model application, speaking HTTP.

use super::gunicorn::ask;
use super::{Act, Server, Speaks, Upstream};
use crate::process;
use crate::software::Uwsgi;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "uwsgi",
    speaks: Speaks::Http,
    lacking: || {
        let missing = process::program("uwsgi-core").is_none();
        missing.then(|| "uWSGI is not installed".to_owned())
    },
    ask: |act| match act {
        Act::Alone | Act::Limit => Some(String::new()),
        // It answers a broken status by itself.
        Act::Status(_) => None,
        _ => ask(act),
    },
    start: |run, ns, to, manner| {
        // The socket of the uwsgi protocol is not used.
        let unused = run.folder.join("uwsgi.sock").display().to_string();
        let address = to.to_string();
        let harakiri = manner.limit.unwrap_or(600).to_string();
        let options = [
            "--http-socket",
            address.trim_start_matches("unix:"),
            "--harakiri",
            &harakiri,
            // It ends each connection after its answer, of which HTTP/1.1 without this promises more.
            "--add-header",
            "Connection: close",
        ];
        let uwsgi = Uwsgi::start(run, ns, "uwsgi", &unused, manner.workers, &options)?;
        Ok(Server {
            log: uwsgi.log.clone(),
            pid: uwsgi.pid(),
            running: Box::new(uwsgi),
        })
    },
};
