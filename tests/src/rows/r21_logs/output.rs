//! Logs that are no files of the proxy's: what its container writes, and what its service sends to the
//! journal. Behind TLS no other source has the status.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::of_log;
use crate::agent::Capture;
use crate::cgroup::Cgroup;
use crate::client::Request;
use crate::container::Engine;
use crate::expect::Expect;
use crate::journal::Journal;
use crate::netns::NetNs;
use crate::rows::front::{Front, PLAIN_PORT};
use crate::run::Run;
use crate::software::{Gunicorn, Haproxy, Nginx};
use crate::wait;

/// From one failure to the next: a verdict waits three quarters of a second for lines of a journal.
const APART: Duration = Duration::from_secs(1);
/// What the agent says of a log that it knows.
const KNOWN: &str = "access log, format combined";

fn http(run: &Run, errors: &str, access: &str) -> Result<String> {
    Ok(format!(
        "error_log {errors}; server {{ {} access_log {access} combined;
         location /fine {{ return 200; }}
         location /refused {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::TlsHttp2.listen(run)?,
    ))
}

pub(super) fn of_container(run: &mut Run) -> Result<()> {
    let engine = Arc::new(Engine::new(&run.folder.join("containers"), &[&run.folder])?);
    let ns = NetNs::contained(&engine, "proxy")?;
    let http = http(run, "stderr", "/dev/stdout")?;
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    refused(run, &ns, engine.pid("proxy")?)?;
    run.hold((nginx, ns));
    run.hold(engine);
    Ok(())
}

pub(super) fn of_service(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let journal = Journal::start(run)?;
    let service = Cgroup::of_service(&format!("why502-lab-{}.service", std::process::id()))?;
    let to = format!(
        "syslog:server=unix:{},nohostname",
        journal.syslog().display()
    );
    let http = http(run, &to, &to)?;
    let nginx = Nginx::start_in(run, &ns, &service, 1, PLAIN_PORT, &http)?;
    refused(run, &ns, nginx.pid())?;
    run.hold((nginx, ns, journal));
    run.hold(service);
    Ok(())
}

/// nginx sends its lines to why502 itself, which listens for them.
pub(super) fn of_datagrams(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = run.folder.join("log.sock");
    let to = format!("syslog:server=unix:{},nohostname", socket.display());
    let http = http(run, &to, &to)?;
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    let named = format!("syslog:{}", socket.display());
    run.add_proxy(nginx.pid())?;
    let agent = agent(run, nginx.pid(), &["--log", &named])?;
    fine(run, &ns)?;
    fail(run, &ns, agent)?;
    run.hold((nginx, ns));
    Ok(())
}

/// HAProxy's too, which writes to syslog alone: why it failed what it never sent nothing else knows.
pub(super) fn of_haproxy(run: &mut Run) -> Result<()> {
    const APP: &str = "127.0.0.1:9000";
    let ns = NetNs::new()?;
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", APP, 2, &[])?;
    let socket = run.folder.join("log.sock");
    let one = format!("{APP} maxconn 1");
    let haproxy = Haproxy::start_logging(run, &ns, PLAIN_PORT, &one, "300ms", &socket)?;
    run.add_proxy(haproxy.pid())?;
    let named = format!("syslog:{}", socket.display());
    let agent = agent(run, haproxy.pid(), &["--log", &named])?;
    run.watched_by(agent);
    let queued = Expect::verdict("queued", &[503], "proxy_queue_timeout");
    for _ in 0..run.wanted() {
        let busy = Request::get(run.path("/busy")).query("do=sleep&ms=1000");
        let waits = run.expecting(Request::get(run.path("/waits")), &queued);
        let both = vec![(Duration::ZERO, busy), (Duration::from_millis(100), waits)];
        Front::Plain.burst(run, &ns, both)?;
    }
    run.at_least("queued", run.wanted());
    run.hold((haproxy, gunicorn, ns));
    Ok(())
}

fn refused(run: &mut Run, ns: &NetNs, proxy: u32) -> Result<()> {
    run.add_proxy(proxy)?;
    fine(run, ns)?;
    let agent = agent(run, proxy, &[])?;
    fail(run, ns, agent)
}

/// Has a line written by which the log is known.
fn fine(run: &Run, ns: &NetNs) -> Result<()> {
    let fine = Request::get(run.path("/fine"));
    let fine = run.expecting(fine, &Expect::healthy("fine", &[200]));
    Front::TlsHttp2.burst(run, ns, vec![(Duration::ZERO, fine)])?;
    Ok(())
}

fn agent(run: &Run, proxy: u32, more: &[&str]) -> Result<Capture> {
    let mut command = Command::new(run.why502()?);
    command.args(["capture", "--for", "600s", "--json", "--source", "kernel"]);
    command.args(["--verbose", "--pid", &proxy.to_string()]);
    command.args(more);
    let mut agent = Capture::launch(command, &run.out.join("agent"))?;
    agent.wait_ready()?;
    Ok(agent)
}

fn fail(run: &mut Run, ns: &NetNs, agent: Capture) -> Result<()> {
    wait::until("the log's format", Duration::from_secs(10), || {
        agent.told(KNOWN) > 0
    })?;
    run.watched_by(agent);
    let refused = Expect::verdict("refused", &[502], "connection_refused").variant("no_listener");
    let refused = of_log(refused);
    let requests = (0..run.wanted() as u32)
        .map(|number| {
            let request = Request::get(run.path("/refused"));
            (number * APART, run.expecting(request, &refused))
        })
        .collect();
    Front::TlsHttp2.burst(run, ns, requests)?;
    run.at_least("refused", run.wanted());
    Ok(())
}
