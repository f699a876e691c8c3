//! What a host or a cluster is given: the unit, as systemd reads it, and the manifests, as several
//! versions of Kubernetes do.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::count::Count;
use super::passes;
use crate::setup::wheel;
use crate::{process, shell};

const VALIDATE: &str = "kubernetes-validate==1.37.0";
/// `appArmorProfile` came with the first.
const VERSIONS: [&str; 3] = ["1.30", "1.33", "1.37"];
const MANIFESTS: [&str; 3] = ["base", "overlays/podmonitor", "overlays/restricted"];
/// What no Kubernetes knows by itself.
const CUSTOM: &str = "PodMonitor";
/// Tenths of `systemd-analyze security`'s exposure; it is 2.9.
const EXPOSURE: &str = "29";

/// Skipped, with the reason, where there is no systemd-analyze.
pub(super) fn unit(program: &Path) -> Result<Count> {
    if shell::find("systemd-analyze").is_none() {
        println!("skipped: the unit: there is no systemd-analyze");
        return Ok(Count::SKIPPED);
    }
    let folder = shell::target().join("unit");
    process::fresh_folder(&folder)?;
    let unit = fs::read_to_string(shell::root().join("deploy/why502.service"))?;
    let here = unit.replace("/usr/bin/why502", &program.display().to_string());
    ensure!(here != unit, "the unit does not start /usr/bin/why502");
    let file = folder.join("why502.service");
    fs::write(&file, here)?;
    // That the pages are there is for the package's trial.
    let mut count = passes(
        shell::command("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&file),
    )?;
    count += passes(
        shell::command("systemd-analyze")
            .args(["security", "--no-pager", "--offline=yes", "--threshold"])
            .arg(EXPOSURE)
            .arg(&file)
            .stdout(std::process::Stdio::null()),
    )?;
    Ok(count)
}

/// Skipped, with the reason, where kubectl or the validator cannot be had.
pub(super) fn manifests() -> Result<Count> {
    let skipped = |why: &str| {
        println!("skipped: the manifests: {why}");
        Ok(Count {
            skipped: MANIFESTS.len() as u64,
            ..Count::default()
        })
    };
    if shell::find("kubectl").is_none() {
        return skipped("there is no kubectl");
    }
    let venv = match wheel::environment("kubernetes", &[VALIDATE]) {
        Ok(venv) => venv,
        Err(error) => return skipped(&format!("{error:#}")),
    };
    let folder = shell::target().join("manifests");
    process::fresh_folder(&folder)?;
    let mut count = Count::default();
    for name in MANIFESTS {
        let mut kubectl = shell::command("kubectl");
        kubectl
            .arg("kustomize")
            .arg(shell::root().join("deploy/kubernetes").join(name));
        let text =
            shell::ask(&mut kubectl).with_context(|| format!("{} fails", shell::line(&kubectl)))?;
        let (custom, known): (Vec<&str>, Vec<&str>) = text
            .split("\n---\n")
            .partition(|document| document.contains(&format!("kind: {CUSTOM}\n")));
        ensure!(
            custom.len() == usize::from(name == "overlays/podmonitor"),
            "{name}: {} of {CUSTOM}",
            custom.len()
        );
        let file = folder.join(format!("{}.yaml", name.replace('/', "-")));
        fs::write(&file, known.join("\n---\n"))?;
        let program = venv.join("bin/kubernetes-validate").display().to_string();
        for version in VERSIONS {
            let mut validate = shell::command(&program);
            validate
                .args(["--strict", "--quiet", "--kubernetes-version", version])
                .arg(&file);
            count += passes(&mut validate)?;
        }
    }
    Ok(count)
}
