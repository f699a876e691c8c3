//! The upstream accepts and never reads: its threads are busy, or it does not care.

use std::time::Duration;

use super::{By, Cause, busy};

const BACKLOG: u32 = 128;

pub(super) const CAUSE: Cause = Cause {
    name: "read_timeout_not_read",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let (_, to) = stage.there();
        busy::listen(stage, &to, BACKLOG, busy::DEAF)?;
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
