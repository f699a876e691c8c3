//! The upstreams that the demo breaks: real gunicorn and Node.js, with small applications.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::process::{Process, until};
use crate::shell;

const START: Duration = Duration::from_secs(15);

/// Does what the path asks for, and says in its log when it has read a request.
const PYTHON: &str = r#"
import os, socket, time

def log(text):
    # In one write: four workers share the file.
    os.write(1, f"{time.time():.6f} {os.getpid()} {text}\n".encode())

def app(environ, start_response):
    path = environ["PATH_INFO"]
    log("read " + path)
    what = path.rsplit("/", 1)[-1].split("-")[0]
    if what == "sleep":
        time.sleep(float(os.environ["SECONDS"]))
    elif what == "spin":
        end = time.monotonic() + float(os.environ["SECONDS"])
        while time.monotonic() < end:
            pass
    elif what == "query":
        # A database that accepts the connection and never answers.
        database = socket.create_connection(("127.0.0.1", int(os.environ["DATABASE"])))
        database.sendall(b"SELECT 1")
        database.settimeout(float(os.environ["SECONDS"]))
        try:
            database.recv(1)
        except TimeoutError:
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
"#;

/// Answers at once, dies, or never answers, as the path asks.
const JAVASCRIPT: &str = r#"
const http = require('http');
const server = http.createServer((request, response) => {
  request.resume();
  request.on('end', () => {
    console.log(`${Date.now() / 1000} ${process.pid} read ${request.url}`);
    const what = request.url.split('/').pop().split('-')[0];
    if (what === 'exit') process.exit(1);
    else if (what === 'segv') process.kill(process.pid, 'SIGSEGV');
    // A little work, so that requests at the same time need connections of their own.
    else if (what !== 'hang') setTimeout(() => response.end('ok\n'), 100);
  });
});
server.keepAliveTimeout = Number(process.env.KEEP_ALIVE_MS);
server.listen(Number(process.env.PORT), '127.0.0.1');
"#;

/// An upstream that runs, and where its log is.
pub(crate) struct Upstream {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Upstream {
    /// Waits until a process of the application says that it has read the request; its pid.
    pub(crate) fn wait_until_read(&self, path: &str) -> Result<u32> {
        let mut reader = None;
        until(&format!("the application to read {path}"), START, || {
            reader = self.read(path);
            reader.is_some()
        })?;
        reader.map(|(_, pid)| pid).context("its pid")
    }

    /// When the application read the request and in which process, by its own log.
    pub(crate) fn read(&self, path: &str) -> Option<(SystemTime, u32)> {
        let text = fs::read_to_string(&self.log).ok()?;
        text.lines().find_map(|line| {
            let (head, what) = line.split_once(" read ")?;
            let (time, pid) = head.split_once(' ')?;
            let time = UNIX_EPOCH + Duration::from_secs_f64(time.parse().ok()?);
            (what == path).then_some((time, pid.parse().ok()?))
        })
    }
}

/// How gunicorn is to run.
pub(crate) struct Gunicorn<'a> {
    pub(crate) name: &'a str,
    pub(crate) workers: u32,
    pub(crate) options: &'a [&'a str],
    /// How long a slow request takes.
    pub(crate) seconds: f64,
    pub(crate) database: u16,
}

/// Writes an application unless it is there: another server's worker may just be loading it.
fn provide(file: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// gunicorn with synchronous workers on a Unix socket.
pub(crate) fn gunicorn(folder: &Path, how: &Gunicorn) -> Result<Upstream> {
    provide(&folder.join("app.py"), PYTHON)?;
    let socket = socket(folder, how.name);
    let log = folder.join(format!("{}.log", how.name));
    let mut command = shell::command("gunicorn");
    command
        .current_dir(folder)
        .env("SECONDS", how.seconds.to_string())
        .env("DATABASE", how.database.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["--workers", &how.workers.to_string(), "--bind"])
        .arg(format!("unix:{}", socket.display()))
        .args(how.options)
        .arg("app:app");
    println!(
        "   $ {}",
        shell::line(&command).replace(&format!("{}/", folder.display()), "")
    );
    let process = start(how.name, &mut command, &log)?;
    let upstream = Upstream { process, log };
    until("gunicorn to listen", START, || {
        UnixStream::connect(&socket).is_ok()
    })?;
    // Its workers load the application after the arbiter listens.
    until("gunicorn's workers", START, || {
        fs::read_to_string(&upstream.log)
            .is_ok_and(|text| text.matches("Booting worker").count() >= how.workers as usize)
    })?;
    Ok(upstream)
}

pub(crate) fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

/// Node.js's own HTTP server.
pub(crate) fn node(folder: &Path, name: &str, port: u16, keep_alive: Duration) -> Result<Upstream> {
    provide(&folder.join("server.js"), JAVASCRIPT)?;
    let log = folder.join(format!("{name}.log"));
    let mut command = shell::command("node");
    command
        .current_dir(folder)
        .env("PORT", port.to_string())
        .env("KEEP_ALIVE_MS", keep_alive.as_millis().to_string())
        .arg("server.js");
    let process = start(name, &mut command, &log)?;
    let upstream = Upstream { process, log };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("Node.js to listen", START, || {
        TcpStream::connect(address).is_ok()
    })?;
    Ok(upstream)
}

/// A database whose connections are accepted and never answered.
pub(crate) fn silent_database() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

fn start(name: &str, command: &mut std::process::Command, log: &Path) -> Result<Process> {
    let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    Process::start(name, command)
}
