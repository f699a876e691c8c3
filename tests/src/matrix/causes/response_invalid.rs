//! The head of the upstream's response is malformed.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "response_invalid",
    by: By::Upstreams(&[Act::BadHead]),
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
        stage.fail(&stage.ask(Act::BadHead))?;
        stage.run.hold(server.running);
        Ok(())
    },
};
