//! The proxy lets few requests through, by a rate or by how many are under way, and refuses the others.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::proxies::Own;

/// More than are let through at once.
const CROWD: usize = 4;

pub(super) const CAUSE: Cause = Cause {
    name: "proxy_limit",
    by: By::Itself,
    unix: false,
    spares: &[
        // Their limits refuse with 4xx, or let clients wait to be accepted.
        "apache", "h2o",
        // It takes an upstream with too many requests for one that is down, and says that it has none.
        "caddy", // They have none.
        "go", "pingora",
    ],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        stage.own = Some(Own::Limits);
        let to = stage.serve_there()?;
        stage.front(&to)?;
        // The first one is within any limit.
        stage.fail_once()?;
        // Whoever is let through takes long enough for the others to come meanwhile.
        stage.fail_together("ms=200", CROWD).map(drop)
    },
};
