//! Row 4: the connections of row 2, but the Node.js process dies after it has read the request:
//! nginx logs the same line as for the race. With pools that were there before the agent, too, and
//! once with a server that aborts and lives.

use std::time::Duration;

use anyhow::Result;

use super::deaths::{self, Death};
use super::front::{Front, PLAIN_PORT};
use super::pool::{self, Wire};
use super::{NGINX, r02_keepalive_race};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
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
        Scenario {
            row: 4,
            name: "older-in-three-namespaces",
            needs: &[NGINX],
            run: older_in_three_namespaces,
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
    let filled = fill(run, &wire.near, "/shop", count)?;
    run.watch(&[&nginx])?;
    death.strike(run, &wire.near, "/shop", &mut node, count)?;
    expect_idle_since(run, death, "/shop", filled);
    run.at_least(death.cell, count);
    run.hold((nginx, node, wire));
    Ok(())
}

/// Fills a pool; when its connections became idle, on the monotonic clock.
fn fill(run: &Run, ns: &NetNs, folder: &str, count: usize) -> Result<u64> {
    let filled = pool::fill(run, ns, folder, count, "ms=60")?;
    Ok(monotonic_ns() - filled.elapsed().as_nanos() as u64)
}

/// The verdicts have to know how long the pool's connections were idle.
fn expect_idle_since(run: &Run, death: Death, folder: &str, filled: u64) {
    for sent in run.ledger.sent() {
        if sent.failed() && sent.path.starts_with(&format!("{folder}/")) {
            let idle_us = (sent.began - filled) as f64 / 1e3;
            let idle = Check::Near("/attempts/last/idle_us", idle_us, 0.05);
            let expect = death.expect(&[502]).with(idle);
            run.ledger.expect(&sent.path, expect);
        }
    }
}

/// Each namespace has its nginx and its pools, of the same addresses everywhere: one to a port of the
/// namespace's own loopback, one to a Unix socket.
struct Site {
    ns: NetNs,
    nginx: Nginx,
    tcp: Node,
    unix: Node,
}

/// The places of one namespace's two pools, each unique, since a path says where a request went.
const FOLDERS: [(&str, &str); 3] = [
    ("/tcp-1", "/unix-1"),
    ("/tcp-2", "/unix-2"),
    ("/tcp-3", "/unix-3"),
];

impl Site {
    fn start(run: &Run, number: usize, (tcp, unix): (&str, &str)) -> Result<Site> {
        let ns = NetNs::new()?;
        let port = "127.0.0.1:9000";
        let socket = format!("unix:{}{unix}.sock", run.folder.display());
        let http = format!(
            "upstream tcp {{ server {port}; keepalive 128; }}
             upstream unix {{ server {socket}; keepalive 128; }}
             server {{ {}
               location {tcp} {{ proxy_pass http://tcp; }}
               location {unix} {{ proxy_pass http://unix; }} }}",
            Front::Plain.listen(run)?
        );
        Ok(Site {
            tcp: Node::start(run, &ns, &format!("tcp-{number}"), port, 600_000)?,
            unix: Node::start(run, &ns, &format!("unix-{number}"), &socket, 600_000)?,
            nginx: Nginx::start_named(run, &ns, &format!("nginx-{number}"), 1, PLAIN_PORT, &http)?,
            ns,
        })
    }
}

/// Pools of several network namespaces, all older than the agent, which enters none of them.
fn older_in_three_namespaces(run: &mut Run) -> Result<()> {
    let numbered = FOLDERS.iter().enumerate();
    let sites = numbered.map(|(number, &folders)| Site::start(run, number + 1, folders));
    let mut sites = sites.collect::<Result<Vec<_>>>()?;
    let (count, [death, ..]) = (run.wanted(), deaths::ALL);
    let mut filled = Vec::new();
    for (site, (tcp, unix)) in sites.iter().zip(FOLDERS) {
        filled.push(fill(run, &site.ns, tcp, count)?);
        fill(run, &site.ns, unix, count)?;
    }
    run.watch(&sites.iter().map(|site| &site.nginx).collect::<Vec<_>>())?;
    for (site, (tcp, unix)) in sites.iter_mut().zip(FOLDERS) {
        death.strike(run, &site.ns, tcp, &mut site.tcp, count)?;
        death.strike(run, &site.ns, unix, &mut site.unix, count)?;
    }
    for ((tcp, _), filled) in FOLDERS.into_iter().zip(filled) {
        expect_idle_since(run, death, tcp, filled);
    }
    run.at_least(death.cell, count * 2 * sites.len());
    run.hold(sites);
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
