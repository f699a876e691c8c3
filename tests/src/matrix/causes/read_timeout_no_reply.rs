//! The upstream reads a request and does not answer in time.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::Act;

/// Longer than any proxy waits.
const LONG: Duration = Duration::from_secs(3);

pub(super) const CAUSE: Cause = Cause {
    name: "read_timeout_no_reply",
    by: By::Upstreams(&[Act::Sleep(LONG)]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        // Each of a crowd is read by a worker of its own.
        stage.ask_of_workers(stage.wanted as u32)?;
        // All at once: none waits for a worker that is still asleep.
        let query = stage.ask(Act::Sleep(LONG));
        let requests = (0..stage.wanted).map(|_| stage.failing(&query)).collect();
        stage.crowd(requests).map(drop)
    },
};
