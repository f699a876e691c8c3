//! Row 4: the connections of row 2, but the Node.js process dies after it has read the request:
//! nginx logs the same line as for the race.

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::pool::Wire;
use super::{NGINX, deaths, r02_keepalive_race};
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Node};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 4,
        name: "death-on-reused",
        needs: &[NGINX, Need::Tun],
        run,
    }]
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
    run.hold((nginx, node, wire));
    Ok(())
}
