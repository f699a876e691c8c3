//! The report in a real browser: its test, and the README's picture of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::browser::{self, Browser};
use crate::{build, shell};

/// `cargo xtask picture`
pub(crate) fn picture() -> Result<()> {
    let program = build::run(&build::Args { release: true })?;
    let picture = shell::root().join("docs/images/report.png");
    let folder = picture.parent().context("a folder for the picture")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut script = script("picture.mjs", &browser::find()?, &program)?;
    shell::run(script.env("PICTURE", &picture))?;
    println!("{}", picture.display());
    Ok(())
}

/// The test; it prints how many of its checks passed.
pub(crate) fn test(browser: &Browser, program: &Path) -> Result<Command> {
    script("report.mjs", browser, program)
}

fn script(name: &str, browser: &Browser, program: &Path) -> Result<Command> {
    let out = shell::target().join("browser");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let mut node = shell::command("node");
    node.arg(Path::new("xtask/browser").join(name))
        .env("WHY502", program)
        .env("CHROMIUM", &browser.chromium)
        .env("PLAYWRIGHT", &browser.driver)
        .env("STREAMS", shell::root().join("tests/streams"))
        .env("CAPTURES", shell::root().join("tests/captures"))
        .env("OUT", out);
    Ok(node)
}
