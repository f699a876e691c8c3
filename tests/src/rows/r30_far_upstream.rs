//! Row 30: two agents with one collector, as if of two nodes: the one watches nginx, the other no proxy
//! at all and tells of the upstreams what it sees of their half. Each verdict is joined to its half by
//! the flow's name and the time, and by both initial sequence numbers, which are all that is the same where
//! addresses are translated on the way, as a ClusterIP is.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT, plain};
use super::pool::{self, Pool};
use super::{GUNICORN, NGINX};
use crate::agent::Capture;
use crate::client::{self, Request};
use crate::collector::{Collector, Event};
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::prometheus;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx, Node};
use crate::wait;

const FAR: &str = "10.60.1.2";
/// What the proxy calls instead, where addresses are translated.
const VIRTUAL: &str = "10.60.9.9";
const PATIENCE: Duration = Duration::from_secs(20);
/// From a half to its verdict: both are told of the same moment.
const TOGETHER_NS: u64 = 1_000_000_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 30,
        name: "far-upstream",
        needs: &[NGINX, GUNICORN, Need::Agent, Need::Program("iptables")],
        run,
    }]
}

/// What the upstream's node has to say of a cell's requests.
struct Half {
    cell: &'static str,
    end: &'static str,
    closed_by: &'static str,
    /// Under another address than the proxy's.
    translated: bool,
    /// More of its attributes, with their values.
    says: &'static [(&'static str, &'static str)],
}

const HALVES: [Half; 6] = [
    Half {
        cell: "killed",
        end: "process_ended",
        closed_by: "upstream",
        translated: false,
        says: &[
            ("why502.upstream.exit_signal", "9"),
            ("why502.upstream.unanswered", "true"),
            ("why502.upstream.process", "node"),
        ],
    },
    Half {
        cell: "closed",
        end: "unanswered",
        closed_by: "upstream",
        translated: false,
        says: &[
            ("why502.upstream.reset", "false"),
            ("why502.upstream.unread_bytes", "0"),
        ],
    },
    Half {
        cell: "reset",
        end: "unanswered",
        closed_by: "upstream",
        translated: false,
        says: &[("why502.upstream.reset", "true")],
    },
    Half {
        cell: "slow",
        end: "unanswered",
        closed_by: "caller",
        translated: true,
        says: &[
            ("why502.upstream.accepted", "true"),
            ("why502.upstream.process", "gunicorn"),
        ],
    },
    Half {
        cell: "queued",
        end: "not_accepted",
        closed_by: "caller",
        translated: true,
        says: &[("why502.upstream.accepted", "false")],
    },
    Half {
        cell: "idle",
        end: "idle",
        closed_by: "upstream",
        translated: false,
        says: &[("why502.upstream.unanswered", "false")],
    },
];

