//! The upstream reads a request and resets the connection.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_reset",
    by: By::Upstreams(&[Act::Reset]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.ask_of_workers(1)?;
        stage.fail(&stage.ask(Act::Reset)).map(drop)
    },
};
