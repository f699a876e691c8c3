//! A newer Prometheus beside the system's: its next major version reads the same rules and dashboards.
//!
//! A machine that cannot have it is told so and goes on without; so does what asks for it, aloud.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::shell;
use crate::vm::apt::Apt;

/// A suite of Debian whose Prometheus is 3.
const SUITE: &str = "sid";
const MAJOR: &str = "3.";
/// There each program is a package of the same name. What it is called among this repository's tools, beside the system's of the same name.
pub(crate) const PROGRAMS: [(&str, &str); 2] =
    [("prometheus", "prometheus-3"), ("promtool", "promtool-3")];

pub(super) fn missing() -> Vec<String> {
    let missing = PROGRAMS
        .iter()
        .filter(|(_, name)| shell::find(name).is_none());
    missing.map(|(_, name)| (*name).to_owned()).collect()
}

/// Never fails: what cannot be had is said, and again by the tests that go without.
pub(super) fn install() {
    if missing().is_empty() {
        return;
    }
    println!("setup: unpacking a newer Prometheus for this repository alone");
    if let Err(error) = unpack() {
        println!("setup: no {}: {error:#}", PROGRAMS[0].1);
    }
}

fn unpack() -> Result<()> {
    let apt = Apt::new(&[SUITE], Default::default())?;
    let place = tempfile::tempdir()?;
    let bin = shell::tools().join("bin");
    fs::create_dir_all(&bin)?;
    for (program, name) in PROGRAMS {
        let mut extract = shell::command("dpkg-deb");
        extract.arg("-x").arg(apt.download(program)?);
        shell::run(extract.arg(place.path()))?;
        let found = place.path().join("usr/bin").join(program);
        let mut version = shell::command(&found.display().to_string());
        let said = shell::ask(version.arg("--version"))
            .with_context(|| format!("{SUITE}'s {program} does not start here"))?;
        let is = format!("version {MAJOR}");
        ensure!(said.contains(&is), "{SUITE}'s {program} says {said:?}");
        // Whole or not at all.
        let staged = bin.join(format!("{name}.new"));
        fs::copy(&found, &staged)?;
        fs::rename(&staged, bin.join(name))?;
    }
    Ok(())
}
