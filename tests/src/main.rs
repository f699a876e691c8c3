//! `lab`: runs the scenarios and says whether why502 labelled every failed response rightly.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser};
use lab::prometheus::Prometheus;
use lab::report::{Outcome, Report};
use lab::run::{Options, Run, Scenario};
use lab::{keeper, matrix, process, rows, upstream, without};

/// Breaks real proxies and upstreams on purpose and compares why502's verdicts with the truth: the
/// scenarios of the lab, row by row, and the matrix of proxies and causes. An option of one of the
/// two leaves out the other.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Args {
    /// The program under test.
    #[arg(
        long,
        env = "WHY502",
        default_value = "target/debug/why502",
        global = true
    )]
    why502: PathBuf,
    /// Where results, logs and recordings go.
    #[arg(long, default_value = "lab-results", global = true)]
    out: PathBuf,
    /// Only list the scenarios, or proxies, upstreams and causes.
    #[arg(long, global = true)]
    list: bool,
    #[command(flatten, next_help_heading = "Scenarios")]
    rows: Rows,
    #[command(flatten, next_help_heading = "Matrix")]
    matrix: matrix::Args,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(clap::Args)]
struct Rows {
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    row: Vec<u8>,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    name: Option<String>,
    /// At least 30 failures per row and variant, instead of 3.
    #[arg(long)]
    full: bool,
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
}

/// Parts that the lab starts of itself.
#[derive(clap::Subcommand)]
enum Part {
    /// A server that misbehaves as told.
    #[command(hide = true)]
    Upstream(upstream::Args),
    /// A command on a host that offers less to probes.
    #[command(hide = true)]
    Without(without::Args),
    /// Some of everything that the lab makes, until it is interrupted.
    #[command(hide = true)]
    Held(rows::Held),
    /// Proxies × upstreams × causes, judged pair by pair.
    Matrix(matrix::Args),
}

fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let asked = |of: clap::Command| {
        let given = |arg: &clap::Arg| {
            let source = matches.value_source(arg.get_id().as_str());
            source == Some(ValueSource::CommandLine)
        };
        of.get_arguments().any(given)
    };
    let (rows, matrix) = (
        asked(Rows::augment_args(clap::Command::new("rows"))),
        asked(matrix::Args::augment_args(clap::Command::new("matrix"))),
    );
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    if let Some(Part::Upstream(upstream)) = &args.part {
        return end(upstream::serve(upstream).map(|()| true));
    }
    if let Some(Part::Without(without)) = &args.part {
        return end(without::exec(without).map(|()| true));
    }
    if !args.list {
        if let Err(error) = keeper::keep() {
            return end(Err(error));
        }
        end_children_on_interrupt();
    }
    match &args.part {
        Some(Part::Held(held)) => end(hold(&args, held)),
        Some(Part::Matrix(matrix)) if !rows => end(run_matrix(&args, matrix)),
        None if !rows || !matrix => end(run_both(&args, !matrix, !rows)),
        _ => {
            let what = "some of these options are of scenarios, others of the matrix (see --help)";
            end(Err(anyhow::anyhow!(what)))
        }
    }
}

/// The scenarios, and then the matrix.
fn run_both(args: &Args, rows: bool, matrix: bool) -> Result<bool> {
    let rows = !rows || run(args, &args.rows)?;
    let matrix = !matrix || run_matrix(args, &args.matrix)?;
    Ok(rows && matrix)
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

fn run(args: &Args, wanted: &Rows) -> Result<bool> {
    let scenarios: Vec<Scenario> = rows::all()
        .into_iter()
        .filter(|scenario| wanted.row.is_empty() || wanted.row.contains(&scenario.row))
        .filter(|scenario| {
            let name = wanted.name.as_deref();
            name.is_none_or(|name| scenario.name.contains(name))
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
    if !wanted.no_agent && !args.why502.is_file() {
        bail!(
            "{} is not there: build it, name it with --why502, or check the faults alone with --no-agent",
            args.why502.display()
        );
    }
    let mut report = Report::default();
    let options = Options {
        why502: match wanted.no_agent {
            true => None,
            false => Some(args.why502.canonicalize()?),
        },
        full: wanted.full,
        out: args.out.clone(),
        prometheus: prometheus(wanted, &mut report)?,
        packets: wanted.packets,
        unproven: wanted.unproven,
        lossy: wanted.lossy,
    };
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("create {}", options.out.display()))?;

    if wanted.packets && !wanted.no_agent && process::program("tcpdump").is_none() {
        report.skip("packets alone", "tcpdump is not installed");
    }
    for scenario in &scenarios {
        let began = Instant::now();
        let outcome = carry_out(scenario, &options);
        let agent = options.why502.is_some();
        report.add(scenario.row, scenario.name, began.elapsed(), agent, outcome);
    }
    let whole = wanted.row.is_empty() && wanted.name.is_none();
    if let Some(prometheus) = options.prometheus.as_ref().filter(|_| whole) {
        for (version, result) in prometheus.panels() {
            report.check(&format!("dashboards and rules in {version}"), result);
        }
    }
    report.print_confusion();
    report.check_packets(whole);
    let settings = serde_json::json!({
        "full": wanted.full, "agent": options.why502, "lossy": wanted.lossy
    });
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
    if args.list {
        matrix::list();
        return Ok(true);
    }
    check_root()?;
    let why502 = args.why502.canonicalize();
    let why502 = why502.with_context(|| format!("find {}", args.why502.display()))?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    matrix::run(matrix, &why502, &args.out)
}

fn hold(args: &Args, held: &rows::Held) -> Result<bool> {
    check_root()?;
    rows::hold(held, &args.why502, &args.out).map(|()| true)
}

/// The Prometheus of this run, where there is one to be had.
fn prometheus(wanted: &Rows, report: &mut Report) -> Result<Option<Arc<Prometheus>>> {
    let lacking = match () {
        () if wanted.no_agent => return Ok(None),
        () if wanted.no_prometheus => "--no-prometheus",
        () if process::program("prometheus").is_none() => "prometheus is not installed",
        () => {
            for newer in Prometheus::lacking() {
                report.skip(
                    "dashboards and rules there",
                    &format!("{newer} is not installed"),
                );
            }
            return Ok(Some(Arc::new(Prometheus::start()?)));
        }
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

/// Who is interrupted in spite of those in front ends what it started, then itself.
fn end_children_on_interrupt() {
    // SAFETY: plain calls on a signal set that lives in this frame; threads and children made
    // later inherit the blocked mask (`Proc` clears it in children).
    let set = unsafe {
        let set = keeper::ends();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: waits for one of the signals blocked above.
        unsafe { libc::sigwait(&set, &mut signal) };
        process::kill_all();
        std::process::exit(128 + signal);
    });
}
