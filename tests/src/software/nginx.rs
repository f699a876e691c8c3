//! nginx: a master, its workers as `nobody`, and what its error log says per request.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::process::{self, Proc};
use crate::run::{Run, START};

pub struct Nginx {
    proc: Proc,
    error_log: PathBuf,
}

impl Nginx {
    /// Starts it with `http` as the body of the `http` block; ready when it serves on `port`.
    pub fn start(run: &Run, ns: &NetNs, workers: u32, port: u16, http: &str) -> Result<Nginx> {
        Nginx::start_named(run, ns, "nginx", workers, port, http)
    }

    pub fn start_named(
        run: &Run,
        ns: &NetNs,
        name: &str,
        workers: u32,
        port: u16,
        http: &str,
    ) -> Result<Nginx> {
        Nginx::spawn(run, ns.command("nginx"), ns, name, workers, port, http)
    }

    /// All its processes are in the group from the beginning: the master listens before it has a worker.
    pub fn start_in(
        run: &Run,
        ns: &NetNs,
        group: &Cgroup,
        workers: u32,
        port: u16,
        http: &str,
    ) -> Result<Nginx> {
        let mut command = ns.command("nginx");
        group.starts(&mut command)?;
        Nginx::spawn(run, command, ns, "nginx", workers, port, http)
    }

    /// nginx from another file, after which its processes are named.
    pub fn start_program(
        run: &Run,
        ns: &NetNs,
        program: &Path,
        workers: u32,
        port: u16,
        http: &str,
    ) -> Result<Nginx> {
        let command = ns.command(program);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        Nginx::spawn(run, command, ns, &name, workers, port, http)
    }

    fn spawn(
        run: &Run,
        mut command: Command,
        ns: &NetNs,
        name: &str,
        workers: u32,
        port: u16,
        http: &str,
    ) -> Result<Nginx> {
        let folder = &run.folder;
        let prefix = folder.join(format!("{name}-prefix"));
        std::fs::create_dir_all(&prefix)?;
        let error_log = folder.join(format!("{name}-error.log"));
        let config = folder.join(format!("{name}.conf"));
        std::fs::write(
            &config,
            config_text(workers, &prefix, &error_log, folder, name, http),
        )?;
        command.arg("-p").arg(&prefix).arg("-c").arg(&config);
        command.arg("-e").arg(&error_log);
        let mut proc = Proc::spawn("nginx", command, &folder.join(format!("{name}.log")))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        proc.wait_ready("nginx's port", START, || {
            ns.enter(|| Ok(TcpStream::connect(address)?)).is_ok()
        })?;
        Ok(Nginx { proc, error_log })
    }

    /// Stops it at once, its connections with it.
    pub fn stop(&mut self) -> Result<()> {
        self.proc.signal(libc::SIGTERM);
        self.proc.wait_exit(START).map(|_| ())
    }

    /// The master's.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn workers(&self) -> Vec<u32> {
        process::children(self.proc.pid())
    }

    /// The worker of an nginx that has one.
    pub fn worker(&self) -> Result<u32> {
        match self.workers()[..] {
            [worker] => Ok(worker),
            ref workers => bail!("{} workers, not one", workers.len()),
        }
    }

    pub fn reload(&self) {
        self.proc.signal(libc::SIGHUP);
    }

    /// Has it open its logs anew, by name.
    pub fn reopen_logs(&self) {
        self.proc.signal(libc::SIGUSR1);
    }

    pub fn error_log(&self) -> &Path {
        &self.error_log
    }

    /// What the error log says about each request's path, in order.
    pub fn errors(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let text = std::fs::read(&self.error_log).context("read nginx's error log")?;
        let mut errors: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((message, rest)) = line.split_once(", client: ") else {
                continue;
            };
            let path = rest
                .split_once("request: \"")
                .and_then(|(_, request)| request.split(' ').nth(1))
                .and_then(|target| target.split('?').next());
            if let Some(path) = path {
                let list = errors.entry(path.to_owned()).or_default();
                list.push(message.to_owned());
            }
        }
        Ok(errors)
    }
}

fn config_text(
    workers: u32,
    prefix: &Path,
    error_log: &Path,
    folder: &Path,
    name: &str,
    http: &str,
) -> String {
    let (prefix, error_log) = (prefix.display(), error_log.display());
    let access_log = folder.join(format!("{name}-access.log"));
    let access_log = access_log.display();
    format!(
        "daemon off;
user nobody nogroup;
worker_processes {workers};
worker_rlimit_nofile 8192;
pid {prefix}/nginx.pid;
error_log {error_log} info;
events {{ worker_connections 4096; }}
http {{
  log_format lab '$msec $request $status us=$upstream_status ua=$upstream_addr '
    'ubs=$upstream_bytes_sent ubr=$upstream_bytes_received uct=$upstream_connect_time rt=$request_time';
  access_log {access_log} lab;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  default_type text/plain;
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  keepalive_requests 1000000;
{http}
}}
"
    )
}
