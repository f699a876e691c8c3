//! The path goes dead: connections are there, pooled or new, and nothing that is said on them arrives.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "request_unacknowledged",
    by: By::Upstreams(&[Act::Answer]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.in_few_crowds();
        stage.apart(Duration::from_millis(1))?;
        let manner = Manner {
            workers: 2,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        stage.introduce()?;
        stage.lose_words();
        stage.fail_as_it_is("")?;
        stage.run.hold(server.running);
        Ok(())
    },
};
