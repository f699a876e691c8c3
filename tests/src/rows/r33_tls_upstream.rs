//! Row 33: nginx and HAProxy in front of Node.js in TLS 1.2 and 1.3: races, deaths, waits and closes are told apart
//! though no byte of request or answer can be read.
//!
//! On a new connection of TLS 1.3 an answer cannot be told from session tickets: there `likely`, at best.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::NGINX;
use super::deaths;
use super::front::{self, Front, PLAIN_PORT};
use super::pool::{self, Strike, Wire};
use crate::agent::Capture;
use crate::client::{self, Request};
use crate::expect::{Check, Expect};
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Haproxy, Nginx, Node};

const NEEDS: &[Need] = &[NGINX, Need::Tun, Need::Program("openssl")];
const KEEP_ALIVE_MS: u32 = 1000;
/// Between a client's requests.
const THINKS: Duration = Duration::from_millis(50);

struct Version {
    name: &'static str,
    port: u16,
    folder: &'static str,
    /// The same without a pool.
    fresh: &'static str,
    tickets: bool,
}

const VERSIONS: [Version; 2] = [
    Version {
        name: "TLSv1.2",
        port: 9012,
        folder: "/pool-12",
        fresh: "/fresh-12",
        tickets: false,
    },
    Version {
        name: "TLSv1.3",
        port: 9013,
        folder: "/pool-13",
        fresh: "/fresh-13",
        tickets: true,
    },
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 33,
            name: "tls-upstream-race",
            needs: NEEDS,
            run: races,
        },
        Scenario {
            row: 33,
            name: "tls-upstream-deaths",
            needs: NEEDS,
            run: deaths,
        },
        Scenario {
            row: 33,
            name: "tls-upstream-ends",
            needs: NEEDS,
            run: ends,
        },
        Scenario {
            row: 33,
            name: "tls-upstream-haproxy",
            needs: &[
                Need::Tun,
                Need::Agent,
                Need::Program("haproxy"),
                Need::Program("openssl"),
            ],
            run: behind_haproxy,
        },
    ]
}

impl Version {
    fn start(&self, run: &Run, wire: &Wire, keep_alive_ms: u32) -> Result<Node> {
        let address = format!("{FAR}:{}", self.port);
        let key = run.folder.join("key.pem");
        let certificate = run.folder.join("cert.pem");
        let sealed: (&Path, &Path, &str) = (&key, &certificate, self.name);
        Node::start_tls(run, &wire.far, self.name, &address, keep_alive_ms, sealed)
    }
}

fn start(run: &mut Run, wire: &Wire, keep_alive_ms: u32) -> Result<(Nginx, [Node; 2])> {
    front::certificate(run)?;
    let [old, new] = &VERSIONS;
    let nodes = [
        old.start(run, wire, keep_alive_ms)?,
        new.start(run, wire, keep_alive_ms)?,
    ];
    let mut http = String::new();
    let mut locations = String::new();
    for version in &VERSIONS {
        let Version {
            name,
            port,
            folder,
            fresh,
            ..
        } = version;
        http += &format!("upstream {name} {{ server {FAR}:{port}; keepalive 128; }}\n");
        locations += &format!(
            "location {folder} {{ proxy_pass https://{name}; }}
             location {fresh} {{ proxy_pass https://{FAR}:{port}; proxy_http_version 1.0;
               proxy_set_header Connection close; }}\n"
        );
    }
    http += &format!(
        "proxy_ssl_protocols TLSv1.2 TLSv1.3; proxy_read_timeout 2s; client_body_buffer_size 1m;
         server {{ {} {} }}",
        Front::Plain.listen(run)?,
        locations
    );
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    Ok((nginx, nodes))
}

/// Requests meet the FIN of an upstream that was idle for too long.
fn races(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let (nginx, nodes) = start(run, &wire, KEEP_ALIVE_MS)?;
    for (version, node) in VERSIONS.iter().zip(&nodes) {
        let count = run.either(12, 32);
        let idle_close = pool::measure_idle_close(
            run,
            &wire.near,
            version.port,
            version.folder,
            count,
            "ms=60",
        )?;
        let mut strike = Strike {
            front: Front::Plain,
            ns: &wire.near,
            folder: version.folder,
            idle_close,
            lead: Duration::ZERO,
            missed: 0,
        };
        let expect =
            pool::raced(version.name).with(Check::Equals("/attempts/0/reused", true.into()));
        strike.until_unread(run, count, &node.log, &expect, || Ok(()))?;
    }
    run.hold((nginx, nodes, wire));
    Ok(())
}

/// Processes die with requests read from reused connections.
fn deaths(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let (nginx, nodes) = start(run, &wire, 60_000)?;
    let count = run.wanted();
    for (version, mut node) in VERSIONS.iter().zip(nodes) {
        for death in deaths::ALL {
            death.happen(run, &wire.near, version.folder, &mut node, count)?;
            node = version.start(run, &wire, 60_000)?;
        }
        run.hold(node);
    }
    for death in deaths::ALL {
        run.at_least(death.cell, 2 * count);
    }
    run.hold((nginx, wire));
    Ok(())
}

