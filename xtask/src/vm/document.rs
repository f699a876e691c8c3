//! `docs/kernels.md`, from the recordings of all kernels.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::costs;
use super::kernels::{self, Kernel};
use super::privileges;
use super::result::{Fact, Recording};
use super::scenarios::Proven;
use crate::shell;

const HEAD: &str = "# Kernels

<!-- Written by `cargo xtask vm --record` from agent/tests/kernels; not to be edited by hand. -->

One program for every kernel: at its start why502 reads what the kernel offers (BTF, tracefs), takes for each fact the cheapest hook there is, and where that does not load the next one. What remains blind is named by `why502 check`, with the reason, and in every summary; it is never fatal.

## Tried

Debian's cloud kernels for x86-64 and arm64, booted by `cargo xtask vm` in virtual machines (QEMU without acceleration, one processor), with all privileges.

";

const COSTS: &str = "
## What each probe costs

How often it runs for a request × nanoseconds that a run takes, by the kernel's own statistics (`BPF_ENABLE_STATS`, lab row 27): of nginx's requests a third goes over a pool of TCP connections, a third over new connections to a Unix socket, a third is refused. The nanoseconds are **emulated**: the machines' clock gives each instruction two, however fast the host is. So this compares probes and kernels; what they cost a proxy on a real processor is what `cargo xtask bench` measures.

";

const TAIL: &str = "
## Expected, not tried

- **5.14 (RHEL 9) and 5.15 (Ubuntu 22.04)** cannot be booted by `cargo xtask vm`. By their versions: as 6.1, but blind to `filter_drops` (the reason of a drop is there from 5.17; RHEL may have it earlier).
- **Kernels before 5.12** prove nothing: no probe can have a socket's cookie made, so a socket is not told from the one before it at its address. Verdicts are `likely` at most and name `socket_identity`.
- **5.5 to 5.11 without commit e21d2b92354b**, where fexit can crash the host: fexit is not tried; reads and writes are taken from system calls, as below. Debian's 5.10 has the repair.
- **Where there is neither fexit (arm64: from 6.4) nor `sock_send_length` (from 6.3)** reads and writes are taken from all system calls: what io_uring sends and receives is not seen. Sockets come without a type there: those of TCP are told apart by the cookies that were made when they were connected, those of Unix by their inodes. arm64's 6.1 is such a kernel; on all others the lab's row 26 keeps the better hooks from the agent (and tracefs, so that connects, closes and listeners are seen by system calls too).
- **Builds that refuse fexit**: the machine on which why502 is developed runs such a 6.18; the whole lab passes there.
";

const LOSSES: &str = "
\\* From 7.0 on the kernel preempts probes, and does not begin one that is interrupted on the same processor. Such runs are counted as lost signals, and what failed meanwhile is `likely`, which says so. In these virtual machines, with one slow processor, some scenarios have a few: `proven 28/30` is a scenario of whose 30 verdicts 28 were proven nevertheless, and one of which none is proven fails. `proven*` stands where this was not counted, or where there was no verdict to be proven.
";

/// Writes both documents.
pub(super) fn write() -> Result<()> {
    let path = path();
    std::fs::write(&path, text()?).with_context(|| format!("write {}", path.display()))?;
    privileges::write(&recorded()?)
}

/// All kernels of which there are recordings.
fn recorded() -> Result<Vec<(Kernel, Recording)>> {
    let all = kernels::all()?.into_iter();
    let recorded = all.filter(Recording::exists);
    let read = |kernel: Kernel| Ok((kernel.clone(), Recording::read(&kernel)?));
    recorded.map(read).collect()
}

fn path() -> std::path::PathBuf {
    shell::root().join("docs/kernels.md")
}

fn text() -> Result<String> {
    let all = recorded()?;
    let mut others = kernels::all()?;
    others.retain(|kernel| !Recording::exists(kernel));
    let mut text = HEAD.to_owned();
    facts(&mut text, &all);
    blind(&mut text, &all);
    least(&mut text, &all);
    scenarios(&mut text, &all);
    text += COSTS;
    heading(&mut text, "probe", &all);
    costs::table(&mut text, &all);
    text += TAIL;
    if !others.is_empty() {
        let others: Vec<_> = others.iter().map(|kernel| kernel.name()).collect();
        let _ = writeln!(
            text,
            "- **{}**: `cargo xtask vm` knows them, but nothing is recorded of them yet.",
            others.join(", ")
        );
    }
    Ok(text)
}

