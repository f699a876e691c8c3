//! The proxy asks in TLS, and does not trust the upstream's certificate, or has no version in common with it.

use super::{By, Cause};
use crate::matrix::upstreams::Act;

pub(super) const CAUSE: Cause = Cause {
    name: "tls_handshake_failed",
    by: By::Upstreams(&[Act::Mistrusted]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.ask_of_workers(1)?;
        stage.fail("").map(drop)
    },
};
