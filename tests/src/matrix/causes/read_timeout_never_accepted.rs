//! A connection waits in the accept queue until the proxy gives up: the only worker is busy, or
//! nobody accepts at all.

use std::time::Duration;

use super::{By, Cause, busy};

/// More than come, with all checks.
const BACKLOG: u32 = 2048;

pub(super) const CAUSE: Cause = Cause {
    name: "read_timeout_never_accepted",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let (_, to) = stage.there();
        busy::listen(stage, &to, BACKLOG, busy::CLOSED)?;
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
