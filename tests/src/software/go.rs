//! The lab's own Go programs, built once for each run of the lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// The program of this name, after which its process is called, of one source file below `out`.
pub fn go_program(out: &Path, name: &'static str, source: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().expect("the building of Go programs");
    if let Some(program) = built.get(name) {
        return Ok(program.clone());
    }
    let folder = out.join("go");
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let file = folder.join(format!("{name}.go"));
    std::fs::write(&file, source)?;
    let program = folder.join(name);
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(&file)
        .env("GO111MODULE", "off")
        .env("GOCACHE", folder.join("cache"))
        .output()
        .context("run go")?;
    if !output.status.success() {
        bail!("go build: {}", String::from_utf8_lossy(&output.stderr));
    }
    built.insert(name, program.clone());
    Ok(program)
}
