//! Row 28: pods named by the node's files, their workloads by the Kubernetes API over TLS: also a pod
//! that is replaced while it works on a request, and while the API is away.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::NGINX;
use super::front::{Front, PLAIN_PORT, plain};
use crate::agent::Capture;
use crate::cgroup::Cgroup;
use crate::client::{self, Request};
use crate::expect::{Check, Expect};
use crate::kubernetes::Server;
use crate::netns::NetNs;
use crate::prometheus;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Node};
use crate::wait;

const NODE: &str = "node-1";
const UPSTREAM: &str = "127.0.0.1:9000";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a pod's agent finds where its host's files and its own account are. `$1`: logs of pods, `$2`:
/// the account.
const ENTER: &str = r#"set -eu
mount --bind "$1" /var/log
mount -t tmpfs why502-lab /run
mkdir -p /run/secrets/kubernetes.io
ln -s "$2" /run/secrets/kubernetes.io/serviceaccount
shift 2
exec "$@""#;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 28,
        name: "cluster",
        needs: &[
            NGINX,
            Need::Agent,
            Need::Controller("cpu"),
            Need::Program("unshare"),
        ],
        run,
    }]
}

/// One container's pod: its control group, its folder of logs, and what the API says of it.
struct Pod {
    uid: String,
    name: &'static str,
    workload: &'static str,
    group: Cgroup,
}

impl Pod {
    fn new(log: &Path, number: u8, name: &'static str, workload: &'static str) -> Result<Pod> {
        let uid = format!("40934a46-d409-4f4a-bb8b-1ec0b04363{number:02}");
        let id = format!("{number:02}").repeat(32);
        std::fs::create_dir_all(log.join(format!("pods/shop_{name}_{uid}/app")))?;
        Ok(Pod {
            group: Cgroup::of_pod(&uid, &id)?,
            uid,
            name,
            workload,
        })
    }

    fn metadata(&self) -> Value {
        json!({"uid": self.uid, "name": self.name, "namespace": "shop",
            "creationTimestamp": "2026-11-22T10:00:00Z",
            "labels": {"controller-revision-hash": "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "uid": "o",
                "name": self.workload, "controller": true}]})
    }

    /// Node.js in it, ready.
    fn serves(&self, run: &Run, ns: &NetNs) -> Result<Node> {
        Node::start_in(run, ns, "orders", UPSTREAM, 60_000, Some(&self.group))
    }
}

