//! The lab's own upstream, which can do anything.

use super::{Act, Server, Speaks, Upstream};
use crate::software::Scripted;
use crate::upstream::Mode;

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "scripted",
    speaks: Speaks::Http,
    lacking: || None,
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            // It waits until the proxy has given up.
            Act::Sleep(_) => "do=hold".to_owned(),
            Act::Neglect(_) => "do=neglect".to_owned(),
            Act::CloseIdle(idle) => format!("ms=40&idle={}", idle.as_millis()),
            Act::Close => "do=close".to_owned(),
            Act::Reset => "do=reset".to_owned(),
            Act::Partial => "do=partial".to_owned(),
            Act::Banner => "do=banner".to_owned(),
            Act::BigHead => "do=big-head".to_owned(),
            Act::BadHead => "do=bad-head".to_owned(),
            Act::Reject => "do=reject".to_owned(),
            Act::Spurn => "do=spurn".to_owned(),
            Act::Mistrusted => return None,
            // It has no workers.
            Act::Alone | Act::Exit | Act::Crash | Act::Hunger | Act::Limit | Act::Quit => {
                return None;
            }
        })
    },
    start: |run, ns, to, _| {
        let scripted = Scripted::start(run, ns, "scripted", &to.to_string(), Mode::Asked, 128)?;
        Ok(Server {
            log: scripted.log.clone(),
            pid: scripted.pid(),
            running: Box::new(scripted),
        })
    },
};
