//! A supervisor kills its worker, which takes too long for a request.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

const LONG: Duration = Duration::from_secs(30);

pub(super) const CAUSE: Cause = Cause {
    name: "worker_timeout_killed",
    by: By::Upstreams(&[Act::Sleep(LONG), Act::Limit]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: stage.wanted as u32,
            limit: Some(1),
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front_for(&to, LONG)?;
        let query = stage.ask(Act::Sleep(LONG));
        let requests = (0..stage.wanted).map(|_| stage.failing(&query)).collect();
        stage.crowd(requests)?;
        stage.run.hold(server.running);
        Ok(())
    },
};
