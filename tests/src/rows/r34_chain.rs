//! Row 34: a chain as behind a cloud's load balancer: HAProxy, 20 ms away nginx, which keeps idle connections
//! for a shorter time, and uWSGI. Two agents, one beside HAProxy, the other beside nginx alone.
//!
//! The race between the two proxies is HAProxy's to fail and nginx's to cause: the one labels the response,
//! the other tells of a near miss. What nginx fails is labelled by nginx's agent, and passed on by HAProxy.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use super::pool::{self, Strike, Wire};
use crate::agent::Capture;
use crate::client::Request;
use crate::expect::Expect;
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Haproxy, Nginx, Uwsgi};
use crate::wait;

const INNER_PORT: u16 = 9000;
const POOL: usize = 12;
/// What an agent says of one moment comes within this time of the other's.
const TOLD: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    let of = |name, run: fn(&mut Run) -> Result<()>| Scenario {
        row: 34,
        name,
        needs: &[
            NGINX,
            Need::Agent,
            Need::Tun,
            Need::Program("haproxy"),
            Need::Program("uwsgi-core"),
        ],
        run,
    };
    vec![
        of("chain", |run| {
            chain(
                run,
                &format!("listen {FAR}:{INNER_PORT}; listen 127.0.0.1:{INNER_PORT};"),
            )
        }),
        // Clients of IPv4 have addresses of IPv6 there.
        of("chain-dual-stack", |run| {
            chain(run, &format!("listen [::]:{INNER_PORT} ipv6only=off;"))
        }),
    ]
}

/// An agent of one proxy alone.
fn agent(run: &Run, name: &str, proxy: u32) -> Result<Capture> {
    let mut command = Command::new(run.why502()?);
    command.args(["capture", "--for", "600s", "--json", "--no-logs"]);
    command.args(["--source", "kernel", "--pid", &proxy.to_string()]);
    let mut agent = Capture::launch(command, &run.out.join(name))?;
    agent.wait_ready()?;
    Ok(agent)
}

fn chain(run: &mut Run, listen: &str) -> Result<()> {
    let wire = Wire::new()?;
    let socket = run.folder.join("uwsgi.sock");
    let socket = socket.display().to_string();
    let uwsgi = Uwsgi::start(run, &wire.far, "uwsgi", &socket, 4, &[])?;
    let http = format!(
        "keepalive_timeout 1s;
         server {{ {listen}
           uwsgi_param QUERY_STRING $query_string; uwsgi_param REQUEST_METHOD $request_method;
           uwsgi_param CONTENT_LENGTH $content_length; uwsgi_param REQUEST_URI $request_uri;
           uwsgi_param PATH_INFO $document_uri; uwsgi_param SERVER_PROTOCOL $server_protocol;
           uwsgi_param SERVER_NAME $server_name; uwsgi_param SERVER_PORT $server_port;
           location / {{ uwsgi_pass unix:{socket}; }}
           location /refused {{ proxy_pass http://127.0.0.1:9999; }} }}"
    );
    let nginx = Nginx::start(run, &wire.far, 1, INNER_PORT, &http)?;
    let to = format!("{FAR}:{INNER_PORT}");
    let haproxy = Haproxy::start_sharing(run, &wire.near, PLAIN_PORT, &to)?;
    let inner = agent(run, "nginx", nginx.pid())?;
    let outer = agent(run, "haproxy", haproxy.pid())?;
    run.watched_by(outer);
    run.add_proxy(haproxy.pid())?;

    let met = races(run, &wire, &uwsgi)?;
    let refused = refused(run, &wire)?;
    let told = |kind: &'static str| move |line: &Value| line["type"] == kind;
    // Too few lines are looked into below.
    let _ = wait::until("what nginx's agent has to say", TOLD, || {
        inner.count_where(told("near_miss")) >= met
            && inner.count_where(told("verdict")) >= refused.len()
    });
    let said = inner.end(libc::SIGINT)?.lines;
    check_near_misses(run, &said, met);
    check_verdicts(run, &said, &refused);
    run.hold((haproxy, nginx, uwsgi, wire));
    Ok(())
}

/// Requests meet nginx's close of connections that HAProxy has kept idle; returns how many.
fn races(run: &mut Run, wire: &Wire, uwsgi: &Uwsgi) -> Result<usize> {
    let query = "do=sleep&ms=60";
    let idle_close = pool::measure_idle_close(run, &wire.near, INNER_PORT, "/shop", POOL, query)?;
    let mut strike = Strike {
        front: Front::Plain,
        ns: &wire.near,
        folder: "/shop",
        idle_close,
        lead: Duration::ZERO,
        missed: 0,
    };
    let expect = pool::raced("raced").at_least_likely();
    // HAProxy tries nothing again: what fills the pool must not meet the last round's closes.
    let emptied = || pool::wait_empty(&wire.near, INNER_PORT);
    strike.until_unread(run, POOL, &uwsgi.log, &expect, emptied)
}

/// What nginx fails, HAProxy passes on; returns the paths.
fn refused(run: &mut Run, wire: &Wire) -> Result<Vec<String>> {
    let passed_on = Expect::verdict("passed_on", &[502], "upstream_answered").at_least_likely();
    let requests: Vec<_> = (0..run.wanted())
        .map(|_| run.expecting(Request::get(run.path("/refused")), &passed_on))
        .collect();
    let paths = requests
        .iter()
        .map(|request| request.path.clone())
        .collect();
    for request in requests {
        Front::Plain.burst(run, &wire.near, vec![(Duration::ZERO, request)])?;
    }
    run.at_least("passed_on", run.wanted());
    Ok(paths)
}

/// nginx's agent knows of each race, and that a tier in front is about to fail.
fn check_near_misses(run: &mut Run, said: &[Value], met: usize) {
    let near: Vec<&Value> = said.iter().filter(|l| l["type"] == "near_miss").collect();
    if near.len() != met {
        run.problem(format!(
            "nginx's agent: {} near misses of {met}",
            near.len()
        ));
    }
    // nginx counts from when it woke up to answer: a little less than `keepalive_timeout` from the answer on.
    let idle_at_least = 900_000;
    for line in near {
        let right = line["cause"] == "keepalive_race"
            && line["confidence"] == "likely"
            && line["proxy"]["name"] == "nginx"
            && line["upstream"]["address"] == format!("{FAR}:{INNER_PORT}")
            && line["client"]["address"] == line["attempts"][0]["local"]
            && line["attempts"][0]["idle_us"]
                .as_u64()
                .is_some_and(|idle| idle >= idle_at_least)
            && line["advice"]["settings"][0]["name"] == "keepalive_timeout";
        if !right {
            run.problem(format!("nginx's agent: {line}"));
        }
    }
}

/// And labels what nginx itself has failed, nothing else.
fn check_verdicts(run: &mut Run, said: &[Value], refused: &[String]) {
    let verdicts: Vec<&Value> = said.iter().filter(|l| l["type"] == "verdict").collect();
    for path in refused {
        let own: Vec<_> = verdicts
            .iter()
            .filter(|l| l["request"]["path"] == **path)
            .collect();
        let right = |l: &Value| l["cause"] == "connection_refused" && l["confidence"] == "proven";
        if !matches!(own[..], [line] if right(line)) {
            run.problem(format!("nginx's agent, of {path}: {own:?}"));
        }
    }
    if verdicts.len() != refused.len() {
        run.problem(format!("nginx's agent: {} verdicts", verdicts.len()));
    }
}
