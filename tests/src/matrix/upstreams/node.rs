//! Node.js, one process, with its own keep-alive timeout of a second and what it adds.

use super::{Act, Server, Speaks, Upstream, is_kept};
use crate::software::{Node, node_program};

/// It adds a second to it.
pub(super) const KEEP_ALIVE_MS: u32 = 1;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "node",
    speaks: Speaks::Http,
    lacking: || node_program().err().map(|error| format!("{error:#}")),
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            Act::Sleep(_) => "do=hold".to_owned(),
            Act::Neglect(_) => "do=neglect".to_owned(),
            Act::CloseIdle(idle) if is_kept(idle) => "ms=40".to_owned(),
            Act::Close => "do=close".to_owned(),
            Act::Reset => "do=reset".to_owned(),
            Act::BadHead => "do=bad-head".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, _| {
        let node = Node::start(run, ns, "node", &to.to_string(), KEEP_ALIVE_MS)?;
        Ok(Server {
            log: node.log.clone(),
            pid: node.pid(),
            running: Box::new(node),
        })
    },
};
