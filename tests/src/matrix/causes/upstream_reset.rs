//! The upstream reads a request and resets the connection.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_reset",
    by: By::Upstreams(&[Act::Reset]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 1,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        stage.fail(&stage.ask(Act::Reset))?;
        stage.run.hold(server.running);
        Ok(())
    },
};