fn run(run: &mut Run) -> Result<()> {
    let (near, far) = (NetNs::new()?, NetNs::new()?);
    near.join(&far, 1)?;
    near.sh(&format!(
        "ip route add {VIRTUAL} via {FAR} &&
         iptables -t nat -A OUTPUT -d {VIRTUAL} -p tcp --dport 80 -j DNAT --to-destination {FAR}:9002"
    ))?;
    let address = |port: u16| format!("{FAR}:{port}");
    let mut mortal = Node::start(run, &far, "mortal", &address(9000), 60_000)?;
    let idle = Node::start(run, &far, "idle", &address(9001), 1000)?;
    let patient = ["--timeout", "600"];
    let gunicorn = Gunicorn::start(run, &far, "slow", &address(9002), 1, &patient)?;
    let http = format!(
        "upstream idle {{ server {FAR}:9001; keepalive 128; }}
         server {{ {}
           location /mortal {{ proxy_pass http://{FAR}:9000; }}
           location /idle {{ proxy_pass http://idle; }}
           location /slow {{ proxy_pass http://{VIRTUAL}; proxy_read_timeout 1500ms; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &near, 1, PLAIN_PORT, &http)?;
    run.add_proxy(nginx.pid())?;
    let collector = Collector::start()?;
    // Nothing has this name: all upstreams' proxies are another node's.
    let other = agent(run.why502()?, "app-1", "no-such-proxy", &collector)?;
    let mut other = Capture::launch(other, &run.out.join("app-1"))?;
    let mut edge = agent(run.why502()?, "edge-1", "nginx", &collector)?;
    edge.args(["--privacy", "full"]);
    let edge = Capture::launch(edge, &run.out.join("edge-1"))?;
    run.watched_by(edge);
    run.agent_mut()?.wait_ready()?;
    other.wait_ready()?;

    closes_idle(run, &near, &nginx, &idle)?;
    for (cell, act, cause, variant) in [
        ("closed", "do=close", "upstream_closed_early", "no_bytes"),
        ("reset", "do=reset", "upstream_reset", "abort"),
    ] {
        let expect = Expect::verdict(cell, &[502], cause).variant(variant);
        // A fresh connection's server may speak anything.
        let expect = expect.at_least_likely();
        let requests = (0..run.wanted() as u32).map(|number| {
            let request = Request::get(run.path("/mortal")).query(act);
            let at = number * Duration::from_millis(20);
            (at, run.expecting(request, &expect))
        });
        let requests = requests.collect();
        Front::Plain.burst(run, &near, requests)?;
    }
    is_slow(run, &near, &gunicorn)?;
    dies(run, &near, &mut mortal)?;
    for half in &HALVES {
        run.at_least(half.cell, run.wanted());
    }
    // The last ones come within the export's second; what is not told by then is missing.
    let wanted = wanted(run);
    let _ = wait::until("every half", PATIENCE, || {
        let events = collector.events();
        wanted
            .iter()
            .all(|(path, half)| joined(&events, path, half).is_ok())
    });
    let events = collector.events();
    for (path, half) in &wanted {
        if let Err(problem) = joined(&events, path, half) {
            run.problem(format!("{}, {path}: {problem}", half.cell));
        }
    }
    let flows: Vec<_> = verdicts(&events).filter_map(|v| v.get(FLOW)).collect();
    let of_edge = |event: &&Event| {
        let flow = event.get(FLOW);
        event.node == "edge-1" && event.name == HALF && flow.is_some_and(|f| flows.contains(&f))
    };
    let own = events.iter().filter(of_edge).count();
    if own > 0 {
        run.problem(format!("the proxy's own node told {own} upstreams' ends"));
    }
    let ended = other.end(libc::SIGTERM)?;
    let said = ended.lines.iter().filter(|line| line["type"] == "verdict");
    let said = said.count();
    if ended.exit != 0 || said > 0 {
        run.problem(format!(
            "the upstreams' agent ended with status {} and {said} verdicts",
            ended.exit
        ));
    }
    run.hold((nginx, mortal, idle, gunicorn));
    run.hold((near, far, collector));
    Ok(())
}

const HALF: &str = "why502.upstream_end";
const FLOW: &str = "why502.flow.community_id";
const BEGUN: [&str; 2] = ["why502.flow.client_isn", "why502.flow.server_isn"];

/// Of the proxy's node.
fn verdicts(events: &[Event]) -> impl Iterator<Item = &Event> {
    let of_edge = |event: &&Event| event.node == "edge-1" && event.name == "why502.verdict";
    events.iter().filter(of_edge)
}

/// Nothing but what the export has is looked at.
fn agent(why502: &Path, node: &str, proxy: &str, collector: &Collector) -> Result<Command> {
    let mut command = Command::new(why502);
    command
        .args(["run", "--json", "--no-history", "--no-logs"])
        .args(["--source", "kernel", "--proxy", proxy, "--node", node])
        .args(["--otlp", &collector.url()])
        .args([
            "--listen",
            &format!("127.0.0.1:{}", prometheus::free_port()?),
        ]);
    Ok(command)
}

/// nginx cannot know, while it is stopped, that its pool is closed.
fn closes_idle(run: &Run, near: &NetNs, nginx: &Nginx, node: &Node) -> Result<()> {
    let pool = Pool {
        folder: "/idle",
        query: "ms=60",
        count: run.wanted(),
    };
    let closed = || {
        wait::until("node's idle closes", PATIENCE, || {
            node.open_connections() == 0
        })
    };
    let struck = pool::strike_stopped(run, Front::Plain, near, nginx.worker()?, pool, closed)?;
    for sent in &struck.sent {
        let expect = Expect::verdict("idle", &[502], "keepalive_race");
        let expect = expect.variant("fin_already_received");
        run.ledger.expect(&sent.path, expect);
    }
    Ok(())
}

/// One request keeps the only worker busy, the next one waits for it: nginx waits for neither.
fn is_slow(run: &Run, near: &NetNs, gunicorn: &Gunicorn) -> Result<()> {
    let slow = Expect::verdict("slow", &[504], "read_timeout_no_reply").variant("sleeping");
    let queued = Expect::verdict("queued", &[504], "read_timeout_never_accepted");
    for round in 1..=run.wanted() {
        let first = Request::get(run.path("/slow")).query("do=sleep&ms=2600");
        let second = Request::get(run.path("/slow"));
        let requests = vec![
            (Duration::ZERO, run.expecting(first, &slow)),
            (Duration::from_millis(300), run.expecting(second, &queued)),
        ];
        Front::Plain.burst(run, near, requests)?;
        wait::until("late answers", PATIENCE, || {
            gunicorn.log.count("answered") >= 2 * round
        })?;
    }
    Ok(())
}

fn dies(run: &Run, near: &NetNs, node: &mut Node) -> Result<()> {
    let expect = Expect::verdict("killed", &[502], "worker_killed");
    let requests: Vec<Request> = (0..run.wanted())
        .map(|_| {
            let request = Request::get(run.path("/mortal")).query("do=hold");
            run.expecting(request, &expect)
        })
        .collect();
    let paths: Vec<String> = requests.iter().map(|each| each.path.clone()).collect();
    let requests = requests.into_iter().map(|each| (Duration::ZERO, each));
    let requests = requests.collect();
    near.traffic(async || {
        let held = client::burst(plain(), &run.ledger, requests);
        let killing = async {
            wait::until_async("the reads", PATIENCE, || {
                let reads = node.log.reads();
                paths.iter().all(|path| reads.contains_key(path))
            })
            .await?;
            node.signal(libc::SIGKILL);
            anyhow::Ok(())
        };
        tokio::join!(held, killing).1
    })?;
    node.proc_mut().wait_exit(PATIENCE)?;
    Ok(())
}

/// Each failed request with what the upstream's node has to say of it.
fn wanted(run: &Run) -> Vec<(String, &'static Half)> {
    let entries = run.ledger.entries().into_iter();
    let half = |cell: &str| HALVES.iter().find(|half| half.cell == cell);
    entries
        .filter_map(|(sent, truth)| Some((sent.path, half(truth.cell)?)))
        .collect()
}

/// The one half of this request's verdict, by how the connection began; or what is wrong.
fn joined<'a>(events: &'a [Event], path: &str, half: &Half) -> Result<&'a Event, String> {
    let of_path = |event: &&Event| event.get("url.path") == Some(path);
    let Some(verdict) = verdicts(events).find(of_path) else {
        return Err("no verdict at the collector".to_owned());
    };
    // Ports are used again. nginx is stopped while its pool is closed.
    let together = TOGETHER_NS * if half.cell == "idle" { 10 } else { 1 };
    let same = |event: &Event, name: &str| {
        let value = verdict.get(name);
        value.is_some() && event.get(name) == value
    };
    let halves = |names: &'static [&'static str]| {
        let of_connection = move |event: &&Event| {
            let near = event.at_ns.abs_diff(verdict.at_ns) < together;
            event.name == HALF && near && names.iter().all(|name| same(event, name))
        };
        events.iter().filter(of_connection)
    };
    let told: Vec<&Event> = halves(&BEGUN).collect();
    let [told] = told[..] else {
        return Err(format!("{} halves began so: {verdict:?}", told.len()));
    };
    let by_flow = halves(&[FLOW]).count();
    if by_flow != usize::from(!half.translated) {
        return Err(format!("{by_flow} halves of this flow: {verdict:?}"));
    }
    let expected = [
        ("why502.upstream.end", half.end),
        ("why502.upstream.closed_by", half.closed_by),
    ];
    for (name, value) in expected.iter().chain(half.says) {
        if told.get(name) != Some(*value) {
            return Err(format!("{name} is not {value}: {told:?}"));
        }
    }
    for name in ["server.address", "server.port"] {
        if half.translated == same(told, name) {
            return Err(format!("{name}: {told:?}"));
        }
    }
    let waited = told.number("why502.upstream.waited_us");
    let idle = told.number("why502.upstream.idle_us");
    // The proxy's timer, and Node's with the second that it adds; a tick of the kernel's clock less.
    let (time, from) = match half.cell {
        "slow" | "queued" => (waited, 1_480_000),
        "idle" => (idle, 900_000),
        _ => (0, 0),
    };
    if time < from {
        return Err(format!("after {time} us: {told:?}"));
    }
    Ok(told)
}
