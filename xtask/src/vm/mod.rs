//! `cargo xtask vm`: the agent and the lab on Debian's kernels, each in a virtual machine of its own.

pub(crate) mod apt;
pub(crate) mod arch;
mod console;
mod costs;
mod document;
pub(crate) mod foreign;
mod image;
mod kernels;
mod machine;
mod pace;
mod packages;
mod poorer;
mod privileges;
mod result;
mod rights;
mod scenarios;
pub(crate) mod system;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use self::arch::Arch;
use self::kernels::Kernel;
use self::packages::{Found, Unpacked};
use self::result::Recording;
use self::scenarios::Scenario;
use self::task::Task;
use crate::test::Count;
use crate::{build, process, setup, shell};

/// Process 1 of these machines.
const OUR_INIT: &str = "/usr/bin/vm-init";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Kernels by their series, as 6.12; all of them without any
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// The kind of machine; both without it
    #[arg(long)]
    arch: Option<Arch>,
    /// Fewer scenarios: under two minutes for each kernel
    #[arg(long)]
    quick: bool,
    /// All scenarios on every kernel: hours
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Write what each kernel showed to agent/tests/kernels and docs/kernels.md
    ///
    /// Scenarios that were not run stay as they were recorded
    #[arg(long)]
    record: bool,
    /// On the oldest kernel and the newest, start and kill the agent 1,000 times, not 50; no other may be named
    #[arg(long, conflicts_with = "quick")]
    churn: bool,
    /// Boot nothing: write docs/kernels.md and docs/privileges.md from what is recorded
    #[arg(long, conflicts_with_all = ["quick", "full", "record", "churn"])]
    document: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.document {
        return document::write();
    }
    process::end_all_when_interrupted();
    let kernels = kernels::chosen(&args.kernels, args.arch)?;
    let kinds: BTreeSet<Arch> = kernels.iter().map(|kernel| kernel.arch).collect();
    let mut ends = Vec::new();
    for &arch in &kinds {
        ends.extend(kernels::ends(arch)?);
    }
    if args.churn {
        task::only_ends(&args.kernels, &ends)?;
    }
    let mut carried = BTreeMap::new();
    for &arch in &kinds {
        carried.insert(arch, compiled(arch, args.record)?);
        if let Some(lacking) = lacking(arch) {
            bail!("{lacking}: `cargo xtask setup` installs it");
        }
    }
    let task = Task {
        quick: args.quick,
        full: args.full,
        record: args.record,
        ends: &ends,
        churn: args.churn,
    };
    let outcome = boot(&kernels, &carried, task)?;
    if args.record {
        document::write()?;
    }
    if !outcome.failed.is_empty() {
        bail!("failed: Linux {}", outcome.failed.join(", "));
    }
    if outcome.skipped > 0 {
        bail!("the packages of {} kernels cannot be had", outcome.skipped);
    }
    Ok(())
}

/// The oldest kernel and the newest, for `cargo xtask test`: skipped where no machine can be run, and where
/// a kernel's packages cannot be had.
pub(crate) fn ends(agent: &Path) -> Result<Count> {
    let kernels = kernels::ends(Arch::default())?;
    if let Some(lacking) = lacking(Arch::default()) {
        for kernel in &kernels {
            println!("vm: Linux {} SKIPPED: {lacking}", kernel.series);
        }
        return Ok(Count {
            skipped: kernels.len() as u64,
            ..Count::default()
        });
    }
    let carried = BTreeMap::from([(Arch::default(), programs(agent, false)?)]);
    let task = Task {
        quick: true,
        ..Task::default()
    };
    let outcome = boot(&kernels, &carried, task)?;
    Ok(Count {
        passed: outcome.passed,
        failed: outcome.failed.len() as u64,
        skipped: outcome.skipped,
    })
}

/// What became of several kernels.
#[derive(Default)]
struct Outcome {
    passed: u64,
    /// Those on which something is wrong.
    failed: Vec<String>,
    /// Those whose packages cannot be had.
    skipped: u64,
}

