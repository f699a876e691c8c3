//! nginx's worker is killed with requests in flight; then nginx is stopped and started again. What
//! died with a worker had no response and gets no verdict; failures before and after are labelled.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{fail, http, refused};
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::process;
use crate::rows::front::{Front, PLAIN_PORT};
use crate::run::{Run, START};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let app = Scripted::start(run, &ns, "app", super::APP, Mode::Answer, 128)?;
    let (held_at, socket) = ("127.0.0.1:9001", run.folder.join("held.sock"));
    let held_unix_at = format!("unix:{}", socket.display());
    let held = [
        Scripted::start(run, &ns, "held", held_at, Mode::NeverAnswer, 128)?,
        Scripted::start(run, &ns, "held_unix", &held_unix_at, Mode::NeverAnswer, 128)?,
    ];
    let more = format!(
        "location /held {{ proxy_pass http://{held_at}; }}
         location /held_unix {{ proxy_pass http://{held_unix_at}:; }}"
    );
    let http = http(run, &more)?;
    let mut nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let mut died = Vec::new();
    for _ in 0..run.either(2, 10) {
        fail(run, &ns, &refused("before"))?;
        let worker = nginx.worker()?;
        died.extend(in_flight(run, &ns, &held, || {
            process::kill(worker, libc::SIGKILL);
            Ok(())
        })?);
        // The listening socket is the master's: what comes now waits for the new worker.
        fail(run, &ns, &refused("new_worker"))?;
        run.note_proxies();
        healthy(run, &ns)?;
    }
    died.extend(in_flight(run, &ns, &held, || nginx.stop())?);
    nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.add_proxy(nginx.pid())?;
    fail(run, &ns, &refused("new_master"))?;
    healthy(run, &ns)?;

    // They failed nobody's request but the client's own, which had no response from anyone.
    for line in run.agent()?.lines() {
        if line["type"] != "near_miss" {
            continue;
        }
        let path = line["request"]["path"].as_str();
        let proven = line["confidence"] == "proven";
        if proven && path.is_none_or(|path| died.iter().any(|of| of == path)) {
            run.problem(format!("proven of a worker's end: {line}"));
        }
    }
    run.hold((nginx, app, held, ns));
    Ok(())
}

/// Does `end` to the worker while requests are with the upstreams that do not answer.
fn in_flight(
    run: &Run,
    ns: &NetNs,
    held: &[Scripted; 2],
    end: impl FnOnce() -> Result<()>,
) -> Result<Vec<String>> {
    let expect = Expect::healthy("died_with_worker", &[0]);
    let mut requests = Vec::new();
    for folder in ["/held", "/held_unix"] {
        for _ in 0..run.wanted() {
            let request = run.expecting(Request::get(run.path(folder)), &expect);
            requests.push((Duration::ZERO, request));
        }
    }
    let paths: Vec<String> = requests.iter().map(|(_, each)| each.path.clone()).collect();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| Front::Plain.burst(run, ns, requests));
        wait::until("the requests in flight", START, || {
            let [tcp, unix] = held.each_ref().map(|each| each.log.reads());
            let read = |path: &String| tcp.contains_key(path) || unix.contains_key(path);
            paths.iter().all(read)
        })?;
        end()?;
        sending.join().expect("requests")
    })?;
    ensure!(!paths.is_empty(), "nothing was in flight");
    Ok(paths)
}

fn healthy(run: &Run, ns: &NetNs) -> Result<()> {
    let requests = (0..run.wanted()).map(|_| (Duration::ZERO, Request::get(run.path("/app"))));
    Front::Plain.burst(run, ns, requests.collect())?;
    Ok(())
}
