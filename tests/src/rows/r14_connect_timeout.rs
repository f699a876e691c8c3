//! Row 14: connects that are never answered: a full accept queue, a filter on this host, and a
//! loss elsewhere. nginx logs the same line for all.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use super::pool::Wire;
use crate::client::Request;
use crate::expect::Expect;
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

const FULL: u16 = 9000;
const FILTERED: u16 = 9001;
const LOST: u16 = 9002;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 14,
        name: "connect-timeout",
        needs: &[NGINX, Need::Tun, Need::Program("iptables")],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let full = Scripted::start(
        run,
        &wire.near,
        "full",
        &format!("127.0.0.1:{FULL}"),
        Mode::NeverAccept,
        1,
    )?;
    let far = [FILTERED, LOST].map(|port| {
        let name = format!("far-{port}");
        let listen = format!("{FAR}:{port}");
        Scripted::start(run, &wire.far, &name, &listen, Mode::Answer, 128)
    });
    let http = format!(
        "server {{ {} proxy_connect_timeout 2s;
           location /full {{ proxy_pass http://127.0.0.1:{FULL}; }}
           location /filtered {{ proxy_pass http://{FAR}:{FILTERED}; }}
           location /lost {{ proxy_pass http://{FAR}:{LOST}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    // The queue holds one more than its limit.
    let fillers = wire.near.enter(|| {
        let fill = || anyhow::Ok(TcpStream::connect(("127.0.0.1", FULL))?);
        Ok([fill()?, fill()?])
    })?;
    wait::until("a full queue", Duration::from_secs(5), || {
        let line = format!("ss -Hltn 'sport = :{FULL}'");
        let listeners = wire.near.sh(&line).unwrap_or_default();
        listeners.split_whitespace().nth(1) == Some("2")
    })?;
    wire.near.sh(&format!(
        "iptables -A OUTPUT -p tcp --dport {FILTERED} --syn -j DROP"
    ))?;
    wire.relay.lose_syns_to(LOST);

    let cells = [
        Expect::verdict("full", &[504], "tcp_accept_queue_full").variant("syn_dropped"),
        Expect::verdict("filtered", &[504], "connect_timeout").variant("dropped_by_filter"),
        Expect::verdict("lost", &[504], "connect_timeout")
            .variant("unknown_path")
            .likely(),
    ];
    let mut requests = Vec::new();
    for expect in &cells {
        for _ in 0..run.wanted() {
            let request = Request::get(run.path(&format!("/{}", expect.cell)));
            requests.push((Duration::ZERO, run.expecting(request, expect)));
        }
    }
    Front::Plain.burst(run, &wire.near, requests)?;
    for expect in &cells {
        run.at_least(expect.cell, run.wanted());
    }
    run.hold((nginx, full, far, fillers, wire));
    Ok(())
}
