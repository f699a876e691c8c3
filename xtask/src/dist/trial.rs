//! `cargo xtask dist --try`: what was made, in clean Debian systems of several ages.
//!
//! Each is made once by mmdebstrap and never written to: a try has a layer of its own over it, in a
//! mount namespace of its own, and both are gone when it ends.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Made, package};
use crate::vm::arch::Arch;
use crate::{process, shell, vm};

/// The Debian that the package is made for.
pub(super) const PACKAGED_FOR: &str = "bookworm";

/// A capture whose verdicts are known; any host has to give the same.
pub(super) const CAPTURE: &str = "r02-post-fin-in-flight.pcap.gz";

/// What mounts a system and runs the script on standard input in it: the system, where its layer
/// lies, and the folders that are seen in it as /trial/made, /trial/aside, /trial/captures.
const ENTER: &str = r#"set -eu
mount -t tmpfs why502-trial "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay why502-trial -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
for name in made aside captures; do mkdir -p "$2/root/trial/$name"; done
mount --bind "$3" "$2/root/trial/made"
mount --bind "$4" "$2/root/trial/aside"
mount --bind "$5" "$2/root/trial/captures"
mount -t proc proc "$2/root/proc"
mount --rbind /sys "$2/root/sys"
# As systemd has it.
test -e /sys/kernel/tracing/events || mount -t tracefs why502-trial "$2/root/sys/kernel/tracing"
mount --rbind /dev "$2/root/dev"
exec chroot "$2/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    NAME="$6" VERSION="$7" CAPTURE="$8" /bin/bash -eu
"#;

/// What it said everywhere.
pub(super) fn run(made: &Made, program: &Path, suites: &[String]) -> Result<Said> {
    let on_host = Said::on_host(program)?;
    for suite in suites {
        let root = system(suite, suite, &[])?;
        let said = Said::from(&within(&root, made, include_str!("tarball.sh"))?)?;
        if said != on_host {
            bail!("in {suite} the program said\n{said:#?}\nand on this host\n{on_host:#?}");
        }
        println!(
            "dist: {suite}: the tarball's program says what it says here: {} verdicts, check ends with {}",
            said.verdicts.len(),
            said.check
        );
    }
    let root = system(PACKAGED_FOR, PACKAGED_FOR, &[])?;
    print!("{}", within(&root, made, include_str!("package.sh"))?);
    println!("dist: {PACKAGED_FOR}: installed, started, upgraded, removed and purged");
    Ok(on_host)
}

/// What the program said of a capture, and of what this kernel lets it see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) verdicts: Vec<String>,
    facts: Vec<String>,
    check: String,
}

impl Said {
    fn on_host(program: &Path) -> Result<Said> {
        let capture = shell::root().join("tests/captures").join(CAPTURE);
        let script = "\"$0\" explain --json \"$1\"; set +e; \"$0\" check --json; echo \"check $?\"";
        let mut sh = shell::command("sh");
        sh.args(["-eu", "-c", script]).arg(program).arg(capture);
        Said::from(&shell::ask(&mut sh).context("run the program on this host")?)
    }

    fn from(output: &str) -> Result<Said> {
        let check = output.lines().find_map(|line| line.strip_prefix("check "));
        let said = Said {
            verdicts: verdicts(output),
            facts: beginning(output, "{\"fact\":"),
            check: check.context("no result of check")?.to_owned(),
        };
        ensure!(!said.verdicts.is_empty(), "no verdict: {output}");
        ensure!(!said.facts.is_empty(), "no fact: {output}");
        Ok(said)
    }
}

pub(super) fn verdicts(output: &str) -> Vec<String> {
    beginning(output, "{\"type\":\"verdict\"")
}

fn beginning(output: &str, start: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| line.starts_with(start));
    lines.map(str::to_owned).collect()
}

/// A clean system of this suite, with these packages besides the least; kept under a name.
pub(super) fn system(name: &str, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = shell::target().join("dist/systems").join(name);
    if root.join("etc/debian_version").is_file() {
        return Ok(root);
    }
    process::fresh_folder(&root)?;
    println!("dist: making a clean {name}");
    let mut make = shell::command("mmdebstrap");
    make.args(["--mode=root", "--variant=minbase", "--quiet"])
        .args(["--aptopt=Acquire::Check-Valid-Until \"false\""])
        .args(["--aptopt=APT::Sandbox::User \"root\""])
        .arg(format!("--keyring={}", vm::apt::KEYRING))
        .args(
            packages
                .iter()
                .map(|package| format!("--include={package}")),
        )
        .arg(suite)
        .arg(&root)
        .arg(vm::apt::archive(false)?);
    shell::run(&mut make).with_context(|| format!("make a clean {name}"))?;
    Ok(root)
}

/// Runs a script of bash in a layer over the system; gives what it says.
fn within(root: &Path, made: &Made, script: &str) -> Result<String> {
    let layer = tempfile::Builder::new().prefix("why502-trial-").tempdir()?;
    let parent = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    let mut enter = shell::command("unshare");
    enter
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
        ])
        .arg(fs::canonicalize(root)?)
        .arg(layer.path())
        .arg(parent(&made.sums))
        .arg(parent(&made.packages[1]))
        .arg(shell::root().join("tests/captures"))
        .args([
            package::name(Arch::X86_64).as_str(),
            package::VERSION,
            CAPTURE,
        ]);
    let mut child = enter
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("enter a clean system")?;
    let mut input = child.stdin.take().context("its standard input")?;
    input.write_all(script.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "in {} it failed ({}):\n{said}",
        root.display(),
        output.status
    );
    Ok(said)
}
