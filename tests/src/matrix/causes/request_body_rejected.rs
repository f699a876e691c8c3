//! The upstream closes before it has read a body that is still being sent, with or without an answer. Some
//! proxies pass most such answers on.

use super::{By, Cause};
use crate::client::Request;
use crate::expect::Expect;
use crate::matrix::stage::FAULT;
use crate::matrix::upstreams::Act;

/// More than sockets buffer.
const BODY: usize = 8_000_000;

pub(super) const CAUSE: Cause = Cause {
    name: "request_body_rejected",
    by: By::Upstreams(&[Act::Reject, Act::Spurn]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        let log = stage.ask_of_workers(1)?;
        stage.introduce()?;
        let queries = [Act::Reject, Act::Spurn].map(|act| stage.ask(act));
        let truth = stage.truth();
        // One after the other: a crowd of such bodies says nothing more.
        for query in queries.iter().cycle().take(stage.wanted) {
            let request = Request {
                body: BODY,
                ..Request::post(stage.run.path(FAULT)).query(query)
            };
            let request = stage.run.expecting(request, &truth);
            for sent in stage.crowd(vec![request])? {
                if !log.has("read", &sent.path) {
                    // It met the close of an idle connection, at which nobody had aimed.
                    let raced = Expect::apart("raced", &[]);
                    stage.run.ledger.expect(&sent.path, raced);
                }
            }
        }
        Ok(())
    },
};
