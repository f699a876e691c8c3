//! Loads the kernel half and attaches what this kernel allows; what it refuses is named, never fatal.

use std::fs::File;

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{BtfTracePoint, Iter, Program, TracePoint},
};

use super::hooks::{HOOKS, Hook, Kind};
use super::{btf, layout, object};

/// The kernel half, loaded. Dropping it detaches everything: programs live as long as this process.
pub struct Probes {
    pub ebpf: Ebpf,
    pub hooks: Vec<(&'static Hook, Result<(), String>)>,
    /// Structure members that this kernel does not have.
    pub missing: Vec<&'static str>,
}

/// Loads and attaches everything that loads and attaches.
pub fn load() -> Result<Probes> {
    if object::PROBES.is_empty() {
        bail!(
            "this program was built without its kernel half; build it with `cargo xtask build`, \
             which names what the build needs"
        );
    }
    // First: it parses the kernel's BTF whole before it can be told not to, and nothing else should
    // be held then.
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    let (mut layout, missing, kernel) = {
        let btf = btf::Btf::of_kernel()?;
        let (layout, missing) = layout::read(&btf);
        (layout, missing, names(&btf))
    };
    // Only now: the two readings of the same types need not be held at once.
    let kernel = Btf::parse(&kernel, aya::Endianness::default())
        .context("parse the names of the kernel's BTF")?;
    let tracefs = super::tracefs::available();
    layout.closes_seen =
        u32::from(tracefs.is_ok() && super::tracefs::has("syscalls/sys_enter_close"));
    let mut ebpf = loader
        .override_global("LAYOUT", &layout, true)
        .load(object::PROBES)
        .map_err(|error| anyhow::anyhow!("{}", describe(&error.into())))
        .context("create the BPF maps")?;
    let mut hooks = Vec::new();
    for hook in HOOKS {
        let result = match (&tracefs, hook.kind) {
            (Err(why), Kind::Tracepoint { .. }) => Err(why.clone()),
            _ => attach(&mut ebpf, hook, &kernel).map_err(|error| describe(&error)),
        };
        hooks.push((hook, result));
    }
    Ok(Probes {
        ebpf,
        hooks,
        missing,
    })
}

/// The kernel's BTF as far as attaching needs it: parsed whole it would be the program's peak of memory.
fn names(btf: &btf::Btf) -> Vec<u8> {
    let wanted = |name: &[u8]| {
        HOOKS.iter().any(|hook| {
            name.strip_prefix(b"btf_trace_")
                .or(name.strip_prefix(b"bpf_iter_"))
                == Some(hook.name.as_bytes())
        })
    };
    btf.names_only(wanted)
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, kernel: &Btf) -> Result<()> {
    let program = named(ebpf, hook.name)?;
    match hook.kind {
        Kind::BtfTracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook.name, kernel)?;
            link_second(ebpf, hook, kernel)?;
            let program: &mut BtfTracePoint = named(ebpf, hook.name)?.try_into()?;
            program.attach()?;
        }
        Kind::Tracepoint { category } => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, hook.name)?;
        }
        Kind::Iterator => {
            let program: &mut Iter = program.try_into()?;
            program.load(hook.name, kernel)?;
        }
    }
    Ok(())
}

/// Loads the program that a hook's own calls, where it has one.
fn link_second(ebpf: &mut Ebpf, hook: &Hook, kernel: &Btf) -> Result<()> {
    if hook.name != "inet_sock_set_state" {
        return Ok(());
    }
    let program: &mut BtfTracePoint = named(ebpf, "tell_end")?.try_into()?;
    program.load(hook.name, kernel)?;
    let program = program.fd()?.try_clone()?;
    let map = ebpf.map_mut("TELL_END").context("no TELL_END map")?;
    Ok(ProgramArray::try_from(map)?.set(0, &program, 0)?)
}

fn named<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(program)
        .context("the kernel half lacks this program")
}

/// One line of an error's chain, without the verifier's log but with its verdict.
fn describe(error: &anyhow::Error) -> String {
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
        let only = self
            .ebpf
            .map_mut("LISTENERS_ONLY")
            .context("no LISTENERS_ONLY map")?;
        aya::maps::Array::<_, u32>::try_from(only)?.set(0, 1, 0)?;
        self.open_sockets()
    }

    /// A fresh reading of every open socket on the host; only until `listening_sockets` is called.
    pub fn open_sockets(&mut self) -> Result<File> {
        let program: &mut Iter = self
            .ebpf
            .program_mut("task_file")
            .context("no task_file")?
            .try_into()?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}
