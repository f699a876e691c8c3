//! `why502 check`: what this host lets the program see, by which hook, and what would make more visible.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::cli::Exit;
use crate::config::Check;
use crate::sources::kernel::hooks::{HOOKS, Hook, Kind};
use crate::sources::kernel::{load, object};
use crate::sources::packets::watch;

/// The name of what is no kernel hook: whether packets can be captured.
const PACKETS: &str = "packets";

/// One fact's line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    fact: &'a str,
    visible: bool,
    hook: String,
    core: bool,
    gives: &'a str,
    reason: Option<String>,
    remedy: Option<&'static str>,
}

/// Tries every hook and says what became of it.
pub fn check(settings: &Check) -> Result<Exit> {
    for name in &settings.require {
        let facts = || HOOKS.iter().map(|hook| hook.fact).chain([PACKETS]);
        if !facts().any(|fact| fact == name) {
            let known: Vec<_> = facts().collect();
            anyhow::bail!(
                "--require {name}: no such fact; facts are {}",
                known.join(", ")
            );
        }
    }
    let results = match load::load() {
        Ok(probes) => probes.hooks,
        Err(error) => {
            let why = format!("{error:#}");
            HOOKS.iter().map(|hook| (hook, Err(why.clone()))).collect()
        }
    };
    let lines: Vec<Line<'_>> = results
        .iter()
        .map(|(hook, result)| line(hook, result))
        .chain([packets(watch::possible().err())])
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

fn line<'a>(hook: &'a Hook, result: &Result<(), String>) -> Line<'a> {
    Line {
        fact: hook.fact,
        visible: result.is_ok(),
        hook: match hook.kind {
            Kind::BtfTracepoint => format!("tp_btf/{}", hook.name),
            Kind::Tracepoint { category } => format!("tracepoint/{category}/{}", hook.name),
            Kind::Iterator => format!("iter/{}", hook.name),
        },
        core: hook.core,
        gives: hook.gives,
        reason: result.as_ref().err().cloned(),
        remedy: result.is_err().then(|| remedy(hook)),
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

/// What would make a refused fact visible.
fn remedy(hook: &Hook) -> &'static str {
    if object::PROBES.is_empty() {
        return "build the program with `cargo xtask build`";
    }
    match hook.kind {
        Kind::BtfTracepoint if matches!(hook.name, "sock_send_length" | "sock_recv_length") => {
            "a kernel of 6.3 or later with CONFIG_DEBUG_INFO_BTF, CAP_BPF and CAP_PERFMON"
        }
        Kind::BtfTracepoint => "a kernel with CONFIG_DEBUG_INFO_BTF, CAP_BPF and CAP_PERFMON",
        Kind::Tracepoint { .. } => {
            "tracefs at /sys/kernel/tracing (or CAP_SYS_ADMIN, to mount it for this process alone), \
             CAP_DAC_READ_SEARCH, CONFIG_FTRACE_SYSCALLS"
        }
        Kind::Iterator => "a kernel of 5.11 or later, CAP_BPF and CAP_PERFMON",
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
            writeln!(out, "{:>17}   why: {}", "", crate::sinks::visible(reason))?;
        }
        if let Some(remedy) = line.remedy {
            writeln!(out, "{:>17}   needs: {remedy}", "")?;
        }
    }
    Ok(())
}
