//! What opens a connection is lost on the way, or dropped by a filter on the proxy's own host.

use std::time::Duration;

use super::{By, Cause};
use crate::process;

pub(super) const CAUSE: Cause = Cause {
    name: "connect_timeout",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        stage.apart(Duration::from_millis(1))?;
        if stage.draw.coin() && process::program("iptables").is_some() {
            stage.filter_connects()?;
        } else {
            stage.lose_connects();
        }
        let (_, to) = stage.there();
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
