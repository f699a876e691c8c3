//! Row 8: gunicorn's `--timeout` below nginx's (the arbiter kills the worker: 502) and above it
//! (nginx gives up first: 504).

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx};
use crate::wait;

const WORKERS: u32 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 8,
        name: "worker-timeout",
        needs: &[NGINX, GUNICORN],
        run: |run| both(run, Front::Plain),
    }]
}

pub(super) fn both(run: &mut Run, front: Front) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = |name: &str| format!("unix:{}", run.folder.join(name).display());
    let (below_bind, above_bind) = (socket("below.sock"), socket("above.sock"));
    let mut below = Gunicorn::start(run, &ns, "below", &below_bind, WORKERS, &["--timeout", "2"])?;
    let above = Gunicorn::start(
        run,
        &ns,
        "above",
        &above_bind,
        WORKERS,
        &["--timeout", "30"],
    )?;
    let http = format!(
        "upstream below {{ server {below_bind}; }} upstream above {{ server {above_bind}; }}
         server {{ {}
           location /below {{ proxy_pass http://below; proxy_read_timeout 10s; }}
           location /above {{ proxy_pass http://above; proxy_read_timeout 2s; }} }}",
        front.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let killed = Expect::verdict("arbiter_first", &[502], "worker_timeout_killed")
        .with(Check::Says("/evidence", below.pid().to_string()))
        .with(Check::Says("/advice/text", "--timeout 2 ended".into()));
    let slow = Expect::verdict("nginx_first", &[504], "read_timeout_no_reply")
        .variant("sleeping")
        .with(Check::SaysAnywhere("proxy_read_timeout".into()));
    let mut done = 0;
    while done < run.wanted() {
        let mut requests = Vec::new();
        for _ in 0..WORKERS {
            let request = Request::get(run.path("/below")).query("do=sleep&ms=8000");
            requests.push((
                Duration::ZERO,
                run.expecting(request, &front.adapt(killed.clone())),
            ));
            let request = Request::get(run.path("/above")).query("do=sleep&ms=2500");
            requests.push((
                Duration::ZERO,
                run.expecting(request, &front.adapt(slow.clone())),
            ));
        }
        front.burst(run, &ns, requests)?;
        done += WORKERS as usize;
        // The arbiter starts new workers, and the slow ones finish.
        below.wait_loaded(WORKERS as usize + done)?;
        wait::until("late answers", Duration::from_secs(10), || {
            above.log.count("answered") >= done
        })?;
    }
    for cell in ["arbiter_first", "nginx_first"] {
        run.at_least(cell, run.wanted());
    }
    run.hold((nginx, below, above, ns));
    Ok(())
}
