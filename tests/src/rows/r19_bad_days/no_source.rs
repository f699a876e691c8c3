//! Nothing may be watched: `run` stays, is not ready, says why, and ends when it is told to.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Result;

use crate::agent::Capture;
use crate::prometheus::{free_port, get};
use crate::run::{Run, START};
use crate::wait;

const NOBODY: u32 = 65534;

pub(super) fn run(run: &mut Run) -> Result<()> {
    // Where nobody may start it.
    let program = run.folder.join("why502");
    std::fs::copy(run.why502()?, &program)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let port = free_port()?;
    for source in ["auto", "packets"] {
        let mut command = Command::new(&program);
        command.args([
            "run",
            "--no-history",
            "--json",
            "--source",
            source,
            "--listen",
        ]);
        command.arg(format!("127.0.0.1:{port}"));
        command.uid(NOBODY).gid(NOBODY);
        let daemon = Capture::launch(command, &run.out.join(source))?;
        let mut why = String::new();
        wait::until("the reason in /readyz", START, || {
            match get(port, "/readyz") {
                Ok((503, body)) => {
                    why = body;
                    why.contains("capture on any: ") && why.contains("cap_net_raw")
                }
                _ => false,
            }
        })?;
        wait::until("the warning", START, || {
            daemon.told("nothing is watched yet") > 0
        })?;
        let (health, _) = get(port, "/healthz")?;
        let (_, metrics) = get(port, "/metrics")?;
        let down = metrics.contains("why502_source_up{source=\"packets\"} 0\n");
        if health != 200 || !down || daemon.told("nothing is watched yet") != 1 {
            run.problem(format!(
                "{source}: healthz {health}, source down {down}, {why}"
            ));
        }
        let daemon = daemon.end(libc::SIGTERM)?;
        if daemon.exit != 0 || daemon.summary().is_err() {
            run.problem(format!(
                "{source}: status {}, {:?}",
                daemon.exit, daemon.messages
            ));
        }
    }
    Ok(())
}
