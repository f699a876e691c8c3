//! gunicorn's threads: several requests and kept-alive connections a worker.

use super::{Act, KEPT, Server, Upstream, gunicorn, is_kept};
use crate::software::Gunicorn;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "gthread",
    ask: |act| match act {
        Act::CloseIdle(idle) if is_kept(idle) => Some("do=sleep&ms=40".to_owned()),
        // Its workers say that they live whatever their threads do.
        Act::Alone | Act::Limit | Act::Quit => None,
        _ => gunicorn::ask(act),
    },
    start: |run, ns, to, manner| {
        let kept = KEPT.as_secs().to_string();
        let options = ["--threads", "4", "--keep-alive", kept.as_str()];
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
