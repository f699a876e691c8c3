//! A real Prometheus sees every failure as an increase, the first one included.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use why502::cause::Cause;
use why502::sinks::metrics::Metrics;
use why502::verdict::Kind;

use crate::{ask, nginx_seen, serve, verdict};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running Prometheus that scrapes five times a second.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(folder: &Path, target: SocketAddr) -> io::Result<Prometheus> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 200ms}}\n\
                 scrape_configs: [{{job_name: why502, static_configs: [{{targets: ['{target}']}}]}}]\n"
            ),
        )?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Prometheus { child, address })
    }

    /// The value of an instant query; `None` while there is none.
    fn query(&self, promql: &str) -> Option<f64> {
        // It may not listen yet.
        TcpStream::connect(self.address).ok()?;
        let encoded: String = promql.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = ask(self.address, &format!("GET /api/v1/query?query={encoded}"));
        // The value is the text after the time: {"value":[1795182504.1,"3"]}.
        let (_, value) = answer.split_once("\"value\":[")?;
        value.split('"').nth(1)?.parse().ok()
    }

    fn wait_for(&self, promql: &str, expected: f64) {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < PATIENCE {
            last = self.query(promql);
            if last == Some(expected) {
                return;
            }
            // The next scrape is what is waited for.
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{promql} is {last:?}, not {expected}");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_failure_is_an_increase() {
    let metrics = Arc::new(Metrics::new());
    let server = serve(Arc::clone(&metrics));
    let folder = tempfile::tempdir().unwrap();
    let prometheus = match Prometheus::start(folder.path(), server.address) {
        Ok(prometheus) => prometheus,
        Err(error) => {
            eprintln!("not checked with Prometheus: {error}");
            return;
        }
    };
    nginx_seen(&metrics, 1);
    prometheus.wait_for(
        "count(why502_failed_responses_total{status=\"502\"}) > bool 0",
        1.0,
    );

    // One where all was known before, then one of a status and an upstream that nobody knew.
    let known = verdict(
        Kind::Verdict,
        Some(502),
        Cause::KeepaliveRace,
        "10.0.0.1:80",
    );
    let strange = verdict(
        Kind::Verdict,
        Some(200),
        Cause::ConnectionRefused,
        "unix:/run/x",
    );
    for failure in [&known, &strange, &strange] {
        metrics.on_verdict(failure);
    }
    for (series, increase) in [
        (
            "why502_failed_responses_total{status=\"502\",cause=\"keepalive_race\"}",
            1.0,
        ),
        (
            "why502_failed_responses_total{status=\"200\",cause=\"connection_refused\"}",
            2.0,
        ),
        (
            "why502_upstream_failed_responses_total{cause=\"keepalive_race\"}",
            1.0,
        ),
        (
            "why502_upstream_failed_responses_total{cause=\"connection_refused\"}",
            2.0,
        ),
        (
            "why502_upstream_closes_total{how=\"fin\",phase=\"in_flight\",upstream=\"10.0.0.1:80\"}",
            1.0,
        ),
    ] {
        // `increase` extrapolates; between its first and last sample a counter grew by this.
        prometheus.wait_for(
            &format!("max_over_time({series}[5m]) - min_over_time({series}[5m])"),
            increase,
        );
        prometheus.wait_for(&format!("increase({series}[5m]) > bool 0"), 1.0);
    }
}
