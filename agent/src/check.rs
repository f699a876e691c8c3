//! `why502 check`: what this host lets the program see, by which hook, and what would make more visible.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::cli::Exit;
use crate::config::Check;
use crate::sources::kernel::hooks::{Hook, Kind, LADDERS};
use crate::sources::kernel::load::Seen;
use crate::sources::kernel::{layout, load, object};
use crate::sources::packets::watch;

/// The name of what is no kernel hook: whether packets can be captured.
const PACKETS: &str = "packets";
/// Nor is this: whether a probe can tell a socket from the next one at its address.
const IDENTITY: &str = "socket_identity";

/// One fact's line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    fact: &'a str,
    visible: bool,
    hook: String,
    core: bool,
    gives: &'a str,
    /// Why it is not visible, or not by a cheaper hook.
    reason: Option<String>,
    remedy: Option<&'static str>,
}

/// Tries every hook and says what became of it.
pub fn check(settings: &Check) -> Result<Exit> {
    for name in &settings.require {
        let facts = || {
            LADDERS
                .iter()
                .map(|ladder| ladder.fact)
                .chain([IDENTITY, PACKETS])
        };
        if !facts().any(|fact| fact == name) {
            let known: Vec<_> = facts().collect();
            anyhow::bail!(
                "--require {name}: no such fact; facts are {}",
                known.join(", ")
            );
        }
    }
    let (facts, missing) = match load::load() {
        Ok(probes) => (probes.facts, Ok(probes.missing)),
        Err(error) => {
            let why = format!("{error:#}");
            let refused = |ladder| Seen::refused(ladder, &why);
            (LADDERS.iter().map(refused).collect(), Err(why.clone()))
        }
    };
    let lines: Vec<Line<'_>> = facts
        .iter()
        .map(|seen| line(seen, missing.as_deref().unwrap_or_default()))
        .chain([identity(&missing), packets(watch::possible().err())])
        .collect();
    let mut out = std::io::stdout().lock();
    if settings.json {
        for line in &lines {
            serde_json::to_writer(&mut out, line)?;
            writeln!(out)?;
        }
    } else {
        table(&mut out, &lines)?;
    }
    let blocked: Vec<&str> = lines
        .iter()
        .filter(|l| !l.visible && (l.core || settings.require.iter().any(|r| r == l.fact)))
        .map(|l| l.fact)
        .collect();
    if blocked.is_empty() {
        return Ok(Exit::Done);
    }
    eprintln!("error: cannot be seen here: {}", blocked.join(", "));
    Ok(Exit::Failed)
}

fn line<'a>(seen: &'a Seen, missing: &[&str]) -> Line<'a> {
    let fact = seen.ladder.fact;
    let mut reasons = vec![seen.why()];
    let mut visible = seen.by.is_some();
    for member in missing.iter().filter(|m| layout::fact_of(m) == Some(fact)) {
        visible = false;
        reasons.push(format!("this kernel has no {member}"));
    }
    reasons.retain(|reason| !reason.is_empty());
    Line {
        fact,
        visible,
        hook: seen.hook(),
        core: seen.ladder.core,
        gives: seen.ladder.gives,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        remedy: (!visible).then(|| remedy(seen.ladder.rungs.iter().copied().flatten())),
    }
}

/// Without it nothing is proven: what is told of a socket may be of the one before it at its address.
fn identity<'a>(missing: &Result<Vec<&'static str>, String>) -> Line<'a> {
    let reason = match missing {
        Ok(missing) => missing
            .contains(&layout::COOKIES)
            .then(|| format!("this kernel has no {}", layout::COOKIES)),
        Err(why) => Some(why.clone()),
    };
    Line {
        fact: IDENTITY,
        visible: reason.is_none(),
        hook: "bpf_get_socket_cookie".to_owned(),
        core: false,
        gives: "a socket told from the next one at its address: without it nothing is proven",
        remedy: reason.is_some().then_some("a kernel of 5.12 or later"),
        reason,
    }
}

fn packets<'a>(refused: Option<String>) -> Line<'a> {
    Line {
        fact: PACKETS,
        visible: refused.is_none(),
        hook: "libpcap/any".to_owned(),
        core: false,
        gives: "TCP upstreams from packets alone: --source packets",
        remedy: refused
            .is_some()
            .then_some("root or CAP_NET_RAW: `setcap cap_net_raw=ep` on the program"),
        reason: refused,
    }
}

/// What would make a refused fact visible: what its best hook needs.
fn remedy<'a>(mut hooks: impl Iterator<Item = &'a Hook>) -> &'static str {
    if object::PROBES.is_empty() {
        return "build the program with `cargo xtask build`";
    }
    let Some(hook) = hooks.next() else {
        return "";
    };
    let others: Vec<Kind> = hooks.map(|hook| hook.kind).collect();
    match hook.kind {
        Kind::BtfTracepoint if hook.name == "kfree_skb" => {
            "a kernel of 5.17 or later with CONFIG_DEBUG_INFO_BTF, CAP_BPF and CAP_PERFMON"
        }
        Kind::BtfTracepoint if others.contains(&Kind::FunctionExit) => {
            "a kernel of 6.3 or later, or one that allows fexit, with CONFIG_DEBUG_INFO_BTF, CAP_BPF \
             and CAP_PERFMON"
        }
        Kind::FunctionEntry | Kind::FunctionExit if !others.is_empty() => {
            "a kernel that allows fentry and fexit, CAP_BPF and CAP_PERFMON; or tracefs at \
             /sys/kernel/tracing (or CAP_SYS_ADMIN, to mount it for this process alone), \
             CAP_DAC_READ_SEARCH, CONFIG_FTRACE_SYSCALLS"
        }
        Kind::BtfTracepoint | Kind::FunctionEntry | Kind::FunctionExit => {
            "a kernel with CONFIG_DEBUG_INFO_BTF, CAP_BPF and CAP_PERFMON"
        }
        Kind::Tracepoint { .. } => {
            "tracefs at /sys/kernel/tracing, CAP_DAC_READ_SEARCH, CONFIG_FTRACE_SYSCALLS"
        }
        Kind::Iterator => "a kernel of 5.8 or later, CAP_BPF and CAP_PERFMON",
    }
}

fn table(out: &mut impl Write, lines: &[Line<'_>]) -> Result<()> {
    writeln!(out, "kernel half: {}", object::BUILT_BY)?;
    writeln!(out)?;
    writeln!(out, "{:<17} {:<5} {:<37} gives", "fact", "seen", "hook")?;
    for line in lines {
        let seen = if line.visible { "yes" } else { "NO" };
        writeln!(
            out,
            "{:<17} {:<5} {:<37} {}",
            line.fact, seen, line.hook, line.gives
        )?;
        if let Some(reason) = &line.reason {
            let what = if line.visible { "not by" } else { "why" };
            let reason = crate::sinks::visible(reason);
            writeln!(out, "{:>17}   {what}: {reason}", "")?;
        }
        if let Some(remedy) = line.remedy {
            writeln!(out, "{:>17}   needs: {remedy}", "")?;
        }
    }
    Ok(())
}
