//! Row 10: gunicorn stopped with QUIT while requests run and others wait; HUP harms none.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx};
use crate::wait;

const WORKERS: u32 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 10,
            name: "shutdown-unix",
            needs: &[NGINX, GUNICORN],
            run: |run| {
                let bind = format!("unix:{}", run.folder.join("gunicorn.sock").display());
                stop(run, &bind)
            },
        },
        Scenario {
            row: 10,
            name: "shutdown-tcp",
            needs: &[NGINX, GUNICORN],
            run: |run| stop(run, "127.0.0.1:9000"),
        },
    ]
}

fn stop(run: &mut Run, bind: &str) -> Result<()> {
    let ns = NetNs::new()?;
    let mut gunicorn = Gunicorn::start(run, &ns, "gunicorn", bind, WORKERS, &[])?;
    let http = format!(
        "upstream app {{ server {bind}; }}
         server {{ {} location / {{ proxy_pass http://app; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    // HUP: those that run are finished by the old workers, those that wait go to the new ones.
    during(run, &ns, &gunicorn, WORKERS as usize, 1000, || {
        gunicorn.signal(libc::SIGHUP);
    })?;
    gunicorn.wait_loaded(2 * WORKERS as usize)?;

    let mut done = 0;
    while done < run.wanted() {
        let queued = run.wanted();
        let sent = during(run, &ns, &gunicorn, queued, 8000, || {
            gunicorn.signal(libc::SIGQUIT);
        })?;
        let reads = gunicorn.log.reads();
        for path in &sent {
            let expect = if reads.contains_key(path) {
                done += 1;
                Expect::verdict("in_flight", &[502], "upstream_shutdown")
            } else {
                Expect::verdict("queued", &[502], "listener_died")
            };
            run.ledger.expect(path, expect);
        }
        gunicorn.proc_mut().wait_exit(Duration::from_secs(15))?;
        let loaded = gunicorn.log.count("loaded");
        gunicorn = Gunicorn::launch(run, &ns, "gunicorn", bind, WORKERS, &[], &[])?;
        gunicorn.wait_loaded(loaded + WORKERS as usize)?;
    }
    run.at_least("in_flight", run.wanted());
    run.at_least("queued", run.wanted());
    run.hold((nginx, gunicorn, ns));
    Ok(())
}

/// Occupies every worker and queues more requests, then does `act`. Returns the paths when all
/// are answered.
fn during(
    run: &Run,
    ns: &NetNs,
    gunicorn: &Gunicorn,
    queued: usize,
    ms: u32,
    act: impl FnOnce() + Send,
) -> Result<Vec<String>> {
    let request = || Request::get(run.path("/jobs")).query(&format!("do=sleep&ms={ms}"));
    let running: Vec<_> = (0..WORKERS).map(|_| (Duration::ZERO, request())).collect();
    let waiting: Vec<_> = (0..queued).map(|_| (Duration::ZERO, request())).collect();
    let (first, all) = (paths(&running), [paths(&running), paths(&waiting)].concat());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| Front::Plain.burst(run, ns, running));
        wait::until("busy workers", Duration::from_secs(5), || {
            let reads = gunicorn.log.reads();
            first.iter().all(|path| reads.contains_key(path))
        })?;
        let waiting = scope.spawn(|| Front::Plain.burst(run, ns, waiting));
        wait_queued(ns, run, queued)?;
        act();
        running.join().expect("requests")?;
        waiting.join().expect("requests")?;
        Ok(all)
    })
}

fn paths(requests: &[(Duration, Request)]) -> Vec<String> {
    requests.iter().map(|(_, each)| each.path.clone()).collect()
}

/// Waits until the listener's queue holds so many connections.
fn wait_queued(ns: &NetNs, run: &Run, queued: usize) -> Result<()> {
    let socket = run.folder.join("gunicorn.sock");
    let socket = socket.to_string_lossy();
    wait::until("the queue", Duration::from_secs(5), || {
        let listeners = ns.sh("ss -Hltxn").unwrap_or_default();
        listeners.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ours = line.contains(&*socket) || line.contains("127.0.0.1:9000");
            ours && words.get(2).and_then(|word| word.parse().ok()) >= Some(queued)
        })
    })
}
