//! The worker that has read a request dies of it.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "worker_crashed",
    by: By::Upstreams(&[Act::Exit, Act::Crash]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 3,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        // A worker that dies takes a while to be replaced.
        stage.front_for(&to, Duration::from_secs(20))?;
        let wanted = stage.wanted;
        for act in [Act::Exit, Act::Crash] {
            stage.wanted = wanted.div_ceil(2);
            stage.fail(&stage.ask(act))?;
        }
        stage.run.hold(server.running);
        Ok(())
    },
};
