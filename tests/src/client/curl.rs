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

/// What is spoken in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// Sends all requests at once over HTTP/2, as many on a connection as the proxy allows.
pub fn together(
    ns: &NetNs,
    to: SocketAddr,
    ledger: &Arc<Ledger>,
    folder: &Path,
    requests: &[Request],
) -> Result<Vec<Sent>> {
    let config = folder.join(format!("curl-{}.conf", monotonic_ns()));
    std::fs::write(&config, config_text(to, Http::Two, requests))?;
    talk(
        ns,
        &config,
        &["--parallel", "--parallel-max", "300"],
        ledger,
        requests,
    )
}

/// Sends one request after the other, each on a connection of its own: HAProxy leaves one that fails on a
/// connection that was used before to the client, which tries again.
pub fn in_turn(
    ns: &NetNs,
    to: SocketAddr,
    http: Http,
    ledger: &Arc<Ledger>,
    folder: &Path,
    requests: &[Request],
) -> Result<()> {
    for request in requests {
        let config = folder.join(format!("curl-{}.conf", monotonic_ns()));
        let request = std::slice::from_ref(request);
        std::fs::write(&config, config_text(to, http, request))?;
        talk(ns, &config, &[], ledger, request)?;
    }
    Ok(())
}

fn talk(
    ns: &NetNs,
    config: &Path,
    options: &[&str],
    ledger: &Arc<Ledger>,
    requests: &[Request],
) -> Result<Vec<Sent>> {
    let began = monotonic_ns();
    let output = ns
        .outside("curl")
        .args(options)
        .args(["--silent", "--config"])
        .arg(config)
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

fn config_text(to: SocketAddr, http: Http, requests: &[Request]) -> String {
    let version = match http {
        Http::One => "http1.1",
        Http::Two => "http2",
    };
    let mut text = String::new();
    for (number, request) in requests.iter().enumerate() {
        if number > 0 {
            text += "next\n";
        }
        let _ = write!(
            text,
            "url = \"https://{to}{}\"\noutput = \"/dev/null\"\n{version}\ninsecure\nrequest = \"{}\"\n\
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
