//! The upstream answers and closes before it has read a body that is still being sent.

use super::{By, Cause};
use crate::client::Request;
use crate::matrix::stage::FAULT;
use crate::matrix::upstreams::Act;

/// More than sockets buffer.
const BODY: usize = 8_000_000;

pub(super) const CAUSE: Cause = Cause {
    name: "request_body_rejected",
    by: By::Upstreams(&[Act::Reject]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.ask_of_workers(1)?;
        stage.introduce()?;
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
        Ok(())
    },
};
