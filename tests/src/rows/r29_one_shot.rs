//! Row 29: one pod's proxy watched from its node, once: `capture --pod NAMESPACE/NAME`, as in
//! `kubectl debug node/…`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use crate::agent::Capture;
use crate::cgroup::Cgroup;
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::keeper::{self, Made};
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::Nginx;
use crate::wait;

const NAMESPACE: &str = "why502-lab";
/// As a Deployment names it: its workload is known without an API.
const POD: &str = "gateway-66b6c48dd5-7xk2p";
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 29,
        name: "one-shot",
        needs: &[NGINX, Need::Agent, Need::Controller("cpu")],
        run,
    }]
}

/// A pod's folder of logs where the node's kubelet has them: an agent in a container sees no other
/// place. What was not there before is gone when dropped.
struct Logs(Vec<PathBuf>);

impl Logs {
    fn of_pod(uid: &str) -> Result<Logs> {
        let folder = Path::new("/var/log/pods").join(format!("{NAMESPACE}_{POD}_{uid}/nginx"));
        let missing = folder.ancestors().take_while(|path| !path.exists());
        let logs = Logs(missing.map(Path::to_owned).collect());
        // The pod's own, and then what is around it.
        keeper::note(Made::Folder, &folder)?;
        for folder in &logs.0 {
            keeper::note(Made::Empty, folder)?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(logs)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Others may have put something in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn run(run: &mut Run) -> Result<()> {
    // Of this lab alone: another's pod would be found by the same.
    let uid = format!("40934a46-d409-4f4a-bb8b-{:012}", std::process::id());
    let logs = Logs::of_pod(&uid)?;
    let group = Cgroup::of_pod(&uid, &"29".repeat(32))?;
    let (pod_ns, outside_ns) = (NetNs::new()?, NetNs::new()?);
    let closed = format!(
        "server {{ {} location / {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::Plain.listen(run)?
    );
    let gateway = Nginx::start_in(run, &pod_ns, &group, 1, PLAIN_PORT, &closed)?;
    let outside = Nginx::start_named(run, &outside_ns, "outside", 1, PLAIN_PORT, &closed)?;
    run.add_proxy(gateway.pid())?;
    let mut command = Command::new(run.why502()?);
    command
        .args(["capture", "--pod", &format!("{NAMESPACE}/{POD}")])
        .args(["--for", "60s", "--json", "--privacy", "full"]);
    let agent = Capture::launch(command, &run.out.join("agent"))?;
    run.watched_by(agent);
    run.agent_mut()?.wait_ready()?;

    let of_pod = Expect::verdict("pod", &[502], "connection_refused")
        .variant("no_listener")
        .with(Check::Equals("/proxy/namespace", NAMESPACE.into()))
        .with(Check::Equals("/proxy/pod", POD.into()))
        .with(Check::Equals("/proxy/workload", "gateway".into()));
    // First those that are not to be told: by the last verdict they would have been.
    for (ns, expect) in [
        (&outside_ns, Expect::apart("outside", &[502])),
        (&pod_ns, of_pod),
    ] {
        let requests = (0..run.wanted() as u32).map(|number| {
            let request = run.expecting(Request::get(run.path("/closed")), &expect);
            (number * Duration::from_millis(300), request)
        });
        let requests = requests.collect();
        Front::Plain.burst(run, ns, requests)?;
        run.at_least(expect.cell, run.wanted());
    }
    let (agent, wanted) = (run.agent()?, run.wanted());
    wait::until("the pod's verdicts", PATIENCE, || {
        agent.count_where(|line| line["proxy"]["pod"] == POD) >= wanted
    })?;
    let others = agent.count_where(|line| line["proxy"]["pod"] != POD);
    if others > 0 {
        bail!("the agent of one pod said {others} lines about others");
    }
    run.hold((gateway, outside, pod_ns, outside_ns));
    run.hold((group, logs));
    Ok(())
}
