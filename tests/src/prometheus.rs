//! A real Prometheus, one for the whole run, that scrapes a real `why502 run` beside each scenario:
//! what the counters have to agree with. A newer one beside it is asked for what dashboards and rules
//! ask for, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::Capture;
use crate::collector::Collector;
use crate::judge;
use crate::ledger::Ledger;
use crate::panels::{Panels, RULES};
use crate::process::{self, Proc};
use crate::wait;

const UP: Duration = Duration::from_secs(30);
/// Longer than anything that a verdict waits for.
const SETTLED: Duration = Duration::from_secs(5);

/// The server. It takes some seconds until its first scrape, so there is one for all scenarios, and
/// every agent serves its metrics where it looks.
pub struct Prometheus {
    /// Whose counters count.
    port: u16,
    agents_port: u16,
    collector: Collector,
    servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

/// The programs, the system's first.
const PROGRAMS: [&str; 2] = ["prometheus", "prometheus-3"];

struct Server {
    version: String,
    port: u16,
    panels: Mutex<Panels>,
    _proc: Proc,
}

impl Server {
    fn start(program: &Path, folder: &Path, config: &Path) -> Result<Server> {
        std::fs::create_dir_all(folder)?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut proc = Proc::spawn("prometheus", command, &folder.join("prometheus.log"))?;
        // Its first scrape comes while the first scenario's software starts.
        proc.wait_ready("prometheus's /-/ready", UP, || {
            get(port, "/-/ready").is_ok_and(|(status, _)| status == 200)
        })?;
        let (_, said) = get(port, "/api/v1/status/buildinfo")?;
        let said: Value = serde_json::from_str(&said)?;
        let version = said["data"]["version"].as_str().unwrap_or_default();
        Ok(Server {
            version: version.to_owned(),
            port,
            panels: Mutex::new(Panels::load()?),
            _proc: proc,
        })
    }

    /// Asks what the dashboards and rules ask.
    fn ask_panels(&self) -> Result<()> {
        let (_, rules) = get(self.port, "/api/v1/rules")?;
        let mut panels = self.panels.lock().expect("the panels");
        panels.add_rules(&serde_json::from_str(&rules)?)?;
        panels.ask(|expression| query(self.port, expression))
    }
}

/// An agent beside one scenario, and how its counters stood at the start.
pub struct Watched {
    prometheus: Arc<Prometheus>,
    agent: Capture,
    /// On the monotonic clock, in nanoseconds.
    began: u64,
    before: Counters,
}

/// What the counters say, or have grown by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By `status cause`.
    pub failed: BTreeMap<String, u64>,
    /// By cause.
    pub near_misses: BTreeMap<String, u64>,
}

/// A port on which nobody listens now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A port that stays free between one agent and the next: no connect is given it.
fn lasting_port() -> Result<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first = range.split_whitespace().next().and_then(|n| n.parse().ok());
    let first: u16 = first.context("the first port of ip_local_port_range")?;
    (1024..first)
        .rev()
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port below ip_local_port_range")
}

impl Prometheus {
    pub fn start() -> Result<Prometheus> {
        let folder = crate::keeper::temporary()?;
        let agents_port = lasting_port()?;
        let config = folder.path().join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n\
                 \x20 evaluation_interval: 1s\nrule_files: ['{RULES}']\nscrape_configs:\n\
                 \x20 - job_name: why502\n    static_configs:\n\
                 \x20     - targets: ['127.0.0.1:{agents_port}']\n"
            ),
        )?;
        let servers = PROGRAMS.iter().filter_map(|name| {
            let program = process::program(name)?;
            Some(Server::start(&program, &folder.path().join(name), &config))
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let first = servers.first().context("prometheus is not installed")?;
        Ok(Prometheus {
            port: first.port,
            agents_port,
            collector: Collector::start()?,
            servers,
            _folder: folder,
        })
    }

    /// Starts an agent where Prometheus looks for it.
    pub fn watch(self: &Arc<Prometheus>, why502: &Path, folder: &Path) -> Result<Starting> {
        let mut command = Command::new(why502);
        command
            .args(["run", "--json", "--privacy", "full"])
            .args(["--no-logs", "--source", "kernel", "--proxy", "nginx"])
            // For what its dashboard shows of them.
            .args(["--otlp", &self.collector.url()])
            .arg("--history")
            .arg(folder.join("history.db"))
            .args(["--listen", &format!("127.0.0.1:{}", self.agents_port)]);
        Ok(Starting {
            prometheus: self.clone(),
            agent: Capture::launch(command, folder)?,
        })
    }

    /// Waits until what Prometheus has is from now or later.
    fn scraped_anew(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let age = "min(timestamp(why502_build_info))";
        wait::until("a scrape by Prometheus", UP, || {
            let newest = query(self.port, age).unwrap_or_default();
            newest.iter().any(|(_, at)| *at >= now.as_secs_f64())
        })
    }

    /// Whether all queries of dashboards and rules have returned data in some scenario, in each
    /// version.
    pub fn panels(&self) -> impl Iterator<Item = (&str, Result<String, String>)> {
        let result = |server: &Server| server.panels.lock().expect("the panels").result();
        let servers = self.servers.iter();
        servers.map(move |server| (server.version.as_str(), result(server)))
    }

    /// The programs that were not there.
    pub fn lacking() -> impl Iterator<Item = &'static str> {
        let lacks = |name: &&'static str| process::program(name).is_none();
        PROGRAMS.into_iter().filter(lacks)
    }

    /// What is counted of nginx's responses and attempts, as Prometheus has it.
    fn counters(&self) -> Result<Counters> {
        let sum = |by: &str, name: &str| {
            let series = query(
                self.port,
                &format!("sum by ({by}) ({name}{{proxy=\"nginx\"}}) > 0"),
            )?;
            let word = |labels: &Value, name: &str| labels[name].as_str().map(str::to_owned);
            let key = |labels: Value| {
                let words = ["status", "cause"].map(|name| word(&labels, name));
                words.into_iter().flatten().collect::<Vec<_>>().join(" ")
            };
            let counts = series.into_iter();
            anyhow::Ok(counts.map(|(labels, n)| (key(labels), n as u64)).collect())
        };
        Ok(Counters {
            failed: sum("status, cause", "why502_failed_responses_total")?,
            near_misses: sum("cause", "why502_near_misses_total")?,
        })
    }
}

