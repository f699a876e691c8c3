//! HAProxy: the tier in front, and a proxy that calls abstract sockets.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::Result;

use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Run, START};

pub struct Haproxy {
    proc: Proc,
}

impl Haproxy {
    /// Passes `port` on to `to` (`IP:port`, `abns@name`, with options) without trying again and waits `server_timeout` for its answers.
    pub fn start(
        run: &Run,
        ns: &NetNs,
        port: u16,
        to: &str,
        server_timeout: &str,
    ) -> Result<Haproxy> {
        Haproxy::start_with(run, ns, port, &[("/", to)], server_timeout)
    }

    /// The same, as load balancers do it: any client's request is sent on any idle connection.
    pub fn start_sharing(run: &Run, ns: &NetNs, port: u16, to: &str) -> Result<Haproxy> {
        let more = "  timeout server 10s\n  http-reuse always\n";
        Haproxy::start_as(run, ns, port, &[("/", to)], more)
    }

    /// The same with a queue of so long, and its log sent to this socket.
    pub fn start_logging(
        run: &Run,
        ns: &NetNs,
        port: u16,
        to: &str,
        queue: &str,
        socket: &Path,
    ) -> Result<Haproxy> {
        let more = format!(
            "  timeout server 10s\n  timeout queue {queue}\n  option httplog\n  log {} local0\n",
            socket.display()
        );
        Haproxy::start_as(run, ns, port, &[("/", to)], &more)
    }

    /// The same for several servers, chosen by the beginning of the path; of two with a comma between,
    /// the second is tried after the first.
    pub fn start_with(
        run: &Run,
        ns: &NetNs,
        port: u16,
        servers: &[(&str, &str)],
        server_timeout: &str,
    ) -> Result<Haproxy> {
        let more = format!("  timeout server {server_timeout}\n");
        Haproxy::start_as(run, ns, port, servers, &more)
    }

    fn start_as(
        run: &Run,
        ns: &NetNs,
        port: u16,
        servers: &[(&str, &str)],
        more: &str,
    ) -> Result<Haproxy> {
        let config = run.folder.join("haproxy.cfg");
        let mut text = format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  retries 0\n  timeout connect 2s\n  \
             timeout client 30s\n{more}frontend front\n  bind 127.0.0.1:{port}\n"
        );
        for (number, (folder, _)) in servers.iter().enumerate() {
            text += &format!("  use_backend back{number} if {{ path_beg {folder} }}\n");
        }
        for (number, (_, to)) in servers.iter().enumerate() {
            text += &format!("backend back{number}\n");
            match to.split_once(',') {
                // Tries the first, and then the next.
                Some((first, next)) => {
                    text += &format!(
                        "  retries 1\n  option redispatch 1\n  balance first\n  \
                         server first {first}\n  server next {next}\n"
                    );
                }
                None => text += &format!("  server inner {to}\n"),
            }
        }
        std::fs::write(&config, text)?;
        let mut command = ns.command("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        let mut proc = Proc::spawn("haproxy", command, &run.folder.join("haproxy.log"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        proc.wait_ready("haproxy's port", START, || {
            ns.enter(|| Ok(TcpStream::connect(address)?)).is_ok()
        })?;
        Ok(Haproxy { proc })
    }

    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }
}