fn run(run: &mut Run) -> Result<()> {
    let log = run.folder.join("log");
    let account = run.folder.join("account");
    let gateway = Pod::new(&log, 1, "gateway-8xt2z", "gateway")?;
    let first = Pod::new(&log, 2, "orders-fb5fs", "orders")?;
    let api = Server::start(TcpListener::bind("127.0.0.1:0")?, &account, NODE)?;
    api.add(gateway.metadata());
    api.add(first.metadata());

    let ns = NetNs::new()?;
    let mut node = first.serves(run, &ns)?;
    let http = format!(
        "server {{ {} location / {{ proxy_pass http://{UPSTREAM}; proxy_read_timeout 300ms; }}
           location /patient {{ proxy_pass http://{UPSTREAM}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start_in(run, &ns, &gateway.group, 1, PLAIN_PORT, &http)?;
    run.add_proxy(nginx.pid())?;
    let port = prometheus::free_port()?;
    let agent = Capture::launch(
        command(run.why502()?, &log, &account, &api, port),
        &run.out.join("agent"),
    )?;
    run.watched_by(agent);
    run.agent_mut()?.wait_ready()?;
    is_up(port, true)?;
    let address = api.address();

    // Both are named: the pods by the node's files, what runs them by the API.
    times_out(run, &ns, "listed", "orders-fb5fs", "orders".into())?;

    // A request is read; then its pod is deleted, and another one takes its place.
    let second = Pod::new(&log, 3, "orders-x2x4z", "orders")?;
    let lost = named(
        "replaced",
        &[502],
        "worker_killed",
        "orders-fb5fs",
        "orders".into(),
    );
    let request = Request::get(run.path("/patient")).query("do=hold");
    let request = run.expecting(request, &lost);
    ns.traffic(async || {
        let path = request.path.clone();
        let held = client::once(plain(), &run.ledger, request);
        let replacing = async {
            wait::until_async("the read", PATIENCE, || {
                node.log.reads().contains_key(&path)
            })
            .await?;
            api.add(second.metadata());
            api.remove(&first.uid);
            node.signal(libc::SIGKILL);
            anyhow::Ok(())
        };
        tokio::join!(held, replacing).1
    })?;
    node.proc_mut().wait_exit(PATIENCE)?;
    node = second.serves(run, &ns)?;
    is_named(run, &ns, "orders-x2x4z", &"orders".into())?;
    times_out(run, &ns, "replacement", "orders-x2x4z", "orders".into())?;

    // Away: known names stay, and a pod that comes now has the name that its files tell.
    drop(api);
    is_up(port, false)?;
    times_out(run, &ns, "away", "orders-x2x4z", "orders".into())?;
    drop(node);
    let third = Pod::new(&log, 4, "orders-q8zsk", "orders")?;
    let node = third.serves(run, &ns)?;
    is_named(run, &ns, "orders-q8zsk", &Value::Null)?;
    times_out(run, &ns, "unknown", "orders-q8zsk", Value::Null)?;

    // It is back, with another certificate: what it had not told is told now.
    let api = Server::start(TcpListener::bind(address)?, &account, NODE)?;
    api.add(gateway.metadata());
    api.add(third.metadata());
    is_up(port, true)?;
    is_named(run, &ns, "orders-q8zsk", &"orders".into())?;
    times_out(run, &ns, "back", "orders-q8zsk", "orders".into())?;
    for words in [
        "workloads keep the names",
        "the Kubernetes API answers again",
    ] {
        let told = run.agent()?.told(words);
        if told != 1 {
            run.problem(format!("the agent said {told} times: {words}"));
        }
    }
    for cell in ["listed", "replacement", "away", "unknown", "back"] {
        run.at_least(cell, run.wanted());
    }
    run.at_least("replaced", 1);
    run.hold((nginx, node, ns, api));
    run.hold([gateway, first, second, third]);
    Ok(())
}

/// The agent as a DaemonSet starts it, in a mount namespace of its own.
fn command(why502: &Path, log: &Path, account: &Path, api: &Server, port: u16) -> Command {
    let folders: [PathBuf; 2] = [log.to_owned(), account.to_owned()];
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
        ])
        .args(folders)
        .arg(why502)
        .args([
            "run",
            "--json",
            "--no-history",
            "--no-logs",
            "--privacy",
            "full",
        ])
        .args(["--source", "kernel", "--proxy", "nginx", "--node", NODE])
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .env("KUBERNETES_SERVICE_HOST", api.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", api.address().port().to_string());
    command
}

fn is_up(port: u16, up: bool) -> Result<()> {
    let line = format!("why502_kubernetes_up {}", u8::from(up));
    wait::until(&format!("the metric {line}"), PATIENCE, || {
        let metrics = prometheus::get(port, "/metrics");
        metrics.is_ok_and(|(_, text)| text.lines().any(|one| one == line))
    })
    .context("the agent beside the Kubernetes API")
}

/// The agent looks for new pods among the node's files, and for what the API has told of, once a second;
/// nothing but a verdict shows that it has.
fn is_named(run: &mut Run, ns: &NetNs, pod: &str, workload: &Value) -> Result<()> {
    let meanwhile = Expect::apart("meanwhile", &[504]);
    let began = Instant::now();
    loop {
        let request = Request::get(run.path("/hold")).query("do=hold");
        let path = request.path.clone();
        let request = run.expecting(request, &meanwhile);
        Front::Plain.burst(run, ns, vec![(Duration::ZERO, request)])?;
        let of_it = |line: &Value| line["request"]["path"].as_str() == Some(path.as_str());
        let agent = run.agent()?;
        wait::until("a verdict until it is named", PATIENCE, || {
            agent.count_where(of_it) > 0
        })?;
        let named = |line: &Value| {
            let upstream = &line["upstream"];
            of_it(line) && upstream["pod"] == pod && upstream["workload"] == *workload
        };
        if agent.count_where(named) > 0 {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "{pod} of {workload} is not named within {} s",
            PATIENCE.as_secs()
        );
    }
}

/// A verdict that names both ends.
fn named(
    cell: &'static str,
    statuses: &'static [u16],
    cause: &'static str,
    pod: &str,
    workload: Value,
) -> Expect {
    Expect::verdict(cell, statuses, cause)
        .with(Check::Equals("/proxy/namespace", "shop".into()))
        .with(Check::Equals("/proxy/pod", "gateway-8xt2z".into()))
        .with(Check::Equals("/proxy/workload", "gateway".into()))
        .with(Check::Equals("/upstream/namespace", "shop".into()))
        .with(Check::Equals("/upstream/pod", pod.into()))
        .with(Check::Equals("/upstream/workload", workload))
}

/// Requests that are read and not answered in time.
fn times_out(run: &Run, ns: &NetNs, cell: &'static str, pod: &str, workload: Value) -> Result<()> {
    let expect = named(cell, &[504], "read_timeout_no_reply", pod, workload);
    let requests = (0..run.wanted() as u32).map(|number| {
        let request = Request::get(run.path("/hold")).query("do=hold");
        let request = run.expecting(request, &expect);
        (number * Duration::from_millis(20), request)
    });
    let requests = requests.collect();
    Front::Plain.burst(run, ns, requests)?;
    Ok(())
}
