//! The client side in TLS and HTTP/2: curl does the talking, its outcomes go into the ledger.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::client::Request;
use crate::ledger::{Ledger, Sent};
use crate::netns::NetNs;
use crate::wait::monotonic_ns;

/// Sends all requests at once over HTTP/2, as many on a connection as the proxy allows.
pub fn together(
    ns: &NetNs,
    to: SocketAddr,
    ledger: &Arc<Ledger>,
    folder: &Path,
    requests: &[Request],
) -> Result<Vec<Sent>> {
    let config = folder.join(format!("curl-{}.conf", monotonic_ns()));
    std::fs::write(&config, config_text(to, requests))?;
    let began = monotonic_ns();
    let output = ns
        .outside("curl")
        .args([
            "--parallel",
            "--parallel-max",
            "300",
            "--silent",
            "--config",
        ])
        .arg(&config)
        .stderr(Stdio::null())
        .output()
        .context("run curl")?;
    let ended = monotonic_ns();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut all = Vec::new();
    for request in requests {
        // One line per transfer: status, seconds, URL.
        let line = text.lines().find_map(|line| {
            let mut words = line.split(' ');
            let status: u16 = words.next()?.parse().ok()?;
            let seconds: f64 = words.next()?.parse().ok()?;
            words
                .next()?
                .contains(&request.path)
                .then_some((status, seconds))
        });
        let sent = Sent {
            method: request.method,
            path: request.path.clone(),
            query: request.query.clone(),
            client: None,
            status: line.map(|(status, _)| status).filter(|status| *status > 0),
            error: line.is_none().then(|| "curl reported nothing".to_owned()),
            began,
            ended: line.map_or(ended, |(_, seconds)| began + (seconds * 1e9) as u64),
        };
        ledger.record(sent.clone());
        all.push(sent);
    }
    Ok(all)
}

fn config_text(to: SocketAddr, requests: &[Request]) -> String {
    let mut text = String::new();
    for (number, request) in requests.iter().enumerate() {
        if number > 0 {
            text += "next\n";
        }
        let _ = write!(
            text,
            "url = \"https://{to}{}\"\noutput = \"/dev/null\"\nhttp2\ninsecure\nrequest = \"{}\"\n\
             write-out = \"%{{http_code}} %{{time_total}} %{{url_effective}}\\n\"\nmax-time = 90\n",
            request.target(),
            request.method,
        );
        if request.body > 0 {
            let _ = writeln!(text, "data = \"{}\"", "x".repeat(request.body));
        }
    }
    text
}

/// Whether this curl can do it.
pub fn speaks_http2() -> bool {
    std::process::Command::new("curl")
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2"))
}
