//! Rows 2 and 3: nginx, kept-alive connections to Node.js 20 ms away, requests around the moment
//! at which the upstream closes. POSTs fail; GETs are retried and are near misses.

use std::time::Duration;

use anyhow::Result;

use serde_json::Value;

use super::NGINX;
use super::front::{Front, KNOWN_LOCATION, PLAIN_PORT, known_failure};
use super::pool::{self, Pool, Strike, Wire};
use crate::agent::Capture;
use crate::client::Request;
use crate::expect::Check;
use crate::ledger::Sent;
use crate::pcap::{Dump, Seen};
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Node, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) const NEEDS: &[Need] = &[
    NGINX,
    Need::Tun,
    Need::Program("tcpdump"),
    Need::Program("python3"),
];
/// `keepAliveTimeout`; Node adds a second.
const KEEP_ALIVE_MS: u32 = 1000;
pub(super) const NODE: u16 = 9000;
const UNREAD: u16 = 9001;
/// Long enough that 5 % of it is more than a scheduler's turn.
const IDLE_AGE: Duration = Duration::from_millis(300);
const HALF: u16 = 9002;
pub(super) const ABORT: u16 = 9003;
/// `Why502NearMisses` tells of more than these within an hour.
const RULE: usize = 5;
/// A few more than an agent wants to see, for a connection may be closed early.
const ENOUGH_CLOSES: usize = 24;
/// A risk is told once enough idle connections were closed, at most so long after.
const RISK_TOLD: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 2,
            name: "post-fin-in-flight",
            needs: NEEDS,
            run: |run| in_flight(run, Front::Plain, Request::post, "fin_in_flight"),
        },
        Scenario {
            row: 2,
            name: "post-other-variants",
            needs: NEEDS,
            run: |run| other_variants(run, Front::Plain),
        },
        Scenario {
            row: 3,
            name: "get-retried",
            needs: NEEDS,
            run: |run| in_flight(run, Front::Plain, Request::get, "fin_in_flight_retried"),
        },
    ]
}

