//! Bad days (a row of our own): agents that die or come in twos, proxies that die or are restarted,
//! losses, odd names, full disks, no proxy at all, no right to watch one; starts and connections by the
//! thousand.

mod churn_agents;
mod churn_connections;
mod full_disk;
mod killed;
mod no_proxy;
mod no_source;
mod odd_names;
mod overrun;
mod proxy_dies;
mod terminated;
mod two_agents;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::NGINX;
use super::front::{Front, KNOWN_LOCATION, PLAIN_PORT, plain};
use crate::client::{self, Request};
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Need, Run, START, Scenario};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |name, run| Scenario {
        row: 19,
        name,
        needs: &[NGINX, Need::Agent],
        run,
    };
    vec![
        scenario("two-agents", two_agents::run),
        scenario("agent-killed", killed::run),
        scenario("agent-terminated", terminated::run),
        scenario("churn-agents", churn_agents::run),
        scenario("churn-connections", churn_connections::run),
        scenario("proxy-dies", proxy_dies::run),
        scenario("overrun", overrun::run),
        scenario("odd-names", odd_names::run),
        Scenario {
            needs: &[NGINX, Need::Agent, Need::Program("haproxy")],
            ..scenario("abstract-socket", odd_names::abstract_socket)
        },
        scenario("record-full-disk", full_disk::run),
        scenario("no-proxy", no_proxy::run),
        scenario("no-source", no_source::run),
    ]
}

pub(super) const APP: &str = "127.0.0.1:9000";

/// nginx before an upstream that answers, with a location that always fails.
pub(super) struct Host {
    pub(super) nginx: Nginx,
    app: Scripted,
    pub(super) ns: NetNs,
}

impl Host {
    pub(super) fn start(run: &Run) -> Result<Host> {
        let ns = NetNs::new()?;
        let app = Scripted::start(run, &ns, "app", APP, Mode::Answer, 128)?;
        let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http(run, "")?)?;
        Ok(Host { nginx, app, ns })
    }

    pub(super) fn hold(self, run: &mut Run) {
        run.hold((self.nginx, self.app, self.ns));
    }
}

pub(super) fn http(run: &Run, more: &str) -> Result<String> {
    Ok(format!(
        "upstream app {{ server {APP}; keepalive 16; }}
         server {{ {} {KNOWN_LOCATION} {more} location /app {{ proxy_pass http://app; }} }}",
        Front::Plain.listen(run)?
    ))
}

/// The truth about a request to the location that always fails.
fn refused(cell: &'static str) -> Expect {
    Expect::verdict(cell, &[502], "connection_refused").variant("no_listener")
}

/// Fails as many requests as a cell needs. Returns their paths.
fn fail(run: &mut Run, ns: &NetNs, expect: &Expect) -> Result<Vec<String>> {
    run.at_least(expect.cell, run.wanted());
    let count = run.wanted();
    fail_times(run, ns, expect, count)
}

pub(super) fn fail_times(
    run: &Run,
    ns: &NetNs,
    expect: &Expect,
    count: usize,
) -> Result<Vec<String>> {
    let requests: Vec<_> = (0..count)
        .map(|_| run.expecting(Request::get(run.path("/known")), expect))
        .collect();
    let paths = requests.iter().map(|each| each.path.clone()).collect();
    let burst = requests.into_iter().map(|each| (Duration::ZERO, each));
    Front::Plain.burst(run, ns, burst.collect())?;
    Ok(paths)
}

/// Does `work` while requests go on: 200 a second, one in ten of which fails as stated.
fn under_load<T>(
    run: &Run,
    ns: &NetNs,
    failing: &Expect,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicBool::new(false));
    let (ledger, failing) = (run.ledger.clone(), Arc::new(failing.clone()));
    let number = Arc::new(AtomicUsize::new(0));
    let make = {
        let (ledger, made) = (ledger.clone(), made.clone());
        move || {
            if !number.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
                return Request::get(ledger.path("/app"));
            }
            made.store(true, Ordering::Relaxed);
            let request = Request::get(ledger.path("/known"));
            ledger.expect(&request.path, Expect::clone(&failing));
            request
        }
    };
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let stop = stop.clone();
            let stopped = move || stop.load(Ordering::Relaxed);
            ns.traffic(async || client::steady(plain(), ledger, 8, 200.0, make, stopped).await)
        });
        let result =
            wait::until("the load", START, || made.load(Ordering::Relaxed)).and_then(|()| work());
        stop.store(true, Ordering::Relaxed);
        load.join().expect("load")?;
        result
    })
}
