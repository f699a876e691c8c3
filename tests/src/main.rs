//! `lab`: runs the scenarios and says whether why502 labelled every failed response rightly.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lab::prometheus::Prometheus;
use lab::report::{Outcome, Report};
use lab::run::{Options, Run, Scenario};
use lab::{matrix, process, rows, upstream};

/// Breaks real proxies and upstreams on purpose and compares why502's verdicts with the truth.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Args {
    /// The program under test.
    #[arg(long, env = "WHY502", default_value = "target/debug/why502")]
    why502: PathBuf,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    row: Vec<u8>,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    name: Option<String>,
    /// At least 30 failures per row and variant, instead of 3.
    #[arg(long)]
    full: bool,
    /// Where results, logs and recordings go.
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Only list the scenarios.
    #[arg(long)]
    list: bool,
    /// Without why502: check that each fault does to the client what the scenario says.
    #[arg(long)]
    no_agent: bool,
    /// Do not compare the counters in a real Prometheus: there is none.
    #[arg(long)]
    no_prometheus: bool,
    /// Also capture packets at the proxy, explain them, and compare both with the truth.
    #[arg(long)]
    packets: bool,
    /// Where the kernel lets nothing be proven (before 5.12): right causes have to be `likely`.
    #[arg(long)]
    unproven: bool,
    /// Where the kernel leaves out runs of probes (it preempts them from 7.0 on): right causes may be
    /// `likely` where the verdict says that signals were lost.
    #[arg(long)]
    lossy: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Parts that the lab starts of itself.
#[derive(clap::Subcommand)]
enum Part {
    /// A server that misbehaves as told.
    #[command(hide = true)]
    Upstream(upstream::Args),
    /// Proxies × upstreams × causes, judged pair by pair.
    Matrix(matrix::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.part {
        Some(Part::Upstream(ref upstream)) => end(upstream::serve(upstream).map(|()| true)),
        Some(Part::Matrix(ref matrix)) => end(run_matrix(&args, matrix)),
        None => end(run(&args)),
    }
}

fn end(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let scenarios: Vec<Scenario> = rows::all()
        .into_iter()
        .filter(|scenario| args.row.is_empty() || args.row.contains(&scenario.row))
        .filter(|scenario| {
            let wanted = args.name.as_deref();
            wanted.is_none_or(|name| scenario.name.contains(name))
        })
        .collect();
    if scenarios.is_empty() {
        bail!("no scenario is of that row and name (see --list)");
    }
    if args.list {
        for scenario in &scenarios {
            println!("row {:>2} {}", scenario.row, scenario.name);
        }
        return Ok(true);
    }
    check_root()?;
    if !args.no_agent && !args.why502.is_file() {
        bail!(
            "{} is not there: build it, name it with --why502, or check the faults alone with --no-agent",
            args.why502.display()
        );
    }
    end_children_on_interrupt();
    let mut report = Report::default();
    let options = Options {
        why502: match args.no_agent {
            true => None,
            false => Some(args.why502.canonicalize()?),
        },
        full: args.full,
        out: args.out.clone(),
        prometheus: prometheus(args, &mut report)?,
        packets: args.packets,
        unproven: args.unproven,
        lossy: args.lossy,
    };
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("create {}", options.out.display()))?;

    if args.packets && !args.no_agent && process::program("tcpdump").is_none() {
        report.skip("packets alone", "tcpdump is not installed");
    }
    for scenario in &scenarios {
        let began = Instant::now();
        let outcome = carry_out(scenario, &options);
        let agent = options.why502.is_some();
        report.add(scenario.row, scenario.name, began.elapsed(), agent, outcome);
    }
    report.print_confusion();
    report.check_packets(args.row.is_empty() && args.name.is_none());
    let settings = serde_json::json!({"full": args.full, "agent": options.why502});
    let results = options.out.join("results.json");
    std::fs::write(
        &results,
        serde_json::to_string_pretty(&report.json(settings))?,
    )
    .with_context(|| format!("write {}", results.display()))?;
    println!(
        "{} passed, {} failed, {} skipped",
        report.passed, report.failed, report.skipped
    );
    Ok(report.failed == 0)
}

fn check_root() -> Result<()> {
    // SAFETY: reads the effective user id.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and control groups: run it as root");
    }
    Ok(())
}

fn run_matrix(args: &Args, matrix: &matrix::Args) -> Result<bool> {
    check_root()?;
    let why502 = args.why502.canonicalize();
    let why502 = why502.with_context(|| format!("find {}", args.why502.display()))?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    end_children_on_interrupt();
    matrix::run(matrix, &why502, &args.out)
}

/// The Prometheus of this run, where there is one to be had.
fn prometheus(args: &Args, report: &mut Report) -> Result<Option<Arc<Prometheus>>> {
    let lacking = match () {
        () if args.no_agent => return Ok(None),
        () if args.no_prometheus => "--no-prometheus",
        () if process::program("prometheus").is_none() => "prometheus is not installed",
        () => return Ok(Some(Arc::new(Prometheus::start()?))),
    };
    report.skip("counters in Prometheus", lacking);
    Ok(None)
}

fn carry_out(scenario: &Scenario, options: &Options) -> Outcome {
    let lacking: Vec<String> = scenario
        .needs
        .iter()
        .filter_map(|need| need.lacking(options))
        .collect();
    if !lacking.is_empty() {
        return Outcome::Skipped(lacking.join(", "));
    }
    let judged = Run::new(options, scenario).and_then(|mut run| {
        (scenario.run)(&mut run)?;
        run.finish()
    });
    match judged {
        Ok(judged) => Outcome::Judged(Box::new(judged)),
        Err(error) => Outcome::Broken(format!("{error:#}")),
    }
}

/// Ctrl-C and SIGTERM end what the lab started, then the lab.
fn end_children_on_interrupt() {
    // SAFETY: plain calls on a signal set that lives in this frame; threads and children made
    // later inherit the blocked mask (`Proc` clears it in children).
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: waits for one of the signals blocked above.
        unsafe { libc::sigwait(&set, &mut signal) };
        process::kill_all();
        std::process::exit(130);
    });
}
