//! Loads the kernel half and attaches what this kernel allows; what it refuses is named, never fatal.

use std::collections::HashSet;
use std::fs::File;

use agent_ebpf::{Layout, tail};
use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{BtfTracePoint, FEntry, FExit, Iter, Program, TracePoint, UProbe},
};

use super::hooks::{self, Hook, Kind, Ladder, Rung};
use super::misses::Misses;
use super::offer::Offer;
use super::plan::{self, Step, plan};
use super::{btf, layout, object};
use crate::clock;
use crate::privileges::{self, Held};

/// The kernel half, loaded. Dropping it detaches everything: programs live as long as this process.
pub struct Probes {
    pub ebpf: Ebpf,
    pub facts: Vec<Seen>,
    /// Structure members, and abilities, that this kernel lacks.
    pub missing: Vec<&'static str>,
    /// Why resets are sent, by number, where the kernel tells.
    pub reset_reasons: Vec<String>,
    pub misses: Misses,
    /// Why ends of connections from elsewhere are not told, where they were asked for.
    pub no_far_ends: Option<String>,
    /// Why the status of responses in TLS is not told, where it was asked for.
    pub no_tls_status: Option<String>,
    /// Of the kernel: `(5, 10)`.
    pub version: (u32, u32),
}

/// How one fact is seen, if it is.
#[derive(Clone, Debug)]
pub struct Seen {
    pub ladder: &'static Ladder,
    pub by: Option<&'static Rung>,
    /// The rungs that could not be had, each with the reason.
    pub refused: Vec<(&'static Rung, String)>,
}

impl Seen {
    /// Why it is not seen, or not seen by a cheaper hook; empty if there is nothing to say.
    pub fn why(&self) -> String {
        let place = |rung| self.ladder.rungs.iter().position(|one| *one == rung);
        let used = self.by.and_then(place);
        let refused = self
            .refused
            .iter()
            .filter(|(rung, _)| used.is_none_or(|used| place(rung) < Some(used)));
        match self.ladder.rungs.len() {
            1 => refused.map(|(_, why)| why.clone()).collect(),
            _ => refused
                .map(|(rung, why)| format!("{}: {why}", hooks::name(rung)))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    /// The hooks it is seen by, or those it would be seen by best.
    fn rung(&self) -> &'static Rung {
        let place = |rung: &&Rung| self.ladder.rungs.iter().position(|one| one == rung);
        // Of other machines' rungs none was refused.
        let refused = self.refused.iter().map(|(rung, _)| *rung);
        self.by.or(refused.min_by_key(place)).unwrap_or_default()
    }

    pub fn hook(&self) -> String {
        hooks::name(self.rung())
    }

    /// The same without the kinds, as metrics name them.
    pub fn programs(&self) -> String {
        let names: Vec<_> = self.rung().iter().map(|hook| hook.name).collect();
        names.join("+")
    }

    /// Its programs are attached through tracefs.
    pub fn through_tracefs(&self) -> bool {
        let mut hooks = self.by.into_iter().flatten();
        hooks.any(|hook| matches!(hook.kind, Kind::Tracepoint { .. }))
    }

    /// What becomes of a step where all loads that is offered.
    pub fn expected(step: &Step) -> Seen {
        Seen {
            ladder: step.ladder,
            by: step.offered.first().copied(),
            refused: step.refused.clone(),
        }
    }

    /// A fact that cannot be seen, for a reason that no hook can help.
    pub fn refused(ladder: &'static Ladder, why: &str, machine: &str) -> Seen {
        let refused = ladder.rungs_on(machine).map(|rung| (rung, why.to_owned()));
        Seen {
            ladder,
            by: None,
            refused: refused.take(1).collect(),
        }
    }
}

/// Why no program may be loaded with these capabilities.
pub fn refused(held: &Held) -> Option<String> {
    let lacking = privileges::lacking(held, privileges::PROBES);
    let names: Vec<_> = lacking.iter().map(ToString::to_string).collect();
    let missing = match names.as_slice() {
        [] => return None,
        [name] => format!("{name} is missing"),
        names => format!("{} are missing", names.join(" and ")),
    };
    Some(missing + RIGHTS)
}

/// What is loaded only where it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Ends of connections from other hosts are told.
    pub far_ends: bool,
    /// The status of responses in TLS is read where proxies hand them to OpenSSL.
    pub tls_status: bool,
}

/// Loads and attaches everything that loads and attaches.
pub fn load(asked: Asked) -> Result<Probes> {
    if object::PROBES.is_empty() {
        bail!(
            "this program was built without its kernel half; build it with `cargo xtask build`, \
             which names what the build needs"
        );
    }
    if let Some(why) = refused(&privileges::held()) {
        bail!(why);
    }
    // First: it parses the kernel's BTF whole before it can be told not to, and nothing else should
    // be held then.
    let first = loader();
    let (mut layout, mut missing, reset_reasons, offer, names) = {
        let btf = btf::Btf::of_kernel()?;
        let (layout, missing) = layout::read(&btf);
        let offer = Offer::of_host(&btf, &missing);
        let reasons = layout::reset_reasons(&btf);
        (layout, missing, reasons, offer, names(&btf))
    };
    // Only now: the two readings of the same types need not be held at once.
    let kernel = Names::new(names)?;
    layout::read_formats(&mut layout);
    let steps = plan(&offer);
    let offered = |fact| {
        let mut steps = steps.iter();
        steps.any(|step: &Step| step.ladder.fact == fact && !step.offered.is_empty())
    };
    layout.closes_seen = u32::from(offered("closes"));
    if plan::expects_untyped(&steps) {
        layout::without_types(&mut layout, &mut missing);
    }
    let lacking = missing.iter().find(|m| layout::OF_FAR_ENDS.contains(m));
    let mut no_far_ends = lacking.map(|member| format!("this kernel has no {member}"));
    layout.tls_status = u32::from(asked.tls_status);
    if asked.far_ends && no_far_ends.is_none() {
        let ticks = 1_000_000_000 / clock::tick_ns().max(1);
        layout.second_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    }
    let (mut ebpf, mut facts) = attach_all(first, &steps, &layout, &kernel)?;
    let closes = facts.iter().find(|seen| seen.ladder.fact == "closes");
    let no_closes = layout.closes_seen == 1 && closes.is_some_and(|seen| seen.by.is_none());
    let seen = facts
        .iter()
        .filter_map(|seen| Some((seen.ladder, seen.by?)));
    let no_types = layout.untyped == 0 && plan::untyped(seen);
    if no_closes || no_types {
        // Other programs wait for the closes that they were promised, or make no cookies: once more
        // without.
        if no_closes {
            layout.closes_seen = 0;
        }
        if no_types {
            layout::without_types(&mut layout, &mut missing);
        }
        drop(ebpf);
        (ebpf, facts) = attach_all(loader(), &steps, &layout, &kernel)?;
    }
    if layout.second_ticks != 0 {
        let linked = link(&mut ebpf, "tell_far_end", tail::FAR_END, &kernel);
        no_far_ends = linked.err().map(|error| describe(&error));
    }
    let tls_status = match asked.tls_status {
        true => load_ssl_write(&mut ebpf),
        false => Ok(()),
    };
    Ok(Probes {
        misses: Misses::of(&ebpf),
        no_far_ends: no_far_ends.filter(|_| asked.far_ends),
        no_tls_status: tls_status.err().map(|error| describe(&error)),
        ebpf,
        facts,
        missing,
        reset_reasons,
        version: offer.version(),
    })
}

fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

/// Whose programs the kernel's verifier needs the most memory for: they go first, while little else is
/// held.
const LARGEST: &[&str] = &["reads", "writes"];

/// The steps in the order in which they are taken, each with its place among the ladders.
fn largest_first(steps: &[Step]) -> Vec<(usize, &Step)> {
    let mut order: Vec<_> = steps.iter().enumerate().collect();
    order.sort_by_key(|(_, step)| !LARGEST.contains(&step.ladder.fact));
    order
}

fn attach_all<'a>(
    mut loader: EbpfLoader<'a>,
    steps: &[Step],
    layout: &'a Layout,
    kernel: &Names,
) -> Result<(Ebpf, Vec<Seen>)> {
    let mut ebpf = loader
        .override_global("LAYOUT", layout, true)
        .load(object::PROBES)
        .map_err(|error| {
            let error = anyhow::Error::from(error);
            let (rights, memory) = (rights(&error), locked_memory());
            anyhow::anyhow!("{}{rights}{memory}", describe(&error))
        })
        .context("create the BPF maps")?;
    let mut climb = |step: &Step| {
        let mut seen = Seen {
            ladder: step.ladder,
            by: None,
            refused: step.refused.clone(),
        };
        for &rung in &step.offered {
            match attach_rung(&mut ebpf, rung, kernel) {
                Ok(()) => {
                    seen.by = Some(rung);
                    break;
                }
                Err(error) => seen.refused.push((rung, describe(&error))),
            }
        }
        seen
    };
    let mut facts: Vec<_> = largest_first(steps)
        .into_iter()
        .map(|(i, step)| (i, climb(step)))
        .collect();
    facts.sort_by_key(|(place, _)| *place);
    Ok((ebpf, facts.into_iter().map(|(_, seen)| seen).collect()))
}

