//! Go's `httputil.ReverseProxy`, which Traefik and others are made of, in a program of the lab's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::{Again, PORT, Proxy, program, serve};

/// Also the name of its process.
const NAME: &str = "goproxy";
const SOURCE: &str = include_str!("../../../apps/goproxy.go");

pub(super) const PROXY: Proxy = Proxy {
    name: "go",
    process: NAME,
    unix: true,
    // Only what its pool hides.
    again: Again::Never,
    // The stand-in has none of Traefik's.
    logs: &[],
    lacking: || program("go"),
    start: |run, ns, wanted| {
        let mut command = ns.command(built(&run.options.out)?);
        command
            .args(["-listen", &format!("127.0.0.1:{PORT}")])
            .args(["-connect", &format!("{}ms", wanted.connect.as_millis())])
            .args(["-patience", &format!("{}ms", wanted.patience.as_millis())])
            .env("GOMAXPROCS", wanted.workers.to_string());
        for route in &wanted.routes {
            command.arg(format!("{}={}", route.folder, route.to));
        }
        Ok(Box::new(serve(run, ns, NAME, command)?))
    },
};

/// The program, built once for each run of the lab.
fn built(out: &Path) -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().expect("the building of the Go proxy");
    if let Some(program) = &*built {
        return Ok(program.clone());
    }
    let folder = out.join("go");
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let source = folder.join("goproxy.go");
    std::fs::write(&source, SOURCE)?;
    let program = folder.join(NAME);
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(&source)
        .env("GO111MODULE", "off")
        .env("GOCACHE", folder.join("cache"))
        .output()
        .context("run go")?;
    if !output.status.success() {
        bail!("go build: {}", String::from_utf8_lossy(&output.stderr));
    }
    *built = Some(program.clone());
    Ok(program)
}
