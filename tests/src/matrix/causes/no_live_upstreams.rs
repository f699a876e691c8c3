//! The proxy has taken its only upstream out of rotation, which refused its requests or its check before.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{By, Cause};
use crate::client::Request;
use crate::expect::Expect;
use crate::matrix::beside;
use crate::matrix::proxies::Own;
use crate::matrix::stage::{ANY, FAULT, Stage};
use crate::wait;

/// Requests in a row that ask nobody: each of a proxy's threads knows then.
const KNOWN: u32 = 6;
const MOST: u32 = 60;
/// Longer than Varnish calls nobody after any connect that was refused: until then that is a cause as well.
const HELD_BACK: Duration = Duration::from_millis(300);
/// A proxy that is not told to check its upstreams does so once, as it starts, if ever.
const QUIET: Duration = Duration::from_secs(20);

pub(super) const CAUSE: Cause = Cause {
    name: "no_live_upstreams",
    by: By::Itself,
    unix: false,
    // They know nothing of failures before: each request asks its upstream.
    spares: &["go", "h2o", "pingora"],
    inject: |stage| {
        // Who asks the upstream calls it, which the far host counts; nothing else does, once it is out.
        stage.draw.checks = None;
        stage.apart(Duration::from_millis(1))?;
        stage.own = Some(Own::TakesOut);
        let (_, to) = stage.there();
        stage.front(&to)?;
        take_out(stage)?;
        let before = stage.calls()?;
        stage.fail("")?;
        match stage.calls()? == before {
            true => Ok(()),
            false => bail!("an upstream that was out was asked again"),
        }
    },
};

/// Has it called until it is called no more. Those requests failed of the call.
fn take_out(stage: &mut Stage) -> Result<()> {
    let refused = Expect::verdict(beside::CELL, ANY, "connection_refused");
    // A check that comes as the proxy starts is no request's.
    let there_and_back = 2 * stage.draw.distance.unwrap_or_default() + HELD_BACK;
    let (mut calls, mut last) = (stage.calls()?, Instant::now());
    wait::until(
        "the last call of the proxy itself is long ago",
        QUIET,
        || {
            match stage.calls() {
                Ok(now) if now == calls => last.elapsed() >= there_and_back,
                Ok(now) => {
                    (calls, last) = (now, Instant::now());
                    false
                }
                // Said by the next who asks.
                Err(_) => true,
            }
        },
    )?;
    let mut spared = 0;
    for _ in 0..MOST {
        let before = stage.calls()?;
        let request = Request::get(stage.run.path(FAULT));
        let request = stage.run.expecting(request, &refused);
        let path = request.path.clone();
        stage.burst(vec![(Duration::ZERO, request)])?;
        if stage.calls()? > before {
            spared = 0;
            continue;
        }
        stage.run.ledger.expect(&path, stage.truth());
        spared += 1;
        if spared == KNOWN {
            return Ok(());
        }
    }
    bail!("the proxy goes on asking an upstream that refuses")
}
