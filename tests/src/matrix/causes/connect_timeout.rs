//! What opens a connection is lost on the way.

use std::time::Duration;

use super::{By, Cause};

pub(super) const CAUSE: Cause = Cause {
    name: "connect_timeout",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        stage.apart(Duration::from_millis(1))?;
        stage.lose_connects();
        let (_, to) = stage.there();
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
