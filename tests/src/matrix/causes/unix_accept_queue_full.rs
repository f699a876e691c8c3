//! The accept queue of a Unix socket is full when the proxy calls.

use super::{By, Cause, busy};

const BACKLOG: u32 = 3;

pub(super) const CAUSE: Cause = Cause {
    name: "unix_accept_queue_full",
    by: By::Itself,
    unix: true,
    // It waits in connect() until there is room.
    spares: &["apache"],
    inject: |stage| {
        let to = stage.unix();
        busy::listen(stage, &to, BACKLOG, busy::CLOSED)?;
        // Before the proxy comes, which may want to know how it is.
        busy::fill(stage, &to, BACKLOG)?;
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
