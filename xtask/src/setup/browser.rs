//! A browser for the report's test and picture: Debian's Chromium, driven by playwright-core.
//!
//! Nothing else needs it, so a machine that cannot have it is told so and goes on without.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::{apt, node};
use crate::shell;

const PACKAGE: &str = "chromium";
const DRIVER: &str = "playwright-core";
const DRIVER_VERSION: &str = "1.65.1";

/// What the report's scripts are given.
pub(crate) struct Browser {
    pub(crate) chromium: PathBuf,
    /// The folder with the driver in its `node_modules`.
    pub(crate) driver: PathBuf,
}

/// The browser, or why there is none.
pub(crate) fn find() -> Result<Browser> {
    let Some(chromium) = shell::find(PACKAGE) else {
        bail!("there is no {PACKAGE}");
    };
    if !driver_present() {
        bail!("there is no {DRIVER} {DRIVER_VERSION}");
    }
    Ok(Browser {
        chromium,
        driver: folder(),
    })
}

pub(super) fn missing() -> Vec<String> {
    let package = shell::find(PACKAGE)
        .is_none()
        .then(|| format!("package {PACKAGE}"));
    let driver = (!driver_present()).then(|| format!("{DRIVER} (target/tools/browser)"));
    package.into_iter().chain(driver).collect()
}

/// Never fails: what cannot be installed is said, and again by the test that is then skipped.
pub(super) fn install() {
    if find().is_ok() {
        return;
    }
    if let Err(error) = install_both() {
        println!("setup: no browser, so the report's test in it will be skipped: {error:#}");
    }
}

fn install_both() -> Result<()> {
    if shell::find(PACKAGE).is_none() {
        apt::install(&[PACKAGE])?;
    }
    if driver_present() {
        return Ok(());
    }
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = node::npm().context("there is no npm")?;
    // Its scripts would fetch browsers of its own.
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--save-exact", &format!("{DRIVER}@{DRIVER_VERSION}")])
        .current_dir(&folder);
    shell::run(&mut npm)
}

fn driver_present() -> bool {
    let manifest = folder()
        .join("node_modules")
        .join(DRIVER)
        .join("package.json");
    fs::read_to_string(manifest)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .is_some_and(|manifest| manifest["version"] == DRIVER_VERSION)
}

fn folder() -> PathBuf {
    shell::tools().join("browser")
}
