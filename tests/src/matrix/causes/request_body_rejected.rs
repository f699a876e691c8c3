//! The upstream answers and closes before it has read a body that is still being sent.

use std::time::Duration;

use super::{By, Cause};
use crate::client::Request;
use crate::matrix::stage::FAULT;
use crate::matrix::upstreams::{Act, Manner};

/// More than sockets buffer.
const BODY: usize = 8_000_000;

pub(super) const CAUSE: Cause = Cause {
    name: "request_body_rejected",
    by: By::Upstreams(&[Act::Reject]),
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
        let query = stage.ask(Act::Reject);
        let truth = stage.truth();
        // One after the other: a crowd of such bodies says nothing more.
        for _ in 0..stage.wanted {
            let request = Request {
                body: BODY,
                ..Request::post(stage.run.path(FAULT)).query(&query)
            };
            let request = stage.run.expecting(request, &truth);
            stage.crowd(vec![request])?;
        }
        stage.run.hold(server.running);
        Ok(())
    },
};