/// Attaches all programs of a rung, or none.
fn attach_rung(ebpf: &mut Ebpf, rung: &Rung, kernel: &Names) -> Result<()> {
    for (index, hook) in rung.iter().enumerate() {
        if let Err(error) = attach(ebpf, hook, kernel) {
            for attached in &rung[..index] {
                detach(ebpf, attached)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The kernel's BTF as far as attaching needs it: parsed whole it would be the program's peak of memory.
struct Names {
    named: Vec<btf::Named>,
    /// Without functions: those that trampolines want lie behind all others, so that each is parsed
    /// alone, and for a moment.
    tracepoints: Btf,
}

impl Names {
    fn new(named: Vec<btf::Named>) -> Result<Names> {
        let functions: HashSet<_> = hooks::all().filter_map(Hook::function).collect();
        let others = named
            .iter()
            .filter(|named| !functions.contains(named.name.as_str()));
        let tracepoints = parse(others)?;
        Ok(Names { named, tracepoints })
    }

    fn function(&self, name: &str) -> Result<Btf> {
        parse(self.named.iter().filter(|named| named.name == name))
    }
}

fn parse<'a>(named: impl Iterator<Item = &'a btf::Named>) -> Result<Btf> {
    Btf::parse(&btf::sparse(named), aya::Endianness::default())
        .context("parse the names of the kernel's BTF")
}

fn names(btf: &btf::Btf) -> Vec<btf::Named> {
    let wanted: HashSet<String> = hooks::all().filter_map(Hook::in_btf).collect();
    btf.named(|name| wanted.contains(name))
}

/// What a refusal lacks; empty where it was something else.
fn rights(error: &anyhow::Error) -> &'static str {
    let refused = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
    });
    match refused {
        true => RIGHTS,
        false => "",
    }
}

