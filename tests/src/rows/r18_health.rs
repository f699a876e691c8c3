//! Row 18: health. Many requests over kept-alive and fresh connections, client aborts, reloads and
//! idle restarts: no verdict but the three injected, nothing lost.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use super::front::{Front, KNOWN_LOCATION, PLAIN_PORT, known_failure, plain};
use super::{GUNICORN, NGINX};
use crate::client::{self, Conn, Request, Timed};
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::process;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx, Node};

const KEPT: usize = 24;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 18,
        name: "health",
        needs: &[NGINX, GUNICORN],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let gunicorn_bind = format!("unix:{}", run.folder.join("gunicorn.sock").display());
    let (node_bind, pausing_bind) = ("127.0.0.1:9000", "127.0.0.1:9001");
    let mut gunicorn = Gunicorn::start(run, &ns, "gunicorn", &gunicorn_bind, 3, &[])?;
    let node = Node::start(run, &ns, "node", node_bind, 600_000)?;
    let mut pausing = Node::start(run, &ns, "pausing", pausing_bind, 600_000)?;
    let http = format!(
        "upstream node {{ server {node_bind}; keepalive 64; }}
         upstream pausing {{ server {pausing_bind}; keepalive 64; }}
         upstream gunicorn {{ server {gunicorn_bind}; }}
         server {{ {} {KNOWN_LOCATION}
           location /node {{ proxy_pass http://node; }}
           location /pausing {{ proxy_pass http://pausing; }}
           location /gunicorn {{ proxy_pass http://gunicorn; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 2, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    known_failure(run, &ns)?;

    let total = run.either(6_000, 200_000);
    // Two halves, with the known failure between them.
    for half in 0..2 {
        use_and_leave(run, &ns)?;
        drop(pausing);
        pausing = Node::start(run, &ns, "pausing", pausing_bind, 600_000)?;
        use_and_leave(run, &ns)?;
        let loaded = gunicorn.log.count("loaded");
        let (master, arbiter) = (nginx.pid(), gunicorn.pid());
        half_of_traffic(run, &ns, total / 2, move |begun| {
            // In the thick of it.
            if begun == total / 8 {
                process::kill(master, libc::SIGHUP);
            }
            if begun == total / 4 {
                process::kill(arbiter, libc::SIGHUP);
            }
        })?;
        gunicorn.wait_loaded(loaded + 3)?;
        run.note_proxies();
        if half == 0 {
            known_failure(run, &ns)?;
        }
    }
    known_failure(run, &ns)?;
    run.at_least("healthy", total);
    run.hold((nginx, gunicorn, node, pausing, ns));
    Ok(())
}

/// Puts connections to the pausing upstream into the pool: it is restarted while no request is on
/// them, and nginx drops them.
fn use_and_leave(run: &Run, ns: &NetNs) -> Result<()> {
    let burst = (0..20)
        .map(|_| (Duration::ZERO, Request::get(run.path("/pausing"))))
        .collect();
    Front::Plain.burst(run, ns, burst)?;
    Ok(())
}

/// Kept-alive and fresh connections and clients that give up; `at` hears how many have begun.
fn half_of_traffic(
    run: &Run,
    ns: &NetNs,
    total: usize,
    at: impl Fn(usize) + Send + Sync + Clone + 'static,
) -> Result<()> {
    let expect = Expect::healthy("aborted", &[0, 200]);
    let aborting: Vec<Timed> = (0..run.either(20, 400))
        .map(|number| {
            let request = Request::get(run.path("/node"))
                .query("ms=200")
                .giving_up_after(Duration::from_millis(20 + number % 100));
            let at = Duration::from_millis(number * 10);
            (at, run.expecting(request, &expect))
        })
        .collect();
    let ledger = run.ledger.clone();
    ns.traffic(async || {
        let begun = Rc::new(Cell::new(0));
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..KEPT {
            let (ledger, begun, at) = (ledger.clone(), begun.clone(), at.clone());
            tasks.spawn_local(async move {
                let mut conn = Conn::open(plain(), &ledger).await?;
                while begun.get() < total {
                    let number = begun.get() + 1;
                    begun.set(number);
                    at(number);
                    if number % 50 == 0 {
                        conn = Conn::open(plain(), &ledger).await?;
                    }
                    let folder = if number % 20 == 0 {
                        "/gunicorn"
                    } else {
                        "/node"
                    };
                    let request = Request::get(ledger.path(folder));
                    conn.send_or_replace(&request).await?;
                }
                Ok(())
            });
        }
        let (_, results) =
            tokio::join!(client::burst(plain(), &ledger, aborting), tasks.join_all());
        results.into_iter().collect()
    })
}
