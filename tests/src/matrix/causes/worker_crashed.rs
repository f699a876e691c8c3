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
        let alone = stage.upstream.and_then(|it| (it.ask)(Act::Alone));
        if alone.is_none() {
            // Others that its worker had not read yet would be its victims, too.
            stage.draw.crowd = 1;
        }
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 3,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        // A worker that dies takes a while to be replaced.
        stage.front_for(&to, Duration::from_secs(20))?;
        let queries = [Act::Exit, Act::Crash].map(|act| stage.ask(act));
        stage.fail_by_turns(&queries)?;
        stage.run.hold(server.running);
        Ok(())
    },
};
