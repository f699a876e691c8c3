//! Row 15: the tier in front gives up first: HAProxy (3 s), nginx (8 s), gunicorn (10 s).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::front::{Front, KNOWN_LOCATION, PLAIN_PORT, known_failure, plain};
use super::{GUNICORN, NGINX};
use crate::client::{self, Request};
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Haproxy, Nginx};

const OUTER_PORT: u16 = 8000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 15,
        name: "tier-in-front",
        needs: &[NGINX, GUNICORN, Need::Program("haproxy")],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let bind = "127.0.0.1:9000";
    let options = ["--worker-class", "gthread", "--threads", "100"];
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", bind, 1, &options)?;
    let http = format!(
        "server {{ {} {KNOWN_LOCATION}
           location / {{ proxy_pass http://{bind}; proxy_read_timeout 8s; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    // A tier in front has an address of its own: clients beside it wait as they like.
    let inner = format!("{} source 127.0.0.2", plain());
    let haproxy = Haproxy::start(run, &ns, OUTER_PORT, &inner, "3s")?;
    run.watch(&[&nginx])?;
    known_failure(run, &ns)?;

    let outer = Expect::near_miss("outer_504", &[504], "downstream_gave_up")
        .variant("sleeping")
        .with(Check::Says(
            "/advice/text",
            "The tier in front gives up after 3.0".into(),
        ));
    let through_haproxy: Vec<_> = (0..run.wanted())
        .map(|number| {
            let request = Request::get(run.path("/slow")).query("do=sleep&ms=10000");
            let at = Duration::from_millis(number as u64 * 37);
            (at, run.expecting(request, &outer))
        })
        .collect();
    let aborted = Expect::near_miss("client_abort", &[0], "downstream_gave_up")
        .variant("sleeping")
        .with(Check::NeverSays("/advice", "tier in front".into()))
        .with(Check::NeverSays("/evidence", "tier in front".into()));
    let aborting: Vec<_> = (0..run.wanted())
        .map(|number| {
            // No two clients wait equally long.
            let waits = Duration::from_millis(400 + (number as u64 * 617) % 2300);
            let request = Request::get(run.path("/slow"))
                .query("do=sleep&ms=10000")
                .giving_up_after(waits);
            (Duration::ZERO, run.expecting(request, &aborted))
        })
        .collect();
    let outer_address = SocketAddr::from(([127, 0, 0, 1], OUTER_PORT));
    let ledger = run.ledger.clone();
    ns.traffic(async || {
        tokio::join!(
            client::burst(outer_address, &ledger, through_haproxy),
            client::burst(plain(), &ledger, aborting),
        );
        Ok(())
    })?;
    known_failure(run, &ns)?;
    let well = vec![(Duration::ZERO, Request::get(run.path("/quick")))];
    Front::Plain.burst(run, &ns, well)?;
    known_failure(run, &ns)?;
    run.at_least("outer_504", run.wanted());
    run.at_least("client_abort", run.wanted());
    run.hold((nginx, haproxy, gunicorn, ns));
    Ok(())
}
