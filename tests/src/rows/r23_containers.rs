//! Row 23: nginx, Node.js and gunicorn in containers of Podman, the two upstreams with the same inner
//! address behind translation, one called from an address that is masqueraded; and an agent that
//! watches the proxy of one container alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::agent::Capture;
use crate::client::Request;
use crate::container::Engine;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx, Node, node_program};

/// Where both upstreams listen, each in its own namespace.
const INNER: &str = "172.30.0.2";
const PORT: u16 = 9000;
/// The gateway's own, to which no upstream has a way back.
const MASQUERADED: &str = "10.60.9.9";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 23,
        name: "containers",
        needs: &[
            NGINX,
            GUNICORN,
            Need::Agent,
            Need::Program("iptables"),
            Need::Containers,
        ],
        run,
    }]
}

/// A namespace that the gateway reaches at an address of its own, translated to the inner one.
fn upstream(engine: &Arc<Engine>, gateway: &NetNs, name: &'static str, net: u8) -> Result<NetNs> {
    let ns = NetNs::contained(engine, name)?;
    gateway.join(&ns, net)?;
    ns.sh(&format!("ip addr add {INNER}/32 dev lo"))?;
    ns.sh(&format!(
        "iptables -t nat -A PREROUTING -p tcp --dport {PORT} -j DNAT --to-destination {INNER}:{PORT}"
    ))?;
    Ok(ns)
}

fn run(run: &mut Run) -> Result<()> {
    let me = std::env::current_exe()?;
    let programs = me.parent().context("the lab's folder")?.to_owned();
    let node = node_program()?;
    let node = node.parent().context("node's folder")?.to_owned();
    let storage = run.folder.join("containers");
    let engine = Arc::new(Engine::new(&storage, &[&run.folder, &programs, &node])?);
    let gateway = NetNs::contained(&engine, "gateway")?;
    let orders_ns = upstream(&engine, &gateway, "orders", 1)?;
    let invoices_ns = upstream(&engine, &gateway, "invoices", 2)?;
    let inner = format!("{INNER}:{PORT}");
    let orders = Node::start(run, &orders_ns, "orders", &inner, 60_000)?;
    let patient = ["--timeout", "600"];
    let invoices = Gunicorn::start(run, &invoices_ns, "invoices", &inner, 4, &patient)?;
    gateway.sh(&format!("ip addr add {MASQUERADED}/32 dev lo"))?;
    gateway.sh(&format!(
        "iptables -t nat -A POSTROUTING -s {MASQUERADED} -p tcp --dport {PORT} -j MASQUERADE"
    ))?;
    let location = |name: &str, net: u8, more: &str| {
        format!(
            "location /{name} {{ proxy_pass http://10.60.{net}.2:{PORT}; proxy_read_timeout 1s; {more} }}"
        )
    };
    let http = format!(
        "server {{ {} {} {} }}",
        Front::Plain.listen(run)?,
        location("orders", 1, ""),
        location("invoices", 2, &format!("proxy_bind {MASQUERADED};")),
    );
    let nginx = Nginx::start(run, &gateway, 1, PLAIN_PORT, &http)?;
    // Another one outside, with failures of its own.
    let outside_ns = NetNs::new()?;
    let closed = format!(
        "server {{ {} location /outside {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::Plain.listen(run)?
    );
    let outside = Nginx::start_named(run, &outside_ns, "outside", 1, PLAIN_PORT, &closed)?;
    run.watch(&[&outside])?;
    run.add_proxy(engine.pid("gateway")?)?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--container", "gateway"]);
    let mut one = Capture::launch(command, &run.out.join("one-container"))?;
    one.wait_ready()?;
    // One that starts while it is watched for is looked at as well.
    let late_ns = NetNs::new()?;
    let late = Nginx::start_named(run, &late_ns, "late", 1, PLAIN_PORT, &closed)?;
    run.add_proxy(late.pid())?;

    let timeout = |cell: &'static str| {
        Expect::verdict(cell, &[504], "read_timeout_no_reply")
            .with(Check::Equals("/upstream/container", cell.into()))
            .with(Check::Equals("/upstream/pod", Value::Null))
            .with(Check::Equals("/proxy/container", "gateway".into()))
    };
    let of_orders = timeout("orders");
    let from = Check::Says("/attempts/0/local", format!("{MASQUERADED}:"));
    let of_invoices = timeout("invoices").variant("sleeping").with(from);
    let of_outside = Expect::verdict("outside", &[502], "connection_refused")
        .variant("no_listener")
        .with(Check::Equals("/proxy/container", Value::Null));
    let mut requests = Vec::new();
    // No more at once than gunicorn has workers.
    for number in 0..run.wanted() as u64 {
        let at = Duration::from_millis(number * 500);
        let orders = Request::get(run.path("/orders")).query("do=hold");
        let invoices = Request::get(run.path("/invoices")).query("do=sleep&ms=1500");
        requests.push((at, run.expecting(orders, &of_orders)));
        requests.push((at, run.expecting(invoices, &of_invoices)));
    }
    Front::Plain.burst(run, &gateway, requests)?;
    for ns in [&outside_ns, &late_ns] {
        let requests = (0..run.wanted())
            .map(|number| {
                let request = Request::get(run.path("/outside"));
                let at = Duration::from_millis(number as u64 * 50);
                (at, run.expecting(request, &of_outside))
            })
            .collect();
        Front::Plain.burst(run, ns, requests)?;
    }
    for (cell, times) in [("orders", 1), ("invoices", 1), ("outside", 2)] {
        run.at_least(cell, times * run.wanted());
    }
    let wanted = 2 * run.wanted();
    let captured = one.finish(wanted, 0)?;
    let said: Vec<&Value> = captured
        .lines
        .iter()
        .filter(|line| line["type"] == "verdict")
        .collect();
    let others = said
        .iter()
        .filter(|line| line["proxy"]["container"] != json!("gateway"));
    if said.len() != wanted || others.count() > 0 {
        bail!(
            "the agent of one container gave {} verdicts, not {wanted} of its proxy's alone",
            said.len()
        );
    }
    run.hold((nginx, outside, late, orders, invoices));
    run.hold((gateway, orders_ns, invoices_ns, outside_ns, late_ns));
    run.hold(engine);
    Ok(())
}