/// What an upstream does that lives: cell on a pooled connection, on a new one, query.
const ENDS: [(&str, &str, &str); 3] = [
    ("held", "held_at_first", "do=hold"),
    ("closed_later", "closed_later_at_first", "do=later"),
    ("closed", "closed_at_first", "do=close"),
];

fn truth(cell: &'static str, query: &str) -> Expect {
    match query {
        "do=hold" => Expect::verdict(cell, &[504], "read_timeout_no_reply"),
        _ => Expect::verdict(cell, &[502], "upstream_closed_early").variant("no_bytes"),
    }
}

fn ends(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let (nginx, nodes) = start(run, &wire, 60_000)?;
    let count = run.wanted();
    let mut requests = Vec::new();
    for version in &VERSIONS {
        for (pooled, fresh, query) in ENDS {
            pool::fill(run, &wire.near, version.folder, count, "ms=60")?;
            let reused =
                truth(pooled, query).with(Check::Equals("/attempts/0/reused", true.into()));
            // Whether a server of which nothing was read before speaks HTTP is not known; nor, right
            // after session tickets, whether these were an answer.
            let new = truth(fresh, query).at_least_likely();
            let new = match version.tickets && query == "do=close" {
                true => new.or("unknown", None),
                false => new,
            };
            for (folder, expect) in [(version.folder, reused), (version.fresh, new)] {
                let burst = (0..count)
                    .map(|_| {
                        let request = Request::post(run.path(folder)).query(query);
                        (Duration::ZERO, run.expecting(request, &expect))
                    })
                    .collect();
                Front::Plain.burst(run, &wire.near, burst)?;
            }
        }
        requests.extend(served(run, version));
    }
    Front::Plain.burst(run, &wire.near, requests)?;
    for (pooled, fresh, _) in ENDS {
        run.at_least(pooled, 2 * count);
        run.at_least(fresh, 2 * count);
    }
    run.at_least("passed_on", 2 * count);
    run.hold((nginx, nodes, wire));
    Ok(())
}

/// What is no failure: answers at once and late, long bodies while session tickets come; and the upstream's
/// own error, which cannot be read.
fn served(run: &Run, version: &Version) -> Vec<(Duration, Request)> {
    let mut requests = Vec::new();
    for folder in [version.folder, version.fresh] {
        for query in ["", "ms=300"] {
            for body in [0, 400_000] {
                for _ in 0..run.wanted() {
                    let request = Request {
                        body,
                        ..Request::post(run.path(folder)).query(query)
                    };
                    requests.push((Duration::ZERO, request));
                }
            }
        }
        let expect = Expect {
            confidence: "unknown",
            ..Expect::verdict("passed_on", &[503], "unknown")
        };
        for _ in 0..run.wanted() {
            let request = Request::post(run.path(folder)).query("status=503");
            requests.push((Duration::ZERO, run.expecting(request, &expect)));
        }
    }
    requests
}

/// HAProxy reads each record's header by itself, and answers before it lets go of the upstream.
fn behind_haproxy(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    front::certificate(run)?;
    let mut nodes = Vec::new();
    let mut servers = Vec::new();
    for version in &VERSIONS {
        nodes.push(version.start(run, &wire, 60_000)?);
        let server = format!("{FAR}:{} ssl verify none", version.port);
        servers.push((version.folder, server));
    }
    let servers: Vec<(&str, &str)> = servers.iter().map(|(f, s)| (*f, s.as_str())).collect();
    let haproxy = Haproxy::start_with(run, &wire.near, PLAIN_PORT, &servers, "1s")?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--proxy", "haproxy"]);
    let mut agent = Capture::launch(command, &run.out)?;
    agent.wait_ready()?;
    run.watched_by(agent);
    run.add_proxy(haproxy.pid())?;
    let reused = truth("held", "do=hold")
        .at_least_likely()
        .with(Check::Equals("/attempts/0/reused", true.into()));
    // One after the other: no path ties one of a crowd to its client.
    for version in &VERSIONS {
        for _ in 0..run.wanted() {
            for (cell, query) in [
                ("held_at_first", "do=hold"),
                ("closed_later_at_first", "do=later"),
            ] {
                let request = Request::post(run.path(version.folder)).query(query);
                let request = run.expecting(request, &truth(cell, query).at_least_likely());
                Front::Plain.burst(run, &wire.near, vec![(Duration::ZERO, request)])?;
            }
            // Of a client that has had an answer the connection behind it is kept.
            let first = Request::get(run.path(version.folder));
            let then = Request::post(run.path(version.folder)).query("do=hold");
            let then = run.expecting(then, &reused);
            wire.near.traffic(async || {
                let mut opened = client::open(front::plain(), &run.ledger, 1).await?;
                opened[0].send(&first).await;
                tokio::time::sleep(THINKS).await;
                opened[0].send(&then).await;
                Ok(())
            })?;
        }
    }
    for cell in ["held", "held_at_first", "closed_later_at_first"] {
        run.at_least(cell, 2 * run.wanted());
    }
    run.hold((haproxy, nodes, wire));
    Ok(())
}
