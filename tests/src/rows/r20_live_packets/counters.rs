//! `run --source packets`: the metrics count what the clients saw, under the proxy's name.

use std::time::Duration;

use anyhow::Result;

use super::{refused, why502};
use crate::agent::Capture;
use crate::client::Request;
use crate::prometheus::{free_port, get};
use crate::rows::front::Front;
use crate::rows::r19_bad_days::{Host, fail_times};
use crate::run::{Run, START};
use crate::wait;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let host = Host::start(run)?;
    run.add_proxy(host.nginx.pid())?;
    let port = free_port()?;
    let mut command = why502(run, "run", "packets", &[host.nginx.pid()])?;
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut daemon = Capture::launch(command, &run.out.join("daemon"))?;
    daemon.wait_ready()?;
    if get(port, "/readyz")?.0 != 200 {
        run.problem("not ready although it says so");
    }
    wait::until("nginx's processes in the metrics", START, || {
        value(port, "why502_proxies_watched{proxy=\"nginx\"}").is_ok_and(|n| n == 2.0)
    })?;

    let expect = refused("refused", "nginx");
    // A daemon writes at most fifty lines of one kind in a second.
    let wanted = run.wanted().clamp(9, 49);
    run.at_least(expect.cell, wanted);
    for _ in 0..wanted {
        fail_times(run, &host.ns, &expect, 1)?;
        let healthy = Request::get(run.path("/app"));
        Front::Plain.burst(run, &host.ns, vec![(Duration::ZERO, healthy)])?;
    }

    let seen = run
        .ledger
        .sent()
        .iter()
        .filter(|sent| sent.failed())
        .count() as f64;
    let named = "why502_failed_responses_total{proxy=\"nginx\",status=\"502\",cause=\"connection_refused\"}";
    let counted = || value(port, named).unwrap_or(-1.0);
    wait::until("the counters", START, || counted() >= seen)?;
    for (series, expected) in [
        (named, seen),
        ("why502_failed_responses_total{", seen),
        ("why502_near_misses_total{", 0.0),
        ("why502_signals_lost_total{", 0.0),
    ] {
        let counted = value(port, series)?;
        if counted != expected {
            run.problem(format!("{series}: {counted}, the clients saw {expected}"));
        }
    }
    run.watched_by(daemon);
    host.hold(run);
    Ok(())
}

/// The sum of all series that begin so.
pub(super) fn value(port: u16, series: &str) -> Result<f64> {
    let (_, text) = get(port, "/metrics")?;
    let of_line = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    let lines = text.lines().filter(|line| line.starts_with(series));
    Ok(lines
        .filter_map(of_line)
        .fold(0.0, |sum, value| sum + value))
}
