//! The image with the rights that a cluster gives it: rows of the lab, whose agent is a container of
//! Podman, as the DaemonSet starts it and as `kubectl debug node/…` does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::count::Count;
use super::counted;
use crate::containers::{IMAGE, Podman};
use crate::vm::arch::Arch;
use crate::{lab, process, shell};

/// What every kernel is tried with quickly (`xtask/src/vm/task.rs`), but for `--tls-status`, whose right is not
/// asked for. Besides: pools that are older than the agent and in other network namespaces, Unix sockets that
/// are kept, what a slow process does, connects that fail. No right of the DaemonSet can be missing.
const ROWS: &[&[&str]] = &[
    &["--row", "1", "--name", "unix-backlog-128"],
    &["--row", "2", "--name", "other-variants"],
    &["--row", "4,5,6,7,11"],
];
const ONE_SHOT: &[&str] = &["--name", "one-shot"];
/// Where the DaemonSet's pods find the names of others.
const NODE: &str = "/proc/1/root/var/log";
/// Facts for whose rights the DaemonSet does not ask.
const NOT_ASKED_FOR: &[&str] = &["packets", "namespaces"];

/// Skipped, with the reason, where no container can be run.
pub(super) fn image(program: &Path, why: &mut Vec<String>) -> Result<Count> {
    let lacking = ["podman", "runc", "conmon", "unshare", "ldd"]
        .into_iter()
        .find(|name| shell::find(name).is_none())
        .map(|name| format!("{name} is not installed"))
        .or_else(|| (!shell::is_root()).then(|| "it takes root".to_owned()));
    if let Some(lacking) = lacking {
        println!("skipped: the image: {lacking}");
        return Ok(Count::SKIPPED);
    }
    let folder = shell::target().join("image");
    process::fresh_folder(&folder)?;
    let out = folder.join("lab");
    fs::create_dir_all(&out)?;
    let podman = Podman { folder };
    let daemonset = wrapper(&podman, "daemonset", &daemonset(&podman.folder)?, &out)?;
    let debug = wrapper(&podman, "debug-node", &debug_node(), &out)?;
    if let Err(error) = try_it(&podman) {
        println!("skipped: the image: no container can be run here: {error:#}");
        return Ok(Count::SKIPPED);
    }
    build(&podman, program)?;

    let mut count = Count::default();
    let here = facts(Command::new(program))?;
    let asked_for = |fact: &&String| !NOT_ASKED_FOR.contains(&fact.as_str());
    let wanted = here.iter().filter(asked_for).cloned().collect();
    count += sees(&daemonset, &wanted)?;
    count += sees(&debug, &here)?;
    let mut judged = |wrapper: &Path, rows: &[&str]| {
        // Its network is its own, as a pod's: no Prometheus of the host's gets there.
        let mut lab = lab::command(wrapper);
        lab.arg("--no-prometheus").args(rows).arg("--out").arg(&out);
        counted(&mut lab, why)
    };
    for rows in ROWS {
        count += judged(&daemonset, rows)?;
    }
    count += judged(&debug, ONE_SHOT)?;
    count += match fs::read_dir(NODE) {
        Ok(_) => judged(&daemonset, ONE_SHOT)?,
        Err(error) => {
            println!("skipped: pods' names with the DaemonSet's rights: {NODE}: {error}");
            Count::SKIPPED
        }
    };
    Ok(count)
}

/// `podman run`'s options for what the DaemonSet asks for, with an empty history.
fn daemonset(folder: &Path) -> Result<Vec<String>> {
    let file = shell::root().join("deploy/kubernetes/base/daemonset.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let asked = Asked::of(&text).with_context(|| format!("{}", file.display()))?;
    let history = folder.join("history");
    fs::create_dir_all(&history)?;
    let mut options = [
        "--pid=host",
        "--network=none",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--read-only",
        "--read-only-tmpfs=false",
        "--user=0:0",
        "--env=WHY502_NODE=node-1",
        "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro",
    ]
    .map(str::to_owned)
    .to_vec();
    options.push(format!("--cap-add={}", asked.capabilities));
    options.push(format!("--memory={}", asked.memory));
    options.push(format!("--volume={}:/var/lib/why502", history.display()));
    Ok(options)
}

/// The same for `kubectl debug node/… --profile=sysadmin`.
fn debug_node() -> Vec<String> {
    let options = [
        "--privileged",
        "--pid=host",
        "--network=host",
        "--ipc=host",
        "--volume=/:/host",
    ];
    options.map(str::to_owned).to_vec()
}

/// What is taken from the manifest, so that what is tried cannot be more than what is given.
#[derive(Debug, PartialEq)]
struct Asked {
    capabilities: String,
    memory: String,
}

impl Asked {
    fn of(manifest: &str) -> Result<Asked> {
        for line in [
            "hostPID: true",
            "privileged: false",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "runAsUser: 0",
            "drop: [ALL]",
            "mountPath: /sys/kernel/tracing",
            "mountPath: /var/lib/why502",
        ] {
            ensure!(
                manifest.lines().any(|one| one.trim() == line),
                "there is no `{line}`, with which the image is tried"
            );
        }
        let listed = between(manifest, "add: [", "]").context("no list of capabilities")?;
        let limits = manifest.split_once("limits:").context("no limits")?.1;
        let memory = between(limits, "memory: ", "i\n").context("no limit of memory")?;
        Ok(Asked {
            capabilities: listed.replace(' ', ""),
            memory: memory.to_owned(),
        })
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (found, _) = text.split_once(before)?.1.split_once(after)?;
    Some(found)
}

/// The facts that it can see.
fn facts(mut why502: Command) -> Result<BTreeSet<String>> {
    // Its status says whether that is enough.
    let output = why502.args(["check", "--json"]).output();
    let output = output.with_context(|| format!("start {}", shell::line(&why502)))?;
    let mut seen = BTreeSet::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let fact: Value = serde_json::from_str(line).context("a line of check")?;
        if fact["visible"] == true {
            seen.extend(fact["fact"].as_str().map(str::to_owned));
        }
    }
    if seen.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", shell::line(&why502), said.trim());
    }
    Ok(seen)
}

