//! The accept queue of a TCP listener on the proxy's host is full.

use super::{By, Cause, busy};

const BACKLOG: u32 = 2;

pub(super) const CAUSE: Cause = Cause {
    name: "tcp_accept_queue_full",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        let (_, to) = stage.there();
        busy::listen(stage, &to, BACKLOG, busy::CLOSED)?;
        // Before the proxy comes, which may want to know how it is.
        busy::fill(stage, &to, BACKLOG)?;
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