const RIGHTS: &str = "; the probes need CAP_BPF and CAP_PERFMON, or root: `why502 check` says what this \
                      host lets them see";

/// What may be in the way of maps on old kernels; empty where nothing is.
fn locked_memory() -> String {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit lives in this frame.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if read != 0 || limit.rlim_max == libc::RLIM_INFINITY {
        return String::new();
    }
    format!(
        "; before Linux 5.11 maps count as locked memory, of which {} kB are allowed: raise it \
         (`ulimit -l`, LimitMEMLOCK=infinity), or run with CAP_SYS_RESOURCE",
        limit.rlim_max / 1024
    )
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, kernel: &Names) -> Result<()> {
    let program = named(ebpf, hook.program)?;
    match hook.kind {
        Kind::BtfTracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook.name, &kernel.tracepoints)?;
            link_second(ebpf, hook, kernel)?;
            let program: &mut BtfTracePoint = named(ebpf, hook.program)?.try_into()?;
            program.attach()?;
        }
        Kind::FunctionEntry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook.name, &kernel.function(hook.name)?)?;
            program.attach()?;
        }
        Kind::FunctionExit => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.name, &kernel.function(hook.name)?)?;
            program.attach()?;
        }
        Kind::Tracepoint { category, .. } => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, hook.name)?;
        }
        Kind::Iterator => {
            let program: &mut Iter = program.try_into()?;
            program.load(hook.name, &kernel.tracepoints)?;
        }
    }
    Ok(())
}

