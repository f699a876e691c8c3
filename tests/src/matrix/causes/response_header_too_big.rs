//! The upstream's response has more head than proxies take.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

pub(super) const CAUSE: Cause = Cause {
    name: "response_header_too_big",
    by: By::Upstreams(&[Act::BigHead]),
    unix: false,
    spares: &["go", "caddy"],
    inject: |stage| {
        stage.ask_of_workers(1)?;
        stage.fail(&stage.ask(Act::BigHead)).map(drop)
    },
};
