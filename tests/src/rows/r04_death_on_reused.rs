//! Row 4: the connections of row 2, but the Node.js process dies after it has read the request:
//! nginx logs the same line as for the race. Once with a pool that was there before the agent, and
//! once with a server that aborts and lives.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::pool::{self, Wire};
use super::{NGINX, deaths, r02_keepalive_race};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Node, Scripted};
use crate::upstream::Mode;
use crate::wait::monotonic_ns;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 4,
            name: "death-on-reused",
            needs: &[NGINX, Need::Tun],
            run,
        },
        Scenario {
            row: 4,
            name: "death-on-older",
            needs: &[NGINX, Need::Tun],
            run: older,
        },
    ]
}

/// The pool is older than the agent, which has to find it: both its ends, and how long it was idle.
fn older(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let address = format!("{FAR}:9000");
    let http = r02_keepalive_race::server(Front::Plain, run)?;
    let mut node = Node::start(run, &wire.far, "node", &address, 60_000)?;
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    let (count, [death, ..]) = (run.wanted(), deaths::ALL);
    let filled = pool::fill(run, &wire.near, "/shop", count, "ms=60")?;
    let filled = monotonic_ns() - filled.elapsed().as_nanos() as u64;
    run.watch(&[&nginx])?;
    death.strike(run, &wire.near, "/shop", &mut node, count)?;
    for sent in run.ledger.sent().iter().filter(|sent| sent.failed()) {
        let idle_us = (sent.began - filled) as f64 / 1e3;
        let idle = Check::Near("/attempts/last/idle_us", idle_us, 0.05);
        run.ledger
            .expect(&sent.path, death.expect(&[502]).with(idle));
    }
    run.at_least(death.cell, count);
    run.hold((nginx, node, wire));
    Ok(())
}

fn run(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let address = format!("{FAR}:9000");
    let http = r02_keepalive_race::server(Front::Plain, run)?;
    let mut node = Node::start(run, &wire.far, "node", &address, 60_000)?;
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let count = run.wanted();
    for death in deaths::ALL {
        death.happen(run, &wire.near, "/shop", &mut node, count)?;
        run.at_least(death.cell, count);
        node = Node::start(run, &wire.far, "node", &address, 60_000)?;
    }
    let abort = aborts_and_lives(run, &wire, count)?;
    run.hold((nginx, node, abort, wire));
    Ok(())
}

/// The request is read, and the connection reset with nothing unread: on the wire like a race, too.
fn aborts_and_lives(run: &mut Run, wire: &Wire, count: usize) -> Result<Scripted> {
    let address = format!("{FAR}:{}", r02_keepalive_race::ABORT);
    let abort = Scripted::start(run, &wire.far, "abort", &address, Mode::AbortRead, 128)?;
    pool::fill(run, &wire.near, "/abort", count, "")?;
    let expect = Expect::verdict("aborted", &[502], "upstream_reset")
        .variant("abort")
        .with(Check::Equals("/attempts/0/reused", true.into()));
    let requests = (0..count)
        .map(|_| {
            let request = Request::post(run.path("/abort"));
            (Duration::ZERO, run.expecting(request, &expect))
        })
        .collect();
    Front::Plain.burst(run, &wire.near, requests)?;
    run.at_least("aborted", count);
    Ok(abort)
}
