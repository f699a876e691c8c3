//! The load of the measurements: nginx before nginx on loopback, and wrk.
//!
//! The proxy has a core to itself where there are two, so that what the probes cost it shows in
//! the throughput and is not taken from idle time.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process::{self, Process, until};
use crate::{http, shell};

/// One in so many requests meets an upstream that refuses the connection.
pub(crate) const FAIL_EVERY: u32 = 1000;
const CONNECTIONS: &str = "32";

/// How the proxy reaches its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Over pooled connections.
    KeepAlive,
    /// Over a new connection per request.
    Fresh,
}

impl Mode {
    pub(crate) const ALL: [Mode; 2] = [Mode::KeepAlive, Mode::Fresh];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::KeepAlive => "kept-alive upstream connections",
            Mode::Fresh => "a new upstream connection per request",
        }
    }

    pub(crate) fn key(self) -> &'static str {
        match self {
            Mode::KeepAlive => "keep_alive",
            Mode::Fresh => "fresh",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Mode::KeepAlive => "/pooled",
            Mode::Fresh => "/fresh",
        }
    }
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as they are answered.
    Saturated,
    /// Each connection pauses between them: some 100,000 packets a second on loopback.
    Steady,
}

impl Pace {
    /// Between an answer and the next request of its connection.
    fn pause_ms(self) -> u32 {
        match self {
            Pace::Saturated => 0,
            Pace::Steady => 1,
        }
    }
}

/// The proxy and its upstream.
pub(crate) struct Site {
    folder: PathBuf,
    proxy: Process,
    _upstream: Process,
    pub(crate) address: SocketAddr,
    cores: usize,
}

/// What one run of wrk saw.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Run {
    pub(crate) requests: f64,
    us: f64,
    /// Sockets that could not connect, read or write, and requests without an answer in time.
    broken: f64,
    pub(crate) p50_us: f64,
    pub(crate) p999_us: f64,
    /// Of the proxy's worker.
    #[serde(skip)]
    pub(crate) cpu_seconds: f64,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.requests / self.seconds()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.us / 1e6
    }
}

impl Site {
    /// `closing` reads requests and closes without an answer.
    pub(crate) fn start(folder: &Path, closing: SocketAddr) -> Result<Site> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (address, upstream) = (http::free_address()?, http::free_address()?);
        let refusing = http::free_address()?;
        fs::write(folder.join("wrk.lua"), WRK)?;
        let upstream_process = nginx(
            folder,
            "upstream",
            &format!(
                "    keepalive_requests 1000000000;\n    server {{ listen {upstream} backlog=4096; \
                 location / {{ return 200 \"{}\\n\"; }} }}",
                "x".repeat(127)
            ),
            (cores > 1).then_some("10"),
        )?;
        let proxy = nginx(
            folder,
            "proxy",
            &proxy_servers(folder, address, upstream, refusing, closing),
            (cores > 1).then_some("01"),
        )?;
        let site = Site {
            folder: folder.to_owned(),
            proxy,
            _upstream: upstream_process,
            address,
            cores,
        };
        for mode in Mode::ALL {
            until("nginx to answer", Duration::from_secs(10), || {
                http::request(address, "GET", mode.path()).status == 200
            })?;
        }
        Ok(site)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.proxy.pid()
    }

    fn worker(&self) -> Result<u32> {
        let workers = process::descendants(self.pid())?;
        Ok(workers.first().context("nginx has no worker")?.pid)
    }

    /// How many responses of the kind that is to be labelled nginx has logged itself. wrk does
    /// not count those that were on their way when it ended.
    pub(crate) fn failures(&self) -> usize {
        fs::read_to_string(self.folder.join("failed.log")).map_or(0, |text| text.lines().count())
    }

    /// Sends requests for a while.
    pub(crate) fn run(&self, mode: Mode, pace: Pace, time: Duration) -> Result<Run> {
        let mut wrk = if self.cores > 1 {
            let mut taskset = shell::command("taskset");
            taskset.args(["-c", "1", "wrk"]);
            taskset
        } else {
            shell::command("wrk")
        };
        wrk.args(["--threads", "1", "--connections", CONNECTIONS])
            .args(["--duration", &format!("{}s", time.as_secs().max(1))])
            .arg("--script")
            .arg(self.folder.join("wrk.lua"))
            .arg(format!("http://{}", self.address))
            .env("GOOD", mode.path())
            .env("FAIL_EVERY", FAIL_EVERY.to_string())
            .env("PAUSE_MS", pace.pause_ms().to_string())
            .stdin(Stdio::null());
        let worker = self.worker()?;
        let before = cpu_seconds(worker)?;
        let output = wrk.output().context("start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with("{\"requests\""));
        let Some(line) = line else {
            bail!(
                "wrk gave no result: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let mut run: Run = serde_json::from_str(line).context("read wrk's result")?;
        run.cpu_seconds = cpu_seconds(worker)? - before;
        if run.broken > 0.0 {
            bail!("{} of wrk's requests got no answer", run.broken);
        }
        Ok(run)
    }
}

/// The time that the first thread of a process has had on a CPU: all of an nginx worker's.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let ns: f64 = text
        .split(' ')
        .next()
        .context("an empty schedstat")?
        .parse()?;
    Ok(ns / 1e9)
}

fn nginx(folder: &Path, name: &str, http: &str, mask: Option<&str>) -> Result<Process> {
    let user = if shell::is_root() { "user root;" } else { "" };
    let affinity = mask.map_or(String::new(), |mask| format!("worker_cpu_affinity {mask};"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{name}-{kind};\n", folder.display()))
        .concat();
    let text = format!(
        "# Written by `cargo xtask bench`.\n{user}\ndaemon off;\nworker_processes 1;\n{affinity}\n\
         pid {folder}/{name}.pid;\nerror_log {folder}/{name}-error.log crit;\n\
         worker_rlimit_nofile 1024;\nevents {{ worker_connections 900; }}\n\
         http {{\n    access_log off;\n{temporary}{http}\n}}\n",
        folder = folder.display()
    );
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, text)?;
    let mut command = shell::command("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file);
    command
        .arg("-e")
        .arg(folder.join(format!("{name}-error.log")))
        .stdin(Stdio::null());
    Process::start(name, &mut command)
}

fn proxy_servers(
    folder: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    refusing: SocketAddr,
    closing: SocketAddr,
) -> String {
    let folder = folder.display();
    format!(
        r#"    keepalive_requests 1000000000;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    log_format status "$status";
    upstream pooled {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {address} backlog=4096;
        location /pooled {{ proxy_pass http://pooled; }}
        location /fresh  {{ proxy_pass http://{upstream}; proxy_set_header Connection close; }}
        location /fail   {{ proxy_pass http://{refusing}; access_log {folder}/failed.log status; }}
        location /close  {{ proxy_pass http://{closing}; access_log {folder}/failed.log status; }}
    }}"#
    )
}

/// What wrk sends, and how it says what came back.
const WRK: &str = r#"
local count, good, bad = 0, nil, nil
local every = tonumber(os.getenv("FAIL_EVERY"))
function init(args)
  good = wrk.format("GET", os.getenv("GOOD"))
  bad = wrk.format("GET", "/fail")
end
function request()
  count = count + 1
  if count % every == 0 then return bad end
  return good
end
local pause = tonumber(os.getenv("PAUSE_MS"))
if pause > 0 then
  function delay() return pause end
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"us":%d,"broken":%d,"p50_us":%d,"p999_us":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99.9)))
end
"#;