/// Loads the program that a hook's own calls, where it has one.
fn link_second(ebpf: &mut Ebpf, hook: &Hook, kernel: &Names) -> Result<()> {
    match hook.name {
        CALLS => link(ebpf, "tell_end", tail::END, kernel),
        _ => Ok(()),
    }
}

/// The hook whose program calls others.
const CALLS: &str = "inet_sock_set_state";

fn link(ebpf: &mut Ebpf, program: &str, place: u32, kernel: &Names) -> Result<()> {
    let program: &mut BtfTracePoint = named(ebpf, program)?.try_into()?;
    program.load(CALLS, &kernel.tracepoints)?;
    let program = program.fd()?.try_clone()?;
    let map = ebpf.map_mut("TELL_END").context("no TELL_END map")?;
    Ok(ProgramArray::try_from(map)?.set(place, &program, 0)?)
}

/// The program for OpenSSL's functions: which proxies have which library is found later.
pub const SSL_WRITE: &str = "ssl_write";

fn load_ssl_write(ebpf: &mut Ebpf) -> Result<()> {
    if !privileges::has(&privileges::held(), privileges::UPROBES) {
        bail!("CAP_SYS_ADMIN is missing, which uprobes need");
    }
    let program: &mut UProbe = named(ebpf, SSL_WRITE)?.try_into()?;
    Ok(program.load()?)
}

fn named<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(program)
        .context("the kernel half lacks this program")
}

/// Takes a program out of the kernel again; rungs of more than one are all of this kind.
fn detach(ebpf: &mut Ebpf, hook: &Hook) -> Result<()> {
    let program: &mut FExit = named(ebpf, hook.program)?.try_into()?;
    Ok(program.unload()?)
}

/// One line of an error's chain, without the verifier's log but with its verdict.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause
            .split("Verifier output:")
            .next()
            .unwrap_or_default()
            .trim();
        if !cause.is_empty() && !text.contains(cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(cause);
        }
    }
    if std::env::var_os("WHY502_VERIFIER_LOG").is_some() {
        text = format!("{error:?}");
    }
    text
}

impl Probes {
    /// A fresh reading of the sockets that listen on this host.
    pub fn listening_sockets(&mut self) -> Result<File> {
        self.sockets(true)
    }

    /// A fresh reading of every open socket on the host.
    pub fn open_sockets(&mut self) -> Result<File> {
        self.sockets(false)
    }

    fn sockets(&mut self, listeners_only: bool) -> Result<File> {
        let only = self.ebpf.map_mut("LISTENERS_ONLY");
        let only = only.context("no LISTENERS_ONLY map")?;
        aya::maps::Array::<_, u32>::try_from(only)?.set(0, u32::from(listeners_only), 0)?;
        let program: &mut Iter = self
            .ebpf
            .program_mut("task_file")
            .context("no task_file")?
            .try_into()?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_most_memory_is_loaded_before_the_others() {
        let ladders = hooks::LADDERS.iter();
        let step = |ladder| Step {
            ladder,
            offered: Vec::new(),
            refused: Vec::new(),
        };
        let steps: Vec<_> = ladders.map(step).collect();
        let taken: Vec<_> = largest_first(&steps)
            .into_iter()
            .map(|(place, step)| {
                assert_eq!(step, &steps[place]);
                step.ladder.fact
            })
            .collect();
        let others = hooks::LADDERS.iter().map(|ladder| ladder.fact);
        let others = others.filter(|fact| !["reads", "writes"].contains(fact));
        let wanted: Vec<_> = ["reads", "writes"].into_iter().chain(others).collect();
        assert_eq!(taken, wanted);
    }

    #[test]
    fn a_refusal_names_the_rights_and_other_errors_do_not() {
        let error = |errno| {
            let error = std::io::Error::from_raw_os_error(errno);
            anyhow::Error::from(error).context("map error")
        };
        let refused = rights(&error(libc::EPERM));
        for words in ["CAP_BPF", "CAP_PERFMON", "why502 check"] {
            assert!(refused.contains(words), "{refused}");
        }
        assert_eq!(rights(&error(libc::E2BIG)), "");
    }
}
