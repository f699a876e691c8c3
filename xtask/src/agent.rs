//! `why502 run` beside a proxy: its verdict lines and its metrics.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{Process, until};
use crate::{http, shell};

pub(crate) struct Agent {
    process: Process,
    lines: Arc<Mutex<Vec<Value>>>,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts it for one nginx, with its log in `folder`; `prepare` may change the command.
    pub(crate) fn start(
        program: &Path,
        folder: &Path,
        nginx: u32,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Agent> {
        let metrics = http::free_address()?;
        let log = folder.join("why502.log");
        let mut command = shell::command(&program.display().to_string());
        command
            // The kernel alone is what is shown.
            .args(["run", "--json", "--no-logs", "--privacy", "full"])
            .args([
                "--listen",
                &metrics.to_string(),
                "--pid",
                &nginx.to_string(),
            ])
            // Not among the host's own.
            .arg("--history")
            .arg(folder.join("history.db"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?);
        prepare(&mut command);
        let mut process = Process::start("why502", &mut command)?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = process
            .child()
            .stdout
            .take()
            .context("its standard output")?;
        let to = Arc::clone(&lines);
        let mut kept = fs::File::create(folder.join("why502.jsonl"))?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(kept, "{line}");
                let value = serde_json::from_str(&line)
                    .unwrap_or_else(|_| serde_json::json!({"type": "not_json", "text": line}));
                to.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(value);
            }
        });
        let mut agent = Agent {
            process,
            lines,
            metrics,
        };
        let ready = until("why502 to be ready", Duration::from_secs(20), || {
            agent.process.ended().is_some()
                || http::request(metrics, "GET", "/readyz").status == 200
        });
        if let Some(status) = agent.process.ended() {
            bail!("why502 ended with {status}:\n{}", tail(&log));
        }
        ready.with_context(|| tail(&log))?;
        Ok(agent)
    }

    /// How many lines there are now; `since` reads on from there.
    pub(crate) fn mark(&self) -> usize {
        self.lock().len()
    }

    /// The lines of one act, when as many failures are labelled as the client saw, or when they
    /// have had their time.
    pub(crate) fn since(&self, mark: usize, failures: usize) -> Vec<Value> {
        let read = || self.lock()[mark..].to_vec();
        // A verdict waits at most 250 ms for a later fact; the rest is for a busy machine. Too
        // few is for the story to report.
        let _ = until("the verdicts", Duration::from_secs(5), || {
            labelled(&read()) >= failures
        });
        read()
    }

    /// What Prometheus would scrape.
    pub(crate) fn metrics(&self) -> String {
        http::request(self.metrics, "GET", "/metrics").body
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The CPU time that all its threads have had, in user and kernel mode.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut ns = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))?.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            ns += text
                .split(' ')
                .next()
                .and_then(|ns| ns.parse::<f64>().ok())
                .unwrap_or(0.0);
        }
        Ok(ns / 1e9)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.metrics
    }

    /// Stops it as a service manager would.
    pub(crate) fn stop(self) -> Result<()> {
        let status = self.process.stop()?;
        if !status.success() {
            bail!("why502 ended with {status}");
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many failures the lines account for: `run` writes a line for each up to a rate, then one
/// with the count of the rest.
pub(crate) fn labelled(lines: &[Value]) -> usize {
    lines.iter().map(weight).sum()
}

/// How many failed responses a line stands for.
pub(crate) fn weight(line: &Value) -> usize {
    match line["type"].as_str() {
        Some("verdict") => 1,
        Some("suppressed") if line["of"] == "verdict" => line["count"]
            .as_u64()
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0),
        _ => 0,
    }
}

fn tail(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
