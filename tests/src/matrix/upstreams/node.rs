//! Node.js, one process, with its own keep-alive timeout of a second and what it adds.

use std::time::Duration;

use super::{Act, Server, Speaks, Upstream};
use crate::software::{Node, node_program};

const KEEP_ALIVE: Duration = Duration::from_millis(1);
/// What Node adds to its keep-alive timeout.
const ADDED: Duration = Duration::from_secs(1);

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "node",
    speaks: Speaks::Http,
    lacking: || node_program().err().map(|error| format!("{error:#}")),
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            Act::Sleep(_) => "do=hold".to_owned(),
            Act::CloseIdle(idle) if idle == KEEP_ALIVE + ADDED => "ms=40".to_owned(),
            Act::Close => "do=close".to_owned(),
            Act::Reset => "do=reset".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, _| {
        let keep_alive = KEEP_ALIVE.as_millis() as u32;
        let node = Node::start(run, ns, "node", &to.to_string(), keep_alive)?;
        Ok(Server {
            log: node.log.clone(),
            pid: node.pid(),
            running: Box::new(node),
        })
    },
};
