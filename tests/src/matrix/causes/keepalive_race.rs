//! Requests meet the close of the idle connection that they are sent on.
//!
//! The truth is the upstream's own word: what failed it has never read, and all that it does by
//! itself is to close idle connections.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{By, Cause, Stage};
use crate::client::{Request, Timed};
use crate::ledger::Sent;
use crate::matrix::stage::FAULT;
use crate::matrix::upstreams::{Act, Manner, Server};
use crate::wait::monotonic_ns;

/// One way at least: the close is on its way for so long.
const DISTANCE: Duration = Duration::from_millis(10);
/// A race can be aimed at, not forced.
const ROUNDS: usize = 30;
/// What the aim differs by, from early to late, in parts of the one-way time.
const AIMS: [f64; 5] = [-1.0, -0.6, -1.4, -0.2, -1.8];

pub(super) const CAUSE: Cause = Cause {
    name: "keepalive_race",
    by: By::Upstreams(&[Act::CloseIdle(Duration::from_millis(1001))]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.apart(DISTANCE)?;
        let manner = Manner {
            workers: 1,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        let any = (stage.upstream)
            .is_some_and(|upstream| (upstream.ask)(Act::CloseIdle(stage.draw.idle)).is_some());
        let idle = match any {
            true => stage.draw.idle,
            // One that cannot be asked: as it was set.
            false => Duration::from_millis(1001),
        };
        let query = stage.ask(Act::CloseIdle(idle));
        let mut failed = 0;
        for round in 0..ROUNDS {
            let aim = AIMS[round % AIMS.len()];
            failed += strike(stage, &query, idle, aim, &server)?;
            if failed >= stage.wanted {
                break;
            }
        }
        stage.run.hold(server.running);
        Ok(())
    },
};

/// Fills the pool and sends requests around the moment of its close; returns how many failed.
fn strike(
    stage: &mut Stage,
    query: &str,
    idle: Duration,
    aim: f64,
    server: &Server,
) -> Result<usize> {
    let crowd = stage.draw.crowd;
    let fill = (0..crowd)
        .map(|_| {
            let request = Request::get(stage.run.path(FAULT)).query(query);
            (Duration::ZERO, request)
        })
        .collect();
    let filled = stage.burst(fill)?;
    let bad = filled.iter().find(|sent| sent.status != Some(200));
    ensure!(bad.is_none(), "filling the pool failed: {bad:?}");
    // The middle one: a busy machine delivers the last ones late.
    let mut ends: Vec<u64> = filled.iter().map(|sent| sent.ended).collect();
    ends.sort_unstable();
    let since = Duration::from_nanos(monotonic_ns().saturating_sub(ends[ends.len() / 2]));
    let distance = stage.draw.distance.unwrap_or(DISTANCE);
    let requests: Vec<Timed> = (0..crowd)
        .map(|_| {
            let aside = stage.draw.moment(distance / 2);
            let from = (idle + aside + distance).saturating_sub(since + distance);
            let at = from.as_secs_f64() + aim * distance.as_secs_f64();
            let request = Request {
                body: stage.draw.body(),
                ..Request::post(stage.run.path(FAULT))
            };
            (Duration::from_secs_f64(at.max(0.0)), request.query(query))
        })
        .collect();
    let sent = stage.burst(requests)?;
    let reads = server.log.reads();
    let failed: Vec<&Sent> = sent
        .iter()
        .filter(|sent| sent.status != Some(200))
        .collect();
    for sent in &failed {
        ensure!(
            !reads.contains_key(&sent.path),
            "{} failed, but the upstream has read it",
            sent.path
        );
        stage.run.ledger.expect(&sent.path, stage.truth());
    }
    Ok(failed.iter().filter(|sent| sent.failed()).count())
}
