//! The upstream itself answers 502, 503 or 504.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

const STATUSES: [u16; 3] = [502, 503, 504];

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_answered",
    by: By::Upstreams(&[Act::Status(502)]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 2,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        let wanted = stage.wanted;
        stage.wanted = wanted.div_ceil(STATUSES.len());
        for status in STATUSES {
            stage.fail(&stage.ask(Act::Status(status)))?;
        }
        stage.run.hold(server.running);
        Ok(())
    },
};
