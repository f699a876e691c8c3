//! gunicorn's threads: several requests and kept-alive connections a worker, which it closes some time
//! after they have been idle for as long as it was told: no race can be aimed at.

use super::{Act, KEPT, Server, Upstream, gunicorn};
use crate::software::Gunicorn;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "gthread",
    ask: |act| match act {
        // Its workers say that they live whatever their threads do.
        Act::Alone | Act::Limit | Act::Quit => None,
        _ => gunicorn::ask(act),
    },
    start: |run, ns, to, manner| {
        let kept = KEPT.as_secs().to_string();
        // One worker may take a whole crowd's connections: none of it waits for a thread.
        let options = ["--threads", "32", "--keep-alive", kept.as_str()];
        let bind = to.to_string();
        let gunicorn = Gunicorn::start(run, ns, "gthread", &bind, manner.workers, &options)?;
        Ok(Server {
            log: gunicorn.log.clone(),
            pid: gunicorn.pid(),
            running: Box::new(gunicorn),
        })
    },
    ..gunicorn::UPSTREAM
};
