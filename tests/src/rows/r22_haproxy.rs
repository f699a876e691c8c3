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
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let app = "127.0.0.1:9000";
    let unread = "127.0.0.1:9001";
    let silent = "127.0.0.1:9002";
    let options = ["--worker-class", "gthread", "--threads", "100"];
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", app, 1, &options)?;
    let closes = Scripted::start(run, &ns, "unread", unread, Mode::ContinueUnread, 128)?;
    let waits = Scripted::start(run, &ns, "silent", silent, Mode::ContinueSilent, 128)?;
    let servers = [
        ("/unread", unread),
        ("/silent", silent),
        ("/closed", "127.0.0.1:9999"),
        ("/again", "127.0.0.1:9999,127.0.0.1:9000"),
        ("/", app),
    ];
    let haproxy = Haproxy::start_with(run, &ns, PORT, &servers, "2s")?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--proxy", "haproxy"]);
    let mut agent = Capture::launch(command, &run.out)?;
    agent.wait_ready()?;
    run.watched_by(agent);
    run.add_proxy(haproxy.pid())?;

    // A body that was asked for is no new request on a connection that was used before.
    let closed = Expect::verdict("continue_unread", &[502], "request_body_rejected");
    let refused = Expect::verdict("refused", &[503], "connection_refused")
        .variant("no_listener")
        .at_least_likely();
    // Its second try is seen by nobody, its answer is: at most a near miss.
    let again = Expect::healthy("tried_again", &[200]);
    let timeout = |cell| Expect::verdict(cell, &[504], "read_timeout_no_reply");
    let never = timeout("continue_silent").variant("waiting_on_lock");
    let slow = timeout("slow").variant("sleeping");
    // Of several clients read at once only the path tells whose attempt it was, and nothing of a
    // connect that failed but the moment.
    let crowd_slow = timeout("crowd_slow").variant("sleeping").at_least_likely();
    let crowd_refused = Expect::verdict("crowd_refused", &[503], "connection_refused")
        .variant("no_listener")
        .at_least_likely();
    let healthy = Expect::healthy("healthy", &[200]);
    let to = SocketAddr::from(([127, 0, 0, 1], PORT));
    let asking = |folder| Request::post(run.path(folder)).expecting_continue();
    // Connects that fail at once leave nothing by which to tell them apart: one after the other.
    for _ in 0..run.wanted() {
        for (request, expect) in [
            (asking("/unread"), &closed),
            (Request::get(run.path("/closed")), &refused),
            (Request::get(run.path("/again")), &again),
            (asking("/app"), &healthy),
        ] {
            let request = run.expecting(request, expect);
            ns.traffic(async || Ok(client::once(to, &run.ledger, request).await))?;
        }
    }
    let sleep = || Request::get(run.path("/slow")).query("do=sleep&ms=2500");
    let mut requests = Vec::new();
    for number in 0..run.wanted() as u64 {
        let at = |ms| Duration::from_millis(number * 60 + ms);
        requests.push((at(0), run.expecting(asking("/silent"), &never)));
        requests.push((at(20), run.expecting(sleep(), &slow)));
        requests.push((
            at(40),
            run.expecting(Request::get(run.path("/app")), &healthy),
        ));
        let together = Duration::from_secs(5);
        let refused = Request::get(run.path("/closed"));
        requests.push((together, run.expecting(sleep(), &crowd_slow)));
        requests.push((together, run.expecting(refused, &crowd_refused)));
    }
    ns.traffic(async || {
        client::burst(to, &run.ledger, requests).await;
        Ok(())
    })?;
    for expect in [
        &closed,
        &refused,
        &again,
        &never,
        &slow,
        &crowd_slow,
        &crowd_refused,
    ] {
        run.at_least(expect.cell, run.wanted());
    }
    run.hold((haproxy, gunicorn, (closes, waits), ns));
    Ok(())
}