fn heading(text: &mut String, first: &str, all: &[(Kernel, Recording)]) {
    let _ = write!(text, "| {first} |");
    for (kernel, _) in all {
        let _ = write!(text, " {} |", kernel.title());
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(all.len()));
}

/// Hooks by fact and kernel; packets are no hook.
fn facts(text: &mut String, all: &[(Kernel, Recording)]) {
    heading(text, "fact", all);
    let Some((_, newest)) = all.last() else {
        return;
    };
    for fact in &newest.check {
        let _ = write!(text, "| `{}` |", fact.fact);
        for (_, recording) in all {
            let here = recording.check.iter().find(|one| one.fact == fact.fact);
            let cell = match here {
                Some(Fact {
                    visible: true,
                    hook,
                    ..
                }) => hook.replace('+', ", "),
                Some(_) => "**blind**".to_owned(),
                None => "?".to_owned(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

fn blind(text: &mut String, all: &[(Kernel, Recording)]) {
    *text += "\nBlind, and why (the list in `xtask/src/vm/kernels.toml` may only shrink):\n\n";
    for (kernel, recording) in all {
        for fact in recording.check.iter().filter(|fact| !fact.visible) {
            let why = fact.reason.as_deref().unwrap_or("?");
            let _ = writeln!(text, "- {}: `{}`: {why}.", kernel.name(), fact.fact);
        }
    }
}

/// What the least privileges leave.
fn least(text: &mut String, all: &[(Kernel, Recording)]) {
    *text += "\nWith CAP_BPF and CAP_PERFMON alone, as another user (`setpriv`), blind besides ([privileges.md](privileges.md) has the rest):\n\n";
    for (kernel, recording) in all {
        let least = recording.rights.last();
        let more = least
            .into_iter()
            .flat_map(|least| least.blind.difference(&kernel.blind));
        let more: Vec<_> = more.map(|fact| format!("`{fact}`")).collect();
        let _ = writeln!(text, "- {}: {}", kernel.name(), more.join(", "));
    }
}

fn scenarios(text: &mut String, all: &[(Kernel, Recording)]) {
    *text += "\nScenarios of the lab, with real nginx, gunicorn and Node.js: every verdict right, and `proven` or `likely` as the cell says.\n\n";
    heading(text, "scenario", all);
    let names: BTreeSet<_> = all
        .iter()
        .flat_map(|(_, recording)| recording.scenarios.keys())
        .collect();
    for name in names {
        let _ = write!(text, "| {name} |");
        for (kernel, recording) in all {
            let passed = recording.scenarios.get(name).copied();
            let cell = scenario(kernel, passed, recording.proven.get(name).copied());
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    *text += LOSSES;
}

/// What became of a scenario on one kernel.
fn scenario(kernel: &Kernel, passed: Option<bool>, proven: Option<Proven>) -> String {
    match (passed, proven) {
        (Some(true), Some(proven)) => format!("proven {proven}"),
        (Some(true), None) if kernel.lossy => "proven*".to_owned(),
        (Some(true), None) if kernel.proves() => "proven".to_owned(),
        (Some(true), None) => "likely".to_owned(),
        (Some(false), _) => "**failed**".to_owned(),
        (None, _) => "not run".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_what_the_recordings_say() {
        let written = std::fs::read_to_string(path()).unwrap();
        assert!(
            written == text().unwrap(),
            "docs/kernels.md is stale: `cargo xtask vm --record`"
        );
        let written = std::fs::read_to_string(privileges::path()).unwrap();
        assert!(
            written == privileges::text(&recorded().unwrap()),
            "docs/privileges.md is stale: `cargo xtask vm --record`"
        );
    }

    #[test]
    fn a_scenario_says_how_much_was_proven_where_that_was_counted() {
        let all = kernels::all().unwrap();
        let of = |lossy| {
            all.iter()
                .find(|kernel| kernel.lossy == lossy && kernel.proves())
        };
        let (sure, lossy) = (of(false).unwrap(), of(true).unwrap());
        let proven = Some(Proven { proven: 28, of: 30 });
        assert_eq!(scenario(lossy, Some(true), proven), "proven 28/30");
        assert_eq!(scenario(lossy, Some(true), None), "proven*");
        assert_eq!(scenario(sure, Some(true), None), "proven");
        assert_eq!(scenario(lossy, Some(false), proven), "**failed**");
        assert_eq!(scenario(lossy, None, None), "not run");
    }
}
