//! The upstream's response has more head than proxies take.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};

pub(super) const CAUSE: Cause = Cause {
    name: "response_header_too_big",
    by: By::Upstreams(&[Act::BigHead]),
    unix: false,
    spares: &["go", "caddy"],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 1,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        stage.fail(&stage.ask(Act::BigHead))?;
        stage.run.hold(server.running);
        Ok(())
    },
};
