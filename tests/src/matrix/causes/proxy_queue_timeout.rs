//! The proxy asks the upstream for one thing at a time; who waits longer than it may, or in vain, fails.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::proxies::Own;

/// How long a request waits in the queue.
const WAIT: Duration = Duration::from_millis(250);

/// One is answered, and one may wait for as long as that takes.
const CROWD: usize = 4;

pub(super) const CAUSE: Cause = Cause {
    name: "proxy_queue_timeout",
    by: By::Itself,
    unix: false,
    spares: &[
        // They call an upstream for each request, and queue none.
        "nginx",
        "nginx-1.30",
        "go",
        "h2o",
        "pingora",
        "varnish",
        // It refuses what is more than an upstream may have, and says that none is available.
        "caddy",
    ],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        stage.own = Some(Own::Queues(WAIT));
        stage.in_few_crowds();
        let to = stage.serve_there()?;
        stage.front(&to)?;
        // One of each crowd is answered; it takes longer than others wait.
        stage.fail_together("ms=450", CROWD).map(drop)
    },
};
