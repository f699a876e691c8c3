//! The head of the upstream's response is malformed.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

pub(super) const CAUSE: Cause = Cause {
    name: "response_invalid",
    by: By::Upstreams(&[Act::BadHead]),
    unix: false,
    // Go's `net/http` takes such a head.
    spares: &["go", "caddy"],
    inject: |stage| {
        stage.ask_of_workers(1)?;
        stage.fail(&stage.ask(Act::BadHead)).map(drop)
    },
};