pub(super) fn server(front: Front, run: &Run) -> Result<String> {
    let upstream = |name: &str, port: u16| {
        format!("upstream {name} {{ server {FAR}:{port}; keepalive 128; }}\n")
    };
    Ok(format!(
        "{}{}{}{}server {{ {} {KNOWN_LOCATION}
           location /shop {{ proxy_pass http://node; }}
           location /unread {{ proxy_pass http://unread; }}
           location /half {{ proxy_pass http://half; }}
           location /abort {{ proxy_pass http://abort; }} }}",
        upstream("node", NODE),
        upstream("unread", UNREAD),
        upstream("half", HALF),
        upstream("abort", ABORT),
        front.listen(run)?
    ))
}

/// The FIN is under way when the request is written.
pub(super) fn in_flight(
    run: &mut Run,
    front: Front,
    make: fn(String) -> Request,
    cell: &'static str,
) -> Result<()> {
    let wire = Wire::new()?;
    let address = format!("{FAR}:{NODE}");
    let node = Node::start(run, &wire.far, "node", &address, KEEP_ALIVE_MS)?;
    let http = server(front, run)?;
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let dump = Dump::start(&wire.near, "lab0", NODE, &run.folder)?;

    let expects_verdicts = cell == "fin_in_flight";
    let count = run.either(12, 32);
    if !expects_verdicts {
        known_failure(run, &wire.near)?;
    }
    let closes = count.max(ENOUGH_CLOSES);
    let idle_close = pool::measure_idle_close(run, &wire.near, NODE, "/shop", closes, "ms=60")?;
    if expects_verdicts {
        check_risk(run, &address, idle_close)?;
    }
    let mut strike = Strike {
        front,
        ns: &wire.near,
        folder: "/shop",
        idle_close,
        lead: front.lead(run, &wire.near)?,
        missed: 0,
    };
    // A race cannot be forced, only aimed at: rounds until enough have met, with a limit. Some of
    // those that nginx logs are of another variant: only the packets tell.
    // The rule about near misses counts more than five of one upstream.
    let wanted = match expects_verdicts {
        true => run.wanted(),
        false => run.wanted().max(2 * RULE),
    };
    let in_flight = |seen: &[Seen]| {
        let this = seen.iter().filter(|one| one.judgement == "fin_in_flight");
        this.count() >= wanted
    };
    let mut met = 0;
    for round in 0..run.either(12, 24) {
        let sent = strike.round(run, count, make)?;
        // nginx logs each attempt that failed, retried or not.
        let errors = nginx.errors()?;
        let failed = |sent: &&Sent| errors.contains_key(&sent.path);
        match sent.iter().filter(failed).count() {
            0 if met == 0 => strike.missed += 1,
            hits => met += hits,
        }
        if !expects_verdicts && round == 0 {
            known_failure(run, &wire.near)?;
        }
        if met >= 2 * wanted && in_flight(&dump.so_far()?) {
            break;
        }
    }
    if !expects_verdicts {
        known_failure(run, &wire.near)?;
    }
    let seen = dump.judge()?;
    pool::state_truth(run, &seen, Some(&node.log), |expect| front.adapt(expect))?;
    run.at_least(cell, run.wanted());
    run.hold((nginx, node, wire));
    Ok(())
}

/// Before any request has failed: the agent says how long the upstream keeps idle connections.
fn check_risk(run: &mut Run, upstream: &str, idle_close: Duration) -> Result<()> {
    if run.options.why502.is_none() {
        return Ok(());
    }
    let is_risk = |line: &Value| line["type"] == "risk" && line["upstream"]["address"] == upstream;
    let mut before = Vec::new();
    wait::until("the risk of this upstream", RISK_TOLD, || {
        before = run.agent().map(Capture::lines).unwrap_or_default();
        before.iter().any(is_risk)
    })?;
    let owns = |line: &&Value| {
        let path = line["request"]["path"].as_str();
        path.is_some_and(|path| run.ledger.owns(path))
    };
    if let Some(early) = before.iter().find(owns) {
        run.problem(format!(
            "something failed before the risk was told: {early}"
        ));
    }
    let risk = before.into_iter().find(is_risk).unwrap_or_default();
    let closes = &risk["closes_after_us"];
    let checks = [
        Check::Near(
            "/closes_after_us/median",
            idle_close.as_secs_f64() * 1e6,
            0.05,
        )
        .failure(&risk),
        (closes["n"].as_u64() < Some(ENOUGH_CLOSES as u64 * 5 / 6))
            .then(|| format!("learned of {} closes", closes["n"])),
    ];
    for wrong in checks.into_iter().flatten() {
        run.problem(format!("risk: {wrong}: {risk}"));
    }
    Ok(())
}

/// `fin_already_received`, `closed_unread` and `half_close`.
pub(super) fn other_variants(run: &mut Run, front: Front) -> Result<()> {
    let wire = Wire::new()?;
    let node = Node::start(
        run,
        &wire.far,
        "node",
        &format!("{FAR}:{NODE}"),
        KEEP_ALIVE_MS,
    )?;
    let unread = Scripted::start(
        run,
        &wire.far,
        "unread",
        &format!("{FAR}:{UNREAD}"),
        Mode::CloseUnread,
        128,
    )?;
    let half = Scripted::start(
        run,
        &wire.far,
        "half",
        &format!("{FAR}:{HALF}"),
        Mode::HalfCloseOnSignal,
        128,
    )?;
    let http = server(front, run)?;
    let nginx = Nginx::start(run, &wire.near, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let dump = |port| Dump::start(&wire.near, "lab0", port, &run.folder);
    // After a half close the upstream reads on, so its log does not tell.
    let dumps = [
        (dump(NODE)?, Some(&node.log)),
        (dump(UNREAD)?, Some(&unread.log)),
        (dump(HALF)?, None),
    ];
    let (near, count) = (&wire.near, run.wanted());

    let worker = nginx.worker()?;
    let of = |folder, query| Pool {
        folder,
        query,
        count,
    };
    pool::strike_stopped(run, front, near, worker, of("/shop", "ms=60"), || {
        pool::wait_close_wait(near, NODE, count)
    })?;
    pool::strike_stopped(run, front, near, worker, of("/half", ""), || {
        std::thread::sleep(IDLE_AGE);
        half.signal(libc::SIGUSR1);
        pool::wait_close_wait(near, HALF, count)
    })?;
    pool::fill(run, near, "/unread", count, "")?;
    let requests = (0..count)
        .map(|_| (IDLE_AGE, Request::post(run.path("/unread"))))
        .collect();
    front.burst(run, near, requests)?;

    for (dump, log) in dumps {
        pool::state_truth(run, &dump.judge()?, log, |expect| front.adapt(expect))?;
    }
    for cell in ["fin_already_received", "closed_unread", "half_close"] {
        run.at_least(cell, count);
    }
    run.hold((nginx, node, unread, half, wire));
    Ok(())
}
