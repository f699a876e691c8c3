//! `docs/privileges.md`, from the recordings of all kernels.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::kernels::Kernel;
use super::result::{Fact, Recording};
use super::rights::Rights;
use crate::shell;

const HEAD: &str = "# Privileges

<!-- Written by `cargo xtask vm --record` from agent/tests/kernels; not to be edited by hand. -->

Root is the simple way. Another user needs the capabilities below, and no file that it can write but those that it is told to write. `why502 check` says which are there, which are missing and what that costs.

What loads and attaches is given up when it is done: of root's capabilities the program keeps those under *keeps*, whatever it was given, and it can start no program that has more.

";

const TAIL: &str = "
- Before 5.19 every bpf() call needs CAP_BPF where unprivileged BPF is disabled, as it is by default: it is kept there, since the maps are read and written while the program runs.
- CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, and CAP_DAC_OVERRIDE for CAP_DAC_READ_SEARCH, where these are not given.
- Where fentry and fexit are refused, `connect_errors`, `closes` and `unix_listens` are seen through tracefs, which needs CAP_DAC_READ_SEARCH besides, and CAP_SYS_ADMIN where it is not mounted; without these, from the way into and out of every system call, for which the whole host pays.
- Before 5.11 BPF maps count as locked memory: there the limit (`ulimit -l`, LimitMEMLOCK) has to be raised, or CAP_SYS_RESOURCE given.
- `--tls-status` puts uprobes into libraries, also into those of proxies that start later: CAP_SYS_ADMIN is needed for that (on 6.18 CAP_PERFMON is not enough), and kept.
- `packets` and `namespaces` matter to `--source packets` and `capture -w` alone; so does what is kept for them.
- Without `processes` it is not told what a slow upstream's thread waits for, nor how long the queue of a Unix socket was that another user's process holds; advice knows no settings of other users' proxies.
- Proxies that start later, in any network namespace, are watched with what is kept. Probes are loaded once: if the thread that reads them fails, `run` ends with an error, and whoever supervises it starts it again.
";

pub(super) fn write(all: &[(Kernel, Recording)]) -> Result<()> {
    let path = path();
    std::fs::write(&path, text(all)).with_context(|| format!("write {}", path.display()))
}

pub(super) fn path() -> PathBuf {
    shell::root().join("docs/privileges.md")
}

pub(super) fn text(all: &[(Kernel, Recording)]) -> String {
    let mut text = HEAD.to_owned();
    let Some((_, newest)) = all.last() else {
        return text;
    };
    text += "| fact | gives |";
    for (kernel, _) in all {
        let _ = write!(text, " {} |", kernel.name());
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(all.len()));
    for fact in &newest.check {
        let _ = write!(text, "| `{}` | {} |", fact.fact, fact.gives);
        for (_, recording) in all {
            let _ = write!(text, " {} |", cell(&fact.fact, recording));
        }
        text.push('\n');
    }
    text += "\nEach cell: what it takes to start, then what is kept of it. Measured by taking each capability away from a user who owns nothing (`setpriv`), in Debian's cloud kernels.\n\n";
    text += "| kernel | `why502 run` as root keeps |\n|---|---|\n";
    for (kernel, recording) in all {
        let kept = list(recording.kept.iter().map(String::as_str));
        let _ = writeln!(text, "| {} | {kept} |", kernel.title());
    }
    text += "\nWith CAP_BPF and CAP_PERFMON alone, on x86-64, the lab's scenarios of races, deaths and read timeouts are judged as with all privileges ([kernels.md](kernels.md), \"least privileges\"): on 7.2 and 7.3 as another user and on a root that nobody can write; on the older ones that was recorded as root without its other capabilities.\n";
    text + TAIL
}

/// What the fact needs there, as it was found by taking each away.
fn cell(fact: &str, recording: &Recording) -> String {
    let here = recording.check.iter().find(|one| one.fact == fact);
    let Some(Fact {
        visible: true,
        needs,
        ..
    }) = here
    else {
        return "**blind**".to_owned();
    };
    let start = needed(fact, &recording.rights);
    let keep = needs.to_keep.iter().filter(|name| start.contains(*name));
    let keep = list(keep.map(String::as_str));
    format!("{}; keeps {keep}", list(start.iter().map(String::as_str)))
}

/// Of all capabilities, those without which the fact is not seen.
fn needed(fact: &str, rights: &[Rights]) -> BTreeSet<String> {
    let seen = |one: &&Rights| !one.blind.contains(fact);
    // CAP_SYS_ADMIN comes first, and implies others.
    let [all, plain, ..] = rights else {
        return BTreeSet::new();
    };
    let base = Some(plain).filter(seen).unwrap_or(all);
    let without = |name: &&String| {
        let mut fewer = base.capabilities.clone();
        fewer.remove(*name);
        let one = rights.iter().find(|one| one.capabilities == fewer);
        one.is_some_and(|one| one.blind.contains(fact))
    };
    base.capabilities.iter().filter(without).cloned().collect()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| name.trim_start_matches("CAP_")).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
