//! A real Prometheus that scrapes a real `why502 run`: what the counters have to agree with.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, Proc};
use crate::wait;

const UP: Duration = Duration::from_secs(30);

pub struct Watched {
    prometheus_port: u16,
    agent_port: u16,
    _prometheus: Proc,
    _agent: Proc,
    before: BTreeMap<String, f64>,
}

/// A port on which nobody listens now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Watched {
    /// Starts both and notes the counters' values.
    pub fn start(why502: &Path, folder: &Path) -> Result<Watched> {
        let (agent_port, prometheus_port) = (free_port()?, free_port()?);
        let mut command = Command::new(why502);
        command.args([
            "run",
            "--no-history",
            "--json",
            "--no-logs",
            "--proxy",
            "nginx",
            "--listen",
        ]);
        command.arg(format!("127.0.0.1:{agent_port}"));
        let mut agent = Proc::spawn("why502 run", command, &folder.join("why502-run.log"))?;
        agent.wait_ready("why502's /readyz", UP, || {
            get(agent_port, "/readyz").is_ok_and(|(status, _)| status == 200)
        })?;

        let config = folder.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\nscrape_configs:\n\
                 \x20 - job_name: why502\n    static_configs:\n\
                 \x20     - targets: ['127.0.0.1:{agent_port}']\n"
            ),
        )?;
        let program = process::program("prometheus").context("no prometheus")?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus_port}"));
        let log = folder.join("prometheus.log");
        let mut prometheus = Proc::spawn("prometheus", command, &log)?;
        prometheus.wait_ready("prometheus's first scrape", UP, || {
            query(prometheus_port, "up == 1").is_ok_and(|series| !series.is_empty())
        })?;
        let mut watched = Watched {
            prometheus_port,
            agent_port,
            _prometheus: prometheus,
            _agent: agent,
            before: BTreeMap::new(),
        };
        watched.before = watched.counters()?;
        Ok(watched)
    }

    /// `why502_failed_responses_total` of nginx by `status cause`, as Prometheus has it.
    fn counters(&self) -> Result<BTreeMap<String, f64>> {
        let series = query(
            self.prometheus_port,
            "sum by (status, cause) (why502_failed_responses_total{proxy=\"nginx\"})",
        )?;
        Ok(series
            .into_iter()
            .map(|(labels, value)| {
                let word = |name: &str| labels[name].as_str().unwrap_or("").to_owned();
                (format!("{} {}", word("status"), word("cause")), value)
            })
            .collect())
    }

    /// The increase since the start, per status and cause, once it is `wanted` or time is over.
    pub fn increase(&self, wanted: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>> {
        let mut seen = BTreeMap::new();
        let _ = wait::until("the counters", Duration::from_secs(5), || {
            if let Ok(now) = self.counters() {
                seen = now
                    .into_iter()
                    .map(|(key, value)| {
                        let before = self.before.get(&key).copied().unwrap_or(0.0);
                        (key, (value - before).round() as u64)
                    })
                    .filter(|(_, increase)| *increase > 0)
                    .collect();
            }
            seen == *wanted
        });
        Ok(seen)
    }

    /// One value of the agent's own metrics, the largest if several series match.
    pub fn metric(&self, name: &str, label: &str) -> Result<Option<f64>> {
        let (_, text) = get(self.agent_port, "/metrics")?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .reduce(f64::max))
    }
}

fn query(port: u16, expression: &str) -> Result<Vec<(Value, f64)>> {
    let encoded: String = expression
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let (_, body) = get(port, &format!("/api/v1/query?query={encoded}"))?;
    let answer: Value = serde_json::from_str(&body)?;
    let result = answer["data"]["result"].as_array().context("no result")?;
    Ok(result
        .iter()
        .filter_map(|series| {
            let value = series["value"][1].as_str()?.parse().ok()?;
            Some((series["metric"].clone(), value))
        })
        .collect())
}

/// What is served there: status and body.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("no response head")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.context("no status")?, body.to_owned()))
}