/// Why no machine can be run here; `None` if one can.
fn lacking(arch: Arch) -> Option<String> {
    let tools = [
        arch.qemu(),
        "mkfs.ext4",
        "debugfs",
        "xz",
        "dpkg-deb",
        "apt-get",
    ];
    let missing: Vec<_> = tools
        .into_iter()
        .filter(|tool| shell::find(tool).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(format!("{} not installed", missing.join(", ")));
    }
    let runs = shell::ask(shell::command(arch.qemu()).arg("-version")).is_some();
    (!runs).then(|| format!("{} does not run", arch.qemu()))
}

/// By kind of machine, what its images are made of. One after another: each has its own files put into it.
type Trees = BTreeMap<Arch, Mutex<PathBuf>>;

/// Boots the kernels, as many at once as this host has processors.
fn boot(
    kernels: &[Kernel],
    carried: &BTreeMap<Arch, Vec<PathBuf>>,
    task: Task<'_>,
) -> Result<Outcome> {
    let start = Instant::now();
    let folder = packages::folder();
    std::fs::create_dir_all(&folder)?;
    let mut trees = Trees::new();
    for (&arch, programs) in carried {
        let tree = folder.join(format!("root-{}", arch.name()));
        image::tree(&tree, arch, programs)?;
        trees.insert(arch, Mutex::new(tree));
    }
    // The oldest and the newest take longest: they are first, so that no processor is left with one alone.
    let (first, then): (Vec<_>, Vec<_>) = kernels.iter().partition(|one| task.is_end(one));
    let waiting = Mutex::new(first.into_iter().chain(then));
    let outcome = Mutex::new(Outcome::default());
    let next = || waiting.lock().ok()?.next();
    let take = || {
        while let Some(kernel) = next() {
            println!("vm: Linux {} …", kernel.name());
            let became = one(kernel, &trees, task);
            if let Ok(mut outcome) = outcome.lock() {
                outcome.add(kernel, became);
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors.min(kernels.len()) {
            scope.spawn(take);
        }
    });
    let outcome = outcome.into_inner();
    let outcome = outcome.map_err(|_| anyhow::anyhow!("a thread with a machine panicked"))?;
    println!(
        "vm: {} of {} kernels passed in {} s",
        outcome.passed,
        kernels.len(),
        start.elapsed().as_secs()
    );
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, kernel: &Kernel, became: Became) {
        match became {
            Became::Skipped(why) => {
                println!("vm: Linux {} SKIPPED: {why}", kernel.name());
                self.skipped += 1;
            }
            Became::Judged(problems) if problems.is_empty() => self.passed += 1,
            Became::Judged(problems) => {
                println!("vm: Linux {} FAILED", kernel.name());
                for problem in problems {
                    println!("    {problem}");
                }
                self.failed.push(kernel.name());
            }
        }
    }
}

/// What became of one kernel.
enum Became {
    /// Its packages cannot be had.
    Skipped(String),
    /// What is wrong with it.
    Judged(Vec<String>),
}

/// What machines of this kind run.
fn compiled(arch: Arch, record: bool) -> Result<Vec<PathBuf>> {
    match arch {
        Arch::X86_64 => {
            let agent = build::run(&build::Args { release: true })?;
            programs(&agent, record)
        }
        Arch::Aarch64 => {
            setup::run(&setup::Args::default())?;
            setup::machines::install_foreign()?;
            foreign::programs(arch, record)
        }
    }
}

/// This host's own: the agent, the lab, process 1, and what makes recordings.
fn programs(agent: &Path, record: bool) -> Result<Vec<PathBuf>> {
    let cargo = || {
        let mut cargo = shell::cargo();
        cargo.args(["build", "--release", "--locked"]);
        cargo
    };
    shell::run(cargo().args(["--package", "lab"]))?;
    let release = shell::target().join("release");
    let mut programs = vec![
        agent.to_owned(),
        release.join("lab"),
        release.join("vm-init"),
    ];
    if record {
        shell::run(cargo().args(["--package", "why502", "--example", "kernel_offer"]))?;
        programs.push(release.join("examples/kernel_offer"));
    }
    Ok(programs)
}

