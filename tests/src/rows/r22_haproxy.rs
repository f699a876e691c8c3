//! Row 22: HAProxy, which passes `Expect: 100-continue` on and reads several clients at once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::GUNICORN;
use crate::agent::Capture;
use crate::client::{self, Request};
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Haproxy, Scripted};
use crate::upstream::Mode;

const PORT: u16 = 8081;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 22,
        name: "haproxy",
        needs: &[GUNICORN, Need::Agent, Need::Program("haproxy")],
        counters: false,
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let app = "127.0.0.1:9000";
    let unread = "127.0.0.1:9001";
    let silent = "127.0.0.1:9002";
    let options = ["--worker-class", "gthread", "--threads", "16"];
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", app, 1, &options)?;
    let closes = Scripted::start(run, &ns, "unread", unread, Mode::ContinueUnread, 128)?;
    let waits = Scripted::start(run, &ns, "silent", silent, Mode::ContinueSilent, 128)?;
    let servers = [
        ("/unread", unread),
        ("/silent", silent),
        ("/closed", "127.0.0.1:9999"),
        ("/", app),
    ];
    let haproxy = Haproxy::start_with(run, &ns, PORT, &servers, "2s")?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--proxy", "haproxy"]);
    let mut agent = Capture::launch(command, &run.out)?;
    agent.wait_ready()?;
    run.watched_by(agent);
    run.add_proxy(haproxy.pid());

    // A body that was asked for is no new request on a connection that was used before.
    let closed = Expect::verdict("continue_unread", &[502], "upstream_reset")
        .variant("unread_data")
        .likely();
    let never =
        Expect::verdict("continue_silent", &[504], "read_timeout_no_reply").variant("sleeping");
    let refused = Expect::verdict("refused", &[503], "connection_refused")
        .variant("no_listener")
        .likely();
    let slow = Expect::verdict("slow", &[504], "read_timeout_no_reply").variant("sleeping");
    let healthy = Expect::healthy("healthy", &[200]);
    let to = SocketAddr::from(([127, 0, 0, 1], PORT));
    let asking = |folder| Request::post(run.path(folder)).expecting_continue();
    // Connects that fail at once leave nothing by which to tell them apart: one after the other.
    for _ in 0..run.wanted() {
        for (request, expect) in [
            (asking("/unread"), &closed),
            (Request::get(run.path("/closed")), &refused),
            (asking("/app"), &healthy),
        ] {
            let request = run.expecting(request, expect);
            ns.traffic(async || Ok(client::once(to, &run.ledger, request).await))?;
        }
    }
    let mut crowd = Vec::new();
    for number in 0..run.wanted() {
        let at = Duration::from_millis(number as u64);
        let slow_request = Request::get(run.path("/slow")).query("do=sleep&ms=2500");
        crowd.push((at, run.expecting(asking("/silent"), &never)));
        crowd.push((at, run.expecting(slow_request, &slow)));
        crowd.push((at, run.expecting(Request::get(run.path("/app")), &healthy)));
    }
    ns.traffic(async || {
        client::burst(to, &run.ledger, crowd).await;
        Ok(())
    })?;
    for cell in ["continue_unread", "refused", "continue_silent", "slow"] {
        run.at_least(cell, run.wanted());
    }
    run.hold((haproxy, gunicorn, (closes, waits), ns));
    Ok(())
}
