//! The upstream reads a request's head and not its body, until its kernel takes no more of that.

use std::time::Duration;

use super::{By, Cause};
use crate::client::Request;
use crate::matrix::stage::FAULT;
use crate::matrix::upstreams::{Act, Manner};

/// Longer than any proxy waits.
const LONG: Duration = Duration::from_secs(30);
/// More than sockets buffer; and what the proxy's kernel takes, but the upstream's and its application do not.
const MUCH: usize = 8_000_000;
const SOME: usize = 60_000;

pub(super) const CAUSE: Cause = Cause {
    name: "send_timeout",
    by: By::Upstreams(&[Act::Neglect(LONG)]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.apart(Duration::from_millis(1))?;
        stage.narrow()?;
        // Each of a crowd has a worker of its own.
        let manner = Manner {
            workers: stage.wanted as u32,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        stage.introduce()?;
        let query = stage.ask(Act::Neglect(LONG));
        let truth = stage.truth();
        let mut requests = Vec::new();
        for _ in 0..stage.wanted {
            let much = stage.proxy.times_sending && stage.draw.coin();
            let request = Request {
                body: if much { MUCH } else { SOME },
                ..Request::post(stage.run.path(FAULT)).query(&query)
            };
            requests.push(stage.run.expecting(request, &truth));
        }
        stage.crowd(requests)?;
        stage.run.hold(server.running);
        Ok(())
    },
};
