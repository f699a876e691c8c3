//! Nobody listens where the proxy calls.

use std::time::Duration;

use super::{By, Cause};

pub(super) const CAUSE: Cause = Cause {
    name: "connection_refused",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let (_, to) = stage.there();
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
