//! There is no way to the upstream's host.

use super::{By, Cause};
use crate::matrix::proxies::Target;

pub(super) const CAUSE: Cause = Cause {
    name: "host_unreachable",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.near.sh("ip route add unreachable 10.99.0.0/16")?;
        stage.front(&Target::Tcp("10.99.0.1:9000".parse()?))?;
        stage.fail("").map(drop)
    },
};
