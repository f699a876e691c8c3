//! Row 27: what each probe costs, by the kernel's own statistics (`BPF_ENABLE_STATS`): how often it runs for a
//! request, and how long. `cargo xtask vm --record` puts it into `docs/kernels.md`.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::NGINX;
use super::front::{Front, PLAIN_PORT, plain};
use crate::bpf::{self, Statistics};
use crate::client::{Conn, Request};
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;

const APP: &str = "127.0.0.1:9000";
/// Of each kind: over a pool to TCP, to a Unix socket without one, to a port where nobody listens.
const REQUESTS: usize = 200;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 27,
        name: "probe-costs",
        needs: &[NGINX, Need::Agent],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = format!("unix:{}", run.folder.join("app.sock").display());
    let tcp = Scripted::start(run, &ns, "tcp", APP, Mode::Answer, 128)?;
    let unix = Scripted::start(run, &ns, "unix", &socket, Mode::Answer, 128)?;
    let http = format!(
        "upstream pool {{ server {APP}; keepalive 4; }}
         server {{ {}
           location /tcp {{ proxy_pass http://pool; }}
           location /unix {{ proxy_pass http://{socket}; }}
           location /refused {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let agent = run.agent()?.pid();

    let statistics = Statistics::enable()?;
    let before = bpf::programs(agent)?;
    let refused = Expect::verdict("refused", &[502], "connection_refused").variant("no_listener");
    ns.traffic(async || {
        let mut conn = Conn::open(plain(), &run.ledger).await?;
        for folder in ["/tcp", "/unix", "/refused"] {
            for _ in 0..REQUESTS {
                let request = Request::get(run.path(folder));
                if folder == "/refused" {
                    run.ledger.expect(&request.path, refused.clone());
                }
                conn.send(&request).await;
            }
        }
        Ok(())
    })?;
    let after = bpf::programs(agent)?;
    drop(statistics);
    run.at_least("refused", REQUESTS);

    let mut costs = Vec::new();
    for (name, now) in &after {
        let then = before.get(name).context("a program that is new")?;
        let runs = now.runs - then.runs;
        if runs > 0 {
            costs.push(json!({
                "program": name,
                "per_request": runs as f64 / (3 * REQUESTS) as f64,
                "ns": (now.ns - then.ns) as f64 / runs as f64,
            }));
        }
    }
    // At least reads, writes and connects.
    ensure!(costs.len() > 2, "of {after:?} only {costs:?} ran");
    let total: f64 = costs
        .iter()
        .filter_map(|cost| Some(cost["per_request"].as_f64()? * cost["ns"].as_f64()?))
        .sum();
    run.note(format!("{} probes, {total:.0} ns a request", costs.len()));
    let path = run.out.join("costs.json");
    std::fs::write(&path, serde_json::to_string_pretty(&costs)?)
        .with_context(|| format!("write {}", path.display()))?;
    run.hold((nginx, tcp, unix, ns));
    Ok(())
}
