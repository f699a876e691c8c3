//! `why502 check`: what this host lets the program see, by which hook, and what would make more visible.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::cli::Exit;
use crate::config::Check;
use crate::privileges::{self, Held};
use crate::sources::kernel::hooks::{Hook, Kind, LADDERS};
use crate::sources::kernel::load::Seen;
use crate::sources::kernel::offer::{self, Offer};
use crate::sources::kernel::plan::{self, plan};
use crate::sources::kernel::{layout, load, object};
use crate::sources::packets::watch;

pub(crate) mod others;
mod proxies;

/// One fact's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub fact: &'static str,
    pub visible: bool,
    pub hook: String,
    pub core: bool,
    pub gives: &'static str,
    /// Why it is not visible, or not by a cheaper hook.
    pub reason: Option<String>,
    pub remedy: Option<&'static str>,
    pub needs: Needs,
}

/// The capabilities that a fact needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Needs {
    pub to_start: Vec<String>,
    /// Of these, what is not given up when the probes are attached.
    pub to_keep: Vec<String>,
}

/// Tries every hook and says what became of it.
pub fn check(settings: &Check) -> Result<Exit> {
    for name in &settings.require {
        let facts = || {
            LADDERS
                .iter()
                .map(|ladder| ladder.fact)
                .chain(others::FACTS)
        };
        if !facts().any(|fact| fact == name) {
            let known: Vec<_> = facts().collect();
            anyhow::bail!(
                "--require {name}: no such fact; facts are {}",
                known.join(", ")
            );
        }
    }
    let loaded = match load::load(load::Asked::default()) {
        Ok(probes) => Ok((probes.facts, names(probes.missing))),
        Err(error) => Err(format!("{error:#}")),
    };
    let held = privileges::held();
    let lines = lines(&Host {
        loaded,
        packets: watch::possible().err(),
        version: offer::version(&offer::release()),
        machine: std::env::consts::ARCH,
        held: &held,
    });
    let proxies = proxies::running(&held);
    let mut out = std::io::stdout().lock();
    if settings.json {
        for line in &lines {
            serde_json::to_writer(&mut out, line)?;
            writeln!(out)?;
        }
        for proxy in &proxies.found {
            serde_json::to_writer(&mut out, proxy)?;
            writeln!(out)?;
        }
        if proxies.hidden {
            writeln!(out, "{{\"proxies_hidden\":true}}")?;
        }
    } else {
        table(&mut out, &lines, &held)?;
        proxies::table(&mut out, &proxies)?;
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

/// What the lines follow from.
struct Host<'a> {
    /// What became of the hooks, and what this kernel lacks; or why none was tried.
    loaded: Result<(Vec<Seen>, Vec<String>), String>,
    /// Why packets cannot be captured.
    packets: Option<String>,
    version: (u32, u32),
    /// As `uname -m` gives it.
    machine: &'a str,
    held: &'a Held,
}

/// What `check` would say on a host that offers this, where all loads that is offered.
pub fn expected(offer: &Offer) -> Vec<Line> {
    let held = &offer.capabilities;
    let loaded = match load::refused(held).or_else(|| offer.no_btf.clone()) {
        Some(why) => Err(why),
        None => {
            let steps = plan(offer);
            let mut missing = names(&offer.missing);
            if plan::expects_untyped(&steps) {
                missing.extend(layout::lacking_untyped(&offer.missing).map(str::to_owned));
            }
            Ok((steps.iter().map(Seen::expected).collect(), missing))
        }
    };
    let captures = privileges::has(held, privileges::PACKETS);
    lines(&Host {
        loaded,
        packets: (!captures).then(|| others::NOT_CAPTURED.to_owned()),
        version: offer.version(),
        machine: &offer.machine,
        held,
    })
}

fn names<T: ToString>(missing: impl IntoIterator<Item = T>) -> Vec<String> {
    missing.into_iter().map(|name| name.to_string()).collect()
}

fn lines(host: &Host<'_>) -> Vec<Line> {
    let (facts, missing) = match &host.loaded {
        Ok((facts, missing)) => (facts.clone(), missing.as_slice()),
        Err(why) => {
            let refused = LADDERS
                .iter()
                .map(|ladder| Seen::refused(ladder, why, host.machine));
            (refused.collect(), [].as_slice())
        }
    };
    let probed = facts.iter().map(|seen| line(seen, missing, host.version));
    probed.chain(others::lines(host)).collect()
}

fn line(seen: &Seen, missing: &[String], version: (u32, u32)) -> Line {
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
        needs: probes_need(version, seen.through_tracefs()),
    }
}

/// What probes need, of which only old kernels want anything kept.
fn probes_need(version: (u32, u32), through_tracefs: bool) -> Needs {
    let mut start = privileges::PROBES.to_vec();
    if through_tracefs {
        start.extend(privileges::FILES);
    }
    let kept = privileges::of_kernel_source(version, false);
    let probes = privileges::PROBES.iter().copied();
    let keep: Vec<_> = probes.filter(|one| kept.contains(one)).collect();
    Needs::new(&start, &keep)
}

impl Needs {
    fn new(start: &[caps::Capability], keep: &[caps::Capability]) -> Needs {
        let names = |list: &[caps::Capability]| list.iter().map(ToString::to_string).collect();
        Needs {
            to_start: names(start),
            to_keep: names(keep),
        }
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
    match hook.kind {
        Kind::BtfTracepoint if hook.name == "kfree_skb" => {
            "a kernel of 5.17 or later with CONFIG_DEBUG_INFO_BTF, CAP_BPF and CAP_PERFMON"
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

fn table(out: &mut impl Write, lines: &[Line], held: &Held) -> Result<()> {
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
    rights(out, lines, held)
}

/// Which capabilities there are, and what becomes of them.
fn rights(out: &mut impl Write, lines: &[Line], held: &Held) -> Result<()> {
    let wanted = |of: fn(&Needs) -> &Vec<String>| -> BTreeSet<&String> {
        lines.iter().flat_map(|line| of(&line.needs)).collect()
    };
    let list = |names: Vec<&String>| match names.is_empty() {
        true => "none".to_owned(),
        false => names
            .into_iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let start = wanted(|needs| &needs.to_start);
    let keep = wanted(|needs| &needs.to_keep);
    let (has, lacks): (Vec<_>, Vec<_>) = start.into_iter().partition(|name| held.contains(*name));
    let kept = keep.into_iter().filter(|name| held.contains(*name));
    writeln!(out)?;
    writeln!(out, "capabilities of use, here: {}", list(has))?;
    writeln!(out, "                  not here: {}", list(lacks))?;
    writeln!(
        out,
        "kept once it watches (NET_RAW and SYS_ADMIN only where it captures packets): {}",
        list(kept.collect())
    )?;
    Ok(())
}
