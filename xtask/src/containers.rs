//! Podman with all its files in one folder: a person's images and containers are let alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

#[path = "../../tests/src/container/podman.rs"]
mod podman;

pub(crate) const IMAGE: &str = "localhost/why502";
const BASE: &str = "localhost/why502-base";

/// What Podman mounts to serve its storage, and tracefs where no systemd has mounted it, are gone with
/// a mount namespace of their own.
const ENTER: &str = r#"
test -e /sys/kernel/tracing/events || mount -t tracefs why502-image /sys/kernel/tracing
exec "$@""#;

pub(crate) struct Podman {
    pub(crate) folder: PathBuf,
}

impl Podman {
    pub(crate) fn command(&self) -> Command {
        self.below(shell::command("unshare"))
    }

    /// The same where it is soon done, or something is wrong.
    pub(crate) fn quick(&self) -> Command {
        let mut timeout = shell::command("timeout");
        timeout.args(["60", "unshare"]);
        self.below(timeout)
    }

    fn below(&self, mut podman: Command) -> Command {
        podman.args(["--mount", "sh", "-euc", ENTER, "sh", "podman"]);
        podman::keep_in(&mut podman, &self.folder);
        podman
    }

    /// The image of `deploy/Containerfile` for machines of a kind, as Debian names it, with this program on a
    /// base that an archive holds.
    pub(crate) fn build(&self, program: &Path, base: &Path, arch: &str) -> Result<()> {
        let context = self.folder.join("context");
        fs::create_dir_all(&context)?;
        fs::copy(program, context.join("why502"))?;
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            fs::copy(shell::root().join(name), context.join(name))?;
        }
        let mut import = self.quick();
        import.args(["import", "--quiet", "--arch", arch]);
        shell::run(import.arg(base).arg(BASE))?;
        let mut build = self.quick();
        build.args(["build", "--quiet", "--pull=never", "--tag", IMAGE]);
        build.args(["--platform", &format!("linux/{arch}")]);
        build.args(["--build-arg", &format!("BASE={BASE}"), "--file"]);
        build.arg("deploy/Containerfile").arg(&context);
        shell::run(&mut build)
    }
}

impl Drop for Podman {
    /// What was started and not ended.
    fn drop(&mut self) {
        let mut remove = self.quick();
        let _ = remove
            .args(["rm", "--all", "--force", "--time", "0"])
            .output();
    }
}