fn one(kernel: &Kernel, trees: &Trees, task: Task<'_>) -> Became {
    static UNPACKING: Mutex<()> = Mutex::new(());
    let Some(tree) = trees.get(&kernel.arch) else {
        return Became::Judged(vec!["nothing was compiled for it".to_owned()]);
    };
    let unpacked = {
        // One at a time: several may be of the same suite.
        let _alone = UNPACKING.lock();
        match packages::unpack(kernel) {
            Ok(Found::Unpacked(unpacked)) => unpacked,
            Ok(Found::Nowhere(why)) => return Became::Skipped(why),
            Err(error) => return Became::Judged(vec![format!("{error:#}")]),
        }
    };
    if task.record
        && let Some(refused) = unpacked.unrecordable()
    {
        return Became::Judged(vec![refused]);
    }
    let problems = judge(kernel, &unpacked, tree, task);
    let mut problems = problems.unwrap_or_else(|error| vec![format!("{error:#}")]);
    if let Some(instead) = unpacked.instead.filter(|_| !problems.is_empty()) {
        problems.push(format!("FALL-BACK: it is {instead}"));
    }
    Became::Judged(problems)
}

/// Boots one kernel; what is wrong with it.
fn judge(
    kernel: &Kernel,
    unpacked: &Unpacked,
    tree: &Mutex<PathBuf>,
    task: Task<'_>,
) -> Result<Vec<String>> {
    let place = packages::folder().join(kernel.id());
    process::fresh_folder(&place)?;
    let disk = place.join("disk");
    let work = task.work(kernel);
    {
        let Ok(tree) = tree.lock() else {
            bail!("another machine's thread panicked");
        };
        image::make(&tree, unpacked, &work.commands, &disk)?;
    }
    let console = place.join("console");
    let limit = task.limit(kernel);
    let ran = machine::run(kernel.arch, unpacked, &disk, OUR_INIT, &console, limit)?;
    let took = ran.pace.took();
    let mut problems: Vec<_> = ran.too_long.into_iter().collect();
    problems.extend(ran.told.lacks(&work.commands));
    let whole = problems.is_empty();
    problems.extend(ran.told.failed());
    if !whole {
        // What is on its disk may be anything.
        problems.push(format!("its console is {}", console.display()));
        return Ok(problems);
    }
    let results = image::results(&disk, &place)?;
    std::fs::remove_file(&disk).context("remove the disk's image")?;

    let check = result::check(&results.join("check.json"))?;
    let least = result::check(&results.join("least.json"))?;
    let (scenarios, wrong) = scenarios::read(&results, &work.labs);
    if task.record && wrong.is_empty() && !scenarios.iter().any(Scenario::is_missing) {
        let mut now = Recording::of(&results, &check, &scenarios)?;
        if !task.full {
            now.keep_scenarios_of(Recording::before(kernel));
        }
        now.write(kernel)?;
    }
    let passed = scenarios
        .iter()
        .filter(|one| one.passed() == Some(true))
        .count();
    problems.extend(wrong);
    problems.extend(result::problems(&check, kernel));
    problems.extend(result::blind_with_least(&least, kernel));
    problems.extend(scenarios.iter().filter_map(Scenario::problem));
    if passed == 0 {
        problems.push("no scenario passed".to_owned());
    }
    if !problems.is_empty() {
        problems.push(format!("what it left is in {}", place.display()));
        return Ok(problems);
    }
    let blind = result::blind(&check);
    let named = match blind.is_empty() {
        true => String::new(),
        false => format!(" ({})", blind.join(", ")),
    };
    let mut told = format!(
        "vm: Linux {} passed: {} facts, {} blind{named}; {passed} scenarios right, {}; {} s\n",
        unpacked.release,
        check.len(),
        blind.len(),
        if kernel.proves() {
            "proven"
        } else {
            "none proven"
        },
        took.as_secs()
    );
    if let Some(instead) = &unpacked.instead {
        let _ = writeln!(told, "    FALL-BACK: it is {instead}");
    }
    for (scenario, proven) in scenarios.iter().filter_map(|one| Some((one, one.proven?))) {
        let _ = writeln!(told, "    {}: proven {proven}", scenario.name);
    }
    // At once: another machine may have something to tell too.
    println!("{told}    longest: {}", ran.pace.longest());
    Ok(problems)
}