/// Whether it sees this and no more.
fn sees(wrapper: &Path, wanted: &BTreeSet<String>) -> Result<Count> {
    let name = wrapper.file_name().unwrap_or_default().to_string_lossy();
    let seen = facts(Command::new(wrapper))?;
    let differ: Vec<&String> = seen.symmetric_difference(wanted).collect();
    if differ.is_empty() {
        println!("{name}: sees all {} facts that it is to see", seen.len());
        return Ok(Count::PASSED);
    }
    println!("{name}: sees more or less than it is to: {differ:?}");
    Ok(Count::FAILED)
}

/// Up to the image's name.
fn start(podman: &Podman) -> Command {
    let mut run = podman.command();
    run.args(["run", "--rm", "--pull=never", "--timeout=300"]);
    // Limits that whoever may not raise them has, too.
    run.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]);
    run
}

/// The host's own programs in a container: whether this host lets anything start there.
fn try_it(podman: &Podman) -> Result<()> {
    let root = podman.folder.join("root");
    for name in ["usr", "proc", "sys", "dev", "run", "tmp", "etc"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(Path::new("usr").join(name), root.join(name))?;
    }
    let mut run = start(podman);
    run.args(["--network=none", "--volume=/usr:/usr:ro", "--rootfs"]);
    let output = run.arg(root).arg("/usr/bin/true").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(())
}

/// Its base has the libraries of this host that the program needs and nothing else, so that what it is
/// found to do needs no shell.
fn build(podman: &Podman, program: &Path) -> Result<()> {
    let libraries = shell::ask(shell::command("ldd").arg(program)).context("ask ldd")?;
    let mut tar = shell::command("tar");
    let base = podman.folder.join("base.tar");
    tar.args(["--create", "--dereference", "--directory", "/", "--file"]);
    tar.arg(&base).args(loaded(&libraries));
    shell::run(&mut tar)?;
    podman.build(program, &base, Arch::default().debian())
}

/// A program that is why502 in a container with these options; it can write to `out`.
fn wrapper(podman: &Podman, name: &str, options: &[String], out: &Path) -> Result<PathBuf> {
    let mut run = start(podman);
    run.args(options);
    run.arg(format!("--volume={0}:{0}", out.display()));
    run.arg(IMAGE);
    let file = podman.folder.join(name);
    let words = std::iter::once(run.get_program()).chain(run.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
    fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

/// For a shell, whatever it holds.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The files that a program loads, from the root, as `ldd` lists them.
fn loaded(libraries: &str) -> Vec<&str> {
    libraries.lines().filter_map(file).collect()
}

fn file(line: &str) -> Option<&str> {
    let (named, _address) = line.trim().rsplit_once(" (")?;
    let path = named.rsplit_once("=> ").map_or(named, |(_, path)| path);
    path.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemonset_asks_for() {
        let manifest = include_str!("../../../deploy/kubernetes/base/daemonset.yaml");
        let asked = Asked::of(manifest).unwrap();
        assert_eq!(asked.capabilities, "BPF,PERFMON,SYS_PTRACE,DAC_READ_SEARCH");
        assert_eq!(asked.memory, "256M");
        let gains = manifest.replace("Escalation: false", "Escalation: true");
        assert!(Asked::of(&gains).is_err());
    }

    #[test]
    fn what_ldd_lists() {
        let said = "\tlinux-vdso.so.1 (0x00007fb4f7388000)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fb4f7276000)\n\
                    \tlibx.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fb4f738a000)\n";
        let files = [
            "lib/x86_64-linux-gnu/libm.so.6",
            "lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(loaded(said), files);
    }

    #[test]
    fn a_shell_sees_one_word() {
        assert_eq!(quoted("a 'b' $c"), r"'a '\''b'\'' $c'");
    }
}
