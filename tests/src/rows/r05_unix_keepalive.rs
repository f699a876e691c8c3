//! Row 5: rows 2 and 4 over a Unix socket with keep-alive.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::pool::{self, Pool};
use super::{NGINX, deaths};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Nginx, Node, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 5,
        name: "unix-keepalive",
        needs: &[NGINX],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let address = |name: &str| format!("unix:{}", run.folder.join(name).display());
    let (mortal, idle, unread) = (
        address("mortal.sock"),
        address("idle.sock"),
        address("unread.sock"),
    );
    let mut mortal_node = Node::start(run, &ns, "mortal", &mortal, 60_000)?;
    let idle_node = Node::start(run, &ns, "idle", &idle, 1000)?;
    let scripted = Scripted::start(run, &ns, "unread", &unread, Mode::CloseUnread, 128)?;
    let http = format!(
        "upstream mortal {{ server {mortal}; keepalive 128; }}
         upstream idle {{ server {idle}; keepalive 128; }}
         upstream unread {{ server {unread}; keepalive 128; }}
         server {{ {}
           location /mortal {{ proxy_pass http://mortal; }}
           location /idle {{ proxy_pass http://idle; }}
           location /unread {{ proxy_pass http://unread; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let count = run.wanted();

    for death in deaths::ALL {
        death.happen(run, &ns, "/mortal", &mut mortal_node, count)?;
        run.at_least(death.cell, count);
        mortal_node = Node::start(run, &ns, "mortal", &mortal, 60_000)?;
    }

    let worker = nginx.worker()?;
    let idle = Pool {
        folder: "/idle",
        query: "ms=60",
        count,
    };
    let struck = pool::strike_stopped(run, Front::Plain, &ns, worker, idle, || {
        wait::until("node's idle closes", Duration::from_secs(10), || {
            idle_node.open_connections() == 0
        })
    })?;
    let answered = idle_node.log.lines().into_iter();
    let answered = answered.filter(|line| line.what == "answered");
    let last_answer = answered.map(|line| line.t).max().unwrap_or(0);
    let idle_us = (struck.resumed - last_answer) as f64 / 1e3;
    for sent in &struck.sent {
        let expect = Expect::verdict("fin_already_received", &[502], "keepalive_race")
            .variant("fin_already_received")
            .with(Check::Near("/attempts/last/idle_us", idle_us, 0.05));
        run.ledger.expect(&sent.path, expect);
    }
    run.at_least("fin_already_received", count);

    close_unread(run, &ns, &scripted, count)?;
    run.hold((nginx, mortal_node, idle_node, scripted, ns));
    Ok(())
}

/// What the upstream left unread, by its own log, is the race; all else went well.
fn close_unread(run: &mut Run, ns: &NetNs, scripted: &Scripted, count: usize) -> Result<()> {
    let mut failed = 0;
    // A Unix upstream answers before nginx has sent the next request, so the pool holds one or a
    // few connections; each serves one request and spoils the next.
    while failed < count {
        pool::fill(run, ns, "/unread", 1, "")?;
        let request = Request::post(run.path("/unread"));
        let sent = Front::Plain.burst(run, ns, vec![(Duration::ZERO, request)])?;
        for sent in sent {
            if scripted.log.has("read", &sent.path) {
                continue;
            }
            failed += 1;
            let expect =
                Expect::verdict("closed_unread", &[502], "keepalive_race").variant("closed_unread");
            run.ledger.expect(&sent.path, expect);
        }
    }
    run.at_least("closed_unread", count);
    Ok(())
}
