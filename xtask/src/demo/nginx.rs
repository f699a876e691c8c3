//! The demo's nginx: one master, one worker, a location per upstream.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::{self, Process, until};
use crate::{http, shell};

pub(crate) struct Nginx {
    process: Process,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

/// Where nginx finds its upstreams.
pub(crate) struct Upstreams {
    pub(crate) shop: PathBuf,
    pub(crate) orders: u16,
    pub(crate) payments: u16,
    pub(crate) model: PathBuf,
    pub(crate) strict: PathBuf,
    pub(crate) patient: PathBuf,
}

impl Nginx {
    pub(crate) fn start(folder: &Path, upstreams: &Upstreams) -> Result<Nginx> {
        let address = http::free_address()?;
        let file = folder.join("nginx.conf");
        let log = folder.join("nginx-error.log");
        fs::write(&file, configuration(folder, address, upstreams))?;
        let mut command = shell::command("nginx");
        command
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(&log);
        command.stdin(Stdio::null());
        let process = Process::start("nginx", &mut command)?;
        let nginx = Nginx {
            process,
            address,
            log,
        };
        until("nginx to answer", Duration::from_secs(10), || {
            http::request(address, "GET", "/alive").status == 200
        })?;
        Ok(nginx)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.process.stop().map(drop)
    }

    /// The one worker of the master.
    pub(crate) fn worker(&self) -> Result<u32> {
        process::descendants(self.pid())?
            .first()
            .map(|worker| worker.pid)
            .context("nginx has no worker")
    }

    /// How long the error log is now; `complaints` reads on from there.
    pub(crate) fn mark(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |file| file.len())
    }

    /// What nginx says, without times, addresses and names: each kind of line once, with its
    /// count, in the order of appearance.
    pub(crate) fn complaints(&self, since: u64) -> Vec<(String, usize)> {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(since)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for text in String::from_utf8_lossy(&bytes[from..])
            .lines()
            .filter_map(complaint)
        {
            match kinds.iter_mut().find(|(kind, _)| *kind == text) {
                Some((_, count)) => *count += 1,
                None => kinds.push((text, 1)),
            }
        }
        kinds
    }
}

/// `2026/11/20 13:48:24 [error] 9#9: *7 MESSAGE, client: …` → `MESSAGE`, with a socket's path cut
/// to its name.
fn complaint(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(": *")?;
    let (_, message) = rest.split_once(' ')?;
    let message = message.split(", client:").next()?;
    let mut words = Vec::new();
    for word in message.split(' ') {
        match word
            .strip_prefix("unix:")
            .and_then(|path| path.rsplit_once('/'))
        {
            Some((_, name)) => words.push(format!("unix:…/{name}")),
            None => words.push(word.to_owned()),
        }
    }
    Some(words.join(" "))
}

fn configuration(folder: &Path, address: SocketAddr, upstreams: &Upstreams) -> String {
    let Upstreams {
        shop,
        orders,
        payments,
        model,
        strict,
        patient,
    } = upstreams;
    // Started by root, workers would run as an account that may not reach the sockets.
    let user = if shell::is_root() { "user root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    format!(
        r#"# Written by `cargo xtask demo`.
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
{temporary}
    proxy_http_version 1.1;
    proxy_set_header Connection "";

    upstream shop     {{ server unix:{shop}; }}
    upstream orders   {{ server 127.0.0.1:{orders}; keepalive 16; keepalive_timeout 60s; }}
    upstream payments {{ server 127.0.0.1:{payments}; keepalive 16; keepalive_timeout 60s; }}
    upstream model    {{ server unix:{model}; }}
    upstream strict   {{ server unix:{strict}; }}
    upstream patient  {{ server unix:{patient}; }}

    server {{
        listen {address} backlog=1024;
        keepalive_timeout 60s;
        location /alive         {{ return 200 "alive\n"; }}
        location /shop/         {{ proxy_pass http://shop;     proxy_read_timeout 10s; }}
        location /orders/       {{ proxy_pass http://orders;   proxy_read_timeout 10s; }}
        location /payments/     {{ proxy_pass http://payments; proxy_read_timeout 10s; }}
        location /invocations/  {{ proxy_pass http://model;    proxy_read_timeout 3s; }}
        location /strict/       {{ proxy_pass http://strict;   proxy_read_timeout 10s; }}
        location /patient/      {{ proxy_pass http://patient;  proxy_read_timeout 2s; }}
    }}
}}
"#,
        folder = folder.display(),
        shop = shop.display(),
        model = model.display(),
        strict = strict.display(),
        patient = patient.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_what_nginx_says_without_when_and_who() {
        let line = "2026/11/20 13:48:24 [error] 9197#9197: *7 connect() to unix:/tmp/d/shop.sock \
                    failed (11: Resource temporarily unavailable) while connecting to upstream, \
                    client: 127.0.0.1, server: , request: \"GET / HTTP/1.1\"";
        assert_eq!(
            complaint(line).unwrap(),
            "connect() to unix:…/shop.sock failed (11: Resource temporarily unavailable) while \
             connecting to upstream"
        );
        assert_eq!(
            complaint("2026/11/20 13:48:24 [notice] 9#9: signal process started"),
            None
        );
    }
}
