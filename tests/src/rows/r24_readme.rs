//! Row 24: the README's way from nothing to a labelled 502 in Prometheus, its commands run in order.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::NGINX;
use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Need, Run, Scenario};
use crate::software::Nginx;
use crate::wait;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const HEADING: &str = "## To a labelled 502 in Prometheus";
/// So many commands may it take.
const MOST: usize = 6;
/// Prometheus starts, and scrapes every 5 s.
const SCRAPED: Duration = Duration::from_secs(30);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 24,
        name: "readme",
        needs: &[
            NGINX,
            Need::Program("prometheus"),
            Need::Program("promtool"),
            Need::Program("curl"),
        ],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let commands = commands()?;
    if commands.len() > MOST {
        run.problem(format!("{} commands, {MOST} at most", commands.len()));
    }
    let ns = NetNs::new()?;
    let http =
        "server { listen 127.0.0.1:80; location /broken { proxy_pass http://127.0.0.1:9; } }";
    let nginx = Nginx::start(run, &ns, 1, 80, http)?;

    // What the first builds is the program under test.
    let Some((first, others)) = commands.split_first() else {
        bail!("README: no command under {HEADING}");
    };
    if first != "cargo xtask build --release" {
        run.problem(format!("the first command is {first}"));
    }
    let mut said = String::new();
    let mut started = Vec::new();
    for (number, line) in others.iter().enumerate() {
        let name = format!("command-{number}");
        match line.strip_suffix('&') {
            Some(line) => started.push(begin(run, &ns, &name, line.trim_end())?),
            None if number + 1 < others.len() => said = done(run, &ns, line)?,
            // It shows what has been scraped.
            None => {
                let labelled = |text: &str| text.contains("cause=\"connection_refused\"");
                wait::until("a labelled 502 in Prometheus", SCRAPED, || {
                    said = done(run, &ns, line).unwrap_or_default();
                    labelled(&said)
                })
                .with_context(|| format!("{line} said {said:?}"))?;
            }
        }
    }
    if !said.contains("status=\"502\"") || !said.contains("proxy=\"nginx\"") {
        run.problem(format!("the last command said {said:?}"));
    }
    run.note(format!("{} commands", commands.len()));
    run.hold((started, nginx, ns));
    Ok(())
}

/// The commands of the block below the heading.
fn commands() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md"))?;
    let (_, section) = readme
        .split_once(HEADING)
        .with_context(|| format!("README: no heading {HEADING:?}"))?;
    let block = section.split("```").nth(1).context("README: no block")?;
    let lines = block
        .lines()
        .skip(1)
        .map(|line| match line.split_once(" # ") {
            Some((command, _)) => command.trim_end().to_owned(),
            None => line.trim_end().to_owned(),
        });
    Ok(lines.filter(|line| !line.is_empty()).collect())
}

/// The line as a user would type it in the repository, with nothing left on the host.
fn typed(run: &Run, ns: &NetNs, line: &str) -> Result<Command> {
    let why502 = run.why502()?.display().to_string();
    let line = line.replace("target/release/why502", &why502).replace(
        "target/prometheus",
        &run.folder.join("tsdb").display().to_string(),
    );
    let mut command = ns.command("unshare");
    let script = format!("mount -t tmpfs none /var/lib && {line}");
    command.args(["--mount", "bash", "-c", &script]);
    command.current_dir(ROOT);
    Ok(command)
}

/// Starts what the line leaves running; a later line waits until it is ready.
fn begin(run: &Run, ns: &NetNs, name: &str, line: &str) -> Result<Proc> {
    let log = run.folder.join(format!("{name}.log"));
    Proc::spawn(name, typed(run, ns, line)?, &log)
}

/// What the line prints.
fn done(run: &Run, ns: &NetNs, line: &str) -> Result<String> {
    let output = typed(run, ns, line)?.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{line}: {}: {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(said)
}
