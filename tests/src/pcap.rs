//! The truth about TCP races: a tcpdump in the proxy's namespace, judged by `apps/races.py`, which
//! shares no code with why502.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::netns::NetNs;
use crate::process::Proc;
use crate::wait::epoch_seconds;

const SCRIPT: &str = include_str!("../apps/races.py");

pub struct Dump {
    proc: Proc,
    file: PathBuf,
    port: u16,
}

/// What the script says about one request on one connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    pub path: String,
    pub judgement: String,
    pub reused: bool,
    /// Seconds from the connection's last response byte to the request.
    pub idle: Option<f64>,
    /// When the upstream's kernel had the whole request, in seconds of the epoch.
    pub acknowledged_at: Option<f64>,
    /// More than one: the upstream never took note of the handshake's last ACK.
    pub syn_acks: u32,
}

impl Seen {
    /// The upstream's kernel had the request at this monotonic time. The proxy's FIN is no measure:
    /// it waits behind data that nobody acknowledges.
    pub fn acknowledged_by(&self, monotonic_ns: u64) -> bool {
        self.acknowledged_at
            .is_some_and(|at| at <= epoch_seconds(monotonic_ns))
    }

    /// The connection ended before the upstream could read the request.
    pub fn raced(&self) -> bool {
        matches!(
            self.judgement.as_str(),
            "fin_in_flight" | "fin_already_received" | "half_close" | "reset_after_acknowledgement"
        )
    }
}

impl Dump {
    /// Captures packets from and to this port.
    pub fn start(ns: &NetNs, interface: &str, port: u16, folder: &Path) -> Result<Dump> {
        let file = folder.join(format!("packets-{port}.pcap"));
        let mut command = ns.command("tcpdump");
        command
            .args([
                "-i",
                interface,
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
            ])
            .args(["-s", "256", "-B", "8192", "-w"])
            .arg(&file)
            .arg(format!("tcp port {port}"));
        let log = folder.join(format!("tcpdump-{port}.log"));
        let mut proc = Proc::spawn("tcpdump", command, &log)?;
        proc.wait_ready("tcpdump", Duration::from_secs(10), || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        })?;
        Ok(Dump { proc, file, port })
    }

    /// Ends the capture and judges every request in it.
    pub fn judge(mut self) -> Result<Vec<Seen>> {
        self.proc.signal(libc::SIGTERM);
        self.proc.wait_exit(Duration::from_secs(10))?;
        self.so_far()
    }

    /// Judges what has been written until now.
    pub fn so_far(&self) -> Result<Vec<Seen>> {
        let output = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(&self.file)
            .arg(self.port.to_string())
            .output()
            .context("run python3")?;
        if !output.status.success() {
            bail!("races.py: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).context("a line of races.py"))
            .collect()
    }

    pub fn file(&self) -> &Path {
        &self.file
    }
}