/// An agent that may not see yet.
pub struct Starting {
    prometheus: Arc<Prometheus>,
    agent: Capture,
}

impl Starting {
    /// Waits until the agent sees, and Prometheus sees the agent.
    pub fn wait_ready(mut self) -> Result<Watched> {
        self.agent.wait_ready()?;
        self.prometheus.scraped_anew()?;
        Ok(Watched {
            before: self.prometheus.counters()?,
            prometheus: self.prometheus,
            agent: self.agent,
            began: wait::monotonic_ns(),
        })
    }
}

impl Watched {
    /// The increase since the start, without what the agent says about other proxies of this host,
    /// once `enough` or time is over.
    pub fn increase(
        &self,
        ledger: &Ledger,
        proxies: &BTreeSet<u32>,
        enough: impl Fn(&Counters) -> bool,
    ) -> Result<Counters> {
        // Nothing that was said until now is missed.
        self.prometheus.scraped_anew()?;
        let mut seen = Counters::default();
        let mut failure = None;
        let _ = wait::until("the counters", SETTLED, || {
            match self.prometheus.counters() {
                Ok(now) => seen = now.without(&self.before),
                Err(error) => failure = Some(error),
            }
            seen =
                std::mem::take(&mut seen).without(&foreign(&self.agent.lines(), ledger, proxies));
            failure.is_some() || enough(&seen)
        });
        for server in &self.prometheus.servers {
            server
                .ask_panels()
                .with_context(|| format!("Prometheus {}", server.version))?;
        }
        failure.map_or(Ok(seen), Err)
    }

    pub fn began(&self) -> u64 {
        self.began
    }

    /// The highest value that was scraped of it since the agent began.
    pub fn highest(&self, name: &str, label: &str) -> Result<Option<f64>> {
        self.prometheus.scraped_anew()?;
        let seconds = (wait::monotonic_ns() - self.began).div_ceil(1_000_000_000);
        let series = query(
            self.prometheus.port,
            &format!("max_over_time({name}[{seconds}s])"),
        )?;
        let named = |labels: &Value| labels["socket"].as_str() == Some(label);
        let found = series.into_iter().filter(|(labels, _)| named(labels));
        Ok(found.map(|(_, value)| value).reduce(f64::max))
    }

    /// One value of the agent's own metrics, the largest if several series match.
    pub fn metric(&self, name: &str, label: &str) -> Result<Option<f64>> {
        let (_, text) = get(self.prometheus.agents_port, "/metrics")?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .reduce(f64::max))
    }
}

impl Counters {
    fn without(self, less: &Counters) -> Counters {
        let subtract = |from: BTreeMap<String, u64>, less: &BTreeMap<String, u64>| {
            let left = |(key, count): (String, u64)| {
                let less = less.get(&key).copied().unwrap_or(0);
                (count > less).then(|| (key, count - less))
            };
            from.into_iter().filter_map(left).collect()
        };
        Counters {
            failed: subtract(self.failed, &less.failed),
            near_misses: subtract(self.near_misses, &less.near_misses),
        }
    }
}

/// What the agent itself said about proxies that are not of this scenario.
fn foreign(lines: &[Value], ledger: &Ledger, proxies: &BTreeSet<u32>) -> Counters {
    let mut counted = Counters::default();
    for line in lines {
        if judge::is_ours(line, ledger, proxies) {
            continue;
        }
        let cause = line["cause"].as_str().unwrap_or_default().to_owned();
        let (counts, key) = match line["type"].as_str() {
            Some("verdict") => {
                let status = line["status"].as_u64();
                let status = status.map_or("unknown".to_owned(), |status| status.to_string());
                (&mut counted.failed, format!("{status} {cause}"))
            }
            Some("near_miss") => (&mut counted.near_misses, cause),
            _ => continue,
        };
        *counts.entry(key).or_default() += 1;
    }
    counted
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{Counters, foreign};
    use crate::ledger::Ledger;

    #[test]
    fn what_other_proxies_did_is_taken_off() {
        let ledger = Ledger::new("t");
        let line = |kind: &str, path: &str, pid: u32| {
            json!({"type": kind, "status": 502, "cause": "worker_killed",
                   "request": {"path": path}, "proxy": {"pid": pid}})
        };
        let lines = [
            line("verdict", &ledger.path("/x"), 1),
            line("verdict", "/else", 7),
            line("verdict", "/else", 1),
            line("near_miss", "/else", 1),
            line("suppressed", "/else", 1),
        ];
        let others = foreign(&lines, &ledger, &BTreeSet::from([7]));
        let counters = |failed, near| Counters {
            failed: [("502 worker_killed".to_owned(), failed)].into(),
            near_misses: [("worker_killed".to_owned(), near)].into(),
        };
        assert_eq!(others, counters(1, 1));
        let left = counters(3, 1).without(&others);
        assert_eq!(left.failed, counters(2, 0).failed);
        assert!(left.near_misses.is_empty());
    }
}
