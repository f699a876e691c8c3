//! Row 9: `GET /ping`, the health check: a worker killed for memory, a server still loading, a
//! client that gives up after two seconds.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::cgroup::Cgroup;
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::process;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx};
use crate::wait;

const MEMORY: u64 = 96 << 20;
const LOADING: &[(&str, &str)] = &[("LOAD_SECONDS", "5")];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 9,
        name: "health-check",
        needs: &[NGINX, GUNICORN, Need::Controller("memory")],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = |name: &str| format!("unix:{}", run.folder.join(name).display());
    let (hungry_bind, slow_bind, loading_bind) = (
        socket("hungry.sock"),
        socket("slow.sock"),
        socket("loading.sock"),
    );
    let loading_tcp = "127.0.0.1:9000";
    let limit = Cgroup::with_memory_limit(MEMORY)?;
    let mut hungry = Gunicorn::start(run, &ns, "hungry", &hungry_bind, 1, &[])?;
    limit.add(hungry.pid())?;
    for worker in hungry.workers() {
        limit.add(worker)?;
    }
    let slow = Gunicorn::start(
        run,
        &ns,
        "slow",
        &slow_bind,
        1,
        &["--worker-class", "gthread", "--threads", "40"],
    )?;
    let http = format!(
        "server {{ {}
           location /hungry/ping {{ proxy_pass http://{hungry_bind}:; }}
           location /slow/ping {{ proxy_pass http://{slow_bind}:; }}
           location /loading_unix/ping {{ proxy_pass http://{loading_bind}:; }}
           location /loading_tcp/ping {{ proxy_pass http://{loading_tcp}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    // `--preload` loads the application before the listener is made.
    let preload = ["--preload"];
    let mut loading = [
        Gunicorn::launch(
            run,
            &ns,
            "loading_unix",
            &loading_bind,
            1,
            &preload,
            LOADING,
        )?,
        Gunicorn::launch(run, &ns, "loading_tcp", loading_tcp, 1, &preload, LOADING)?,
    ];
    wait::until("the loading servers", Duration::from_secs(5), || {
        loading.iter().all(|server| {
            let name = std::fs::read(format!("/proc/{}/cmdline", server.pid()));
            name.is_ok_and(|name| String::from_utf8_lossy(&name).contains("gunicorn"))
        })
    })?;
    let missing =
        Expect::verdict("loading_unix", &[502], "unix_socket_missing").variant("starting");
    let refused = Expect::verdict("loading_tcp", &[502], "connection_refused").variant("starting");
    let gave_up = Expect::near_miss("gave_up", &[0], "downstream_gave_up").variant("sleeping");
    let mut requests = Vec::new();
    for number in 0..run.wanted() {
        let at = Duration::from_millis(500 + number as u64 * 20);
        for expect in [&missing, &refused] {
            let request = Request::get(run.path(&format!("/{}/ping", expect.cell)));
            requests.push((at, run.expecting(request, expect)));
        }
        let request = Request::get(run.path("/slow/ping"))
            .query("do=sleep&ms=3000")
            .giving_up_after(Duration::from_secs(2));
        requests.push((Duration::ZERO, run.expecting(request, &gave_up)));
    }
    Front::Plain.burst(run, &ns, requests)?;

    for server in &mut loading {
        server.wait_loaded(1)?;
    }
    wait::until(
        "the loaded servers' workers",
        Duration::from_secs(10),
        || loading.iter().all(|server| !server.workers().is_empty()),
    )?;
    let well = ["/loading_unix/ping", "/loading_tcp/ping"]
        .map(|folder| (Duration::ZERO, Request::get(run.path(folder))));
    Front::Plain.burst(run, &ns, well.into())?;

    let killed = Expect::verdict("out_of_memory", &[502], "worker_oom_killed");
    for number in 1..=run.wanted() {
        let worker = hungry.workers();
        let request = Request::get(run.path("/hungry/ping")).query("do=memory");
        let request = run.expecting(request, &killed);
        Front::Plain.burst(run, &ns, vec![(Duration::ZERO, request)])?;
        wait::until("the end of the worker", Duration::from_secs(5), || {
            worker.iter().all(|pid| process::state(*pid).is_none())
        })?;
        hungry.wait_loaded(number + 1)?;
    }
    for cell in ["loading_unix", "loading_tcp", "gave_up", "out_of_memory"] {
        run.at_least(cell, run.wanted());
    }
    run.hold((nginx, hungry, slow, loading, limit, ns));
    Ok(())
}
