//! `cargo xtask bench`: what the agent costs the proxy, and what it takes itself; `bench offline`:
//! what a capture costs; `bench live`: what is lost of packets read live.

mod flood;
mod live;
mod load;
mod memory;
mod offline;
mod pairs;
mod probes;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use self::load::{FAIL_EVERY, Mode, Pace, Run, Site};
use self::memory::Group;
use self::report::Report;
use crate::agent::Agent;
use crate::process::until;
use crate::{build, exposition, process, shell};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Few and short runs: a first look, with a wide interval
    #[arg(long)]
    quick: bool,
    /// Interleaved pairs per way of reaching the upstream
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..))]
    pairs: Option<u32>,
    /// Seconds per half of a pair
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Use this why502 instead of building one
    #[arg(long, value_name = "FILE")]
    why502: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Explain a large generated capture, and compare with libpcap and tshark
    Offline(offline::Args),
    /// Read packets live at 100,000 a second and faster, and count what is lost
    Live(live::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.part {
        Some(Part::Offline(args)) => return offline::run(args),
        Some(Part::Live(args)) => return live::run(args),
        None => {}
    }
    if !shell::is_root() {
        bail!("the measurements load probes into the kernel: run them as root");
    }
    process::end_all_when_interrupted();
    process::adopt_orphans();
    let program = match &args.why502 {
        Some(file) => file.canonicalize()?,
        None => build::run(&build::Args { release: true })?,
    };
    let pairs = args.pairs.unwrap_or(if args.quick { 4 } else { 20 });
    let seconds = args.seconds.unwrap_or(if args.quick { 2 } else { 5 });
    let folder = shell::target().join("bench");
    process::fresh_folder(&folder)?;

    let site = Site::start(&folder, flood::closing_upstream()?)?;
    let bench = Bench {
        program,
        folder,
        site,
        time: Duration::from_secs(seconds),
    };
    let mut report = Report::named("bench");
    for mode in Mode::ALL {
        bench.probes(mode, &mut report)?;
    }
    for mode in Mode::ALL {
        bench.throughput(mode, pairs, &mut report)?;
    }
    bench.storm(args.quick, &mut report)?;
    let missed = report.finish()?;
    if !missed.is_empty() {
        bail!("goals missed:{}", missed.join("; "));
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    site: Site,
    time: Duration,
}

impl Bench {
    fn agent(&self, group: Option<&Group>) -> Result<Agent> {
        Agent::start(&self.program, &self.folder, self.site.pid(), |command| {
            if let Some(group) = group {
                group.enter(command);
            }
        })
    }

    /// What each probe costs per run and per healthy request.
    fn probes(&self, mode: Mode, report: &mut Report) -> Result<()> {
        println!("probes, {} …", mode.name());
        let _counting = probes::Counting::start()?;
        let agent = self.agent(None)?;
        let before = probes::of(agent.pid())?;
        let run = self.site.run(mode, Pace::Saturated, self.time)?;
        let ran = probes::between(&before, &probes::of(agent.pid())?);
        agent.stop()?;
        if ran.is_empty() {
            bail!("the agent holds no BPF program");
        }
        report.row(format!("probes, {}", mode.name()), "");
        for probe in ran.iter().filter(|probe| probe.runs > 0.0) {
            report.row(
                format!("  {}", probe.name),
                format!(
                    "{:.0} ns × {:.3} per request",
                    probe.ns_per_run(),
                    probe.runs / run.requests
                ),
            );
        }
        let total: f64 = ran.iter().map(|probe| probe.ns).sum();
        report.row(
            "  together",
            format!("{:.0} ns per request", total / run.requests),
        );
        report.value(
            &format!("probes_{}", mode.key()),
            ran.iter().map(|probe| probe.json(run.requests)).collect(),
        );
        Ok(())
    }

    /// Throughput and latency with the agent against without.
    fn throughput(&self, mode: Mode, pairs: u32, report: &mut Report) -> Result<()> {
        let mut halves = Vec::new();
        let (mut failed, mut labelled, mut agent_cpu) = (0.0, 0.0, 0.0);
        for pair in 0..pairs {
            println!("{}: pair {} of {pairs} …", mode.name(), pair + 1);
            // Alternating, so that a drift of the machine favours neither.
            let (with, without);
            if pair % 2 == 0 {
                with = self.watched(mode)?;
                without = self.site.run(mode, Pace::Saturated, self.time)?;
            } else {
                without = self.site.run(mode, Pace::Saturated, self.time)?;
                with = self.watched(mode)?;
            }
            failed += with.failed;
            labelled += with.labelled;
            agent_cpu += with.agent_cpu;
            halves.push((with.run, without));
        }
        let of = |value: fn(&Run) -> f64| {
            pairs::ratio(
                halves
                    .iter()
                    .map(|(with, without)| (value(with), value(without))),
            )
        };
        let shown = |ratio: Option<pairs::Ratio>| match ratio {
            Some(ratio) => {
                format!(
                    "{:.4} ({:.4} to {:.4})",
                    ratio.middle, ratio.low, ratio.high
                )
            }
            None => "unknown".to_owned(),
        };
        let rate = of(Run::rate);
        let p999 = of(|run| run.p999_us);
        let cpu = of(|run| run.cpu_seconds / run.requests);
        let median = |value: fn(&Run) -> f64| {
            pairs::median(halves.iter().map(|(_, without)| value(without)).collect()).unwrap_or(0.0)
        };
        report.row(
            mode.name(),
            format!(
                "{:.0}/s without, nginx at {:.0} % of a core",
                median(Run::rate),
                median(|run| 100.0 * run.cpu_seconds / run.seconds())
            ),
        );
        report.judged(
            format!("  throughput, with/without ({})", mode.key()),
            shown(rate),
            "at least 0.98",
            rate.is_some_and(|ratio| ratio.middle >= 0.98),
        );
        report.row("  nginx's CPU per request, with/without", shown(cpu));
        report.row("  p99.9 latency, with/without", shown(p999));
        report.row(
            "  p50, p99.9 without",
            format!(
                "{:.0}, {:.0} µs",
                median(|run| run.p50_us),
                median(|run| run.p999_us)
            ),
        );
        report.judged(
            format!("  failed (1 in {FAIL_EVERY}), labelled ({})", mode.key()),
            format!("{failed:.0}, {labelled:.0}"),
            "equal",
            (failed - labelled).abs() < 0.5,
        );
        let watched: f64 = halves.iter().map(|(with, _)| with.requests).sum();
        // Seconds of CPU per request, times requests a second.
        let share = 100.0 * agent_cpu / watched * 10_000.0;
        report.judged(
            format!("  agent's CPU at 10,000 requests/s ({})", mode.key()),
            format!("{share:.2} % of a core"),
            "at most 2 %",
            share <= 2.0,
        );
        let json_ratio = |ratio: Option<pairs::Ratio>| {
            ratio.map(|ratio| json!({"ratio": ratio.middle, "low": ratio.low, "high": ratio.high}))
        };
        report.value(
            mode.key(),
            json!({
                "pairs": pairs,
                "seconds_per_half": self.time.as_secs(),
                "requests_per_second": median(Run::rate),
                "throughput": json_ratio(rate),
                "p999": json_ratio(p999),
                "proxy_cpu_per_request": json_ratio(cpu),
                "failed": failed,
                "labelled": labelled,
                "agent_cpu_percent_at_10000": share,
            }),
        );
        Ok(())
    }

    /// One half of a pair: the load with the agent beside it.
    fn watched(&self, mode: Mode) -> Result<Watched> {
        let agent = self.agent(None)?;
        let failures = self.site.failures();
        let cpu = agent.cpu_seconds()?;
        let run = self.site.run(mode, Pace::Saturated, self.time)?;
        let agent_cpu = agent.cpu_seconds()? - cpu;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 lines")]
        let failed = (self.site.failures() - failures) as f64;
        let labelled = || {
            let cause = [("cause", "connection_refused")];
            exposition::sum(&agent.metrics(), "why502_failed_responses_total", &cause)
        };
        // Too few in the end is a result, not an error of the measurement.
        let _ = until("the verdicts", Duration::from_secs(2), || {
            labelled() >= failed
        });
        let labelled = labelled();
        agent.stop()?;
        Ok(Watched {
            run,
            failed,
            labelled,
            agent_cpu,
        })
    }

    /// Memory after many flows, then failures faster than any host should have.
    fn storm(&self, quick: bool, report: &mut Report) -> Result<()> {
        let wanted = if quick { 20_000.0 } else { 100_000.0 };
        let group = Group::create();
        let agent = self.agent(group.as_ref())?;
        println!("memory …");
        let mut flows = 0.0;
        while flows < wanted {
            flows += self
                .site
                .run(Mode::Fresh, Pace::Saturated, self.time)?
                .requests;
        }
        println!("failures …");
        let seconds = Duration::from_secs(if quick { 3 } else { 10 });
        let to = self.site.address;
        let flood = flood::flood(&agent, to, "/fail", "connection_refused", 2000, seconds)?;
        let waiting = flood::flood(
            &agent,
            to,
            "/close",
            "upstream_closed_early",
            40,
            Duration::from_secs(3),
        )?;
        let text = agent.metrics();
        let lost = exposition::sum(&text, "why502_signals_lost_total", &[]);
        let peak = memory::peak(agent.pid(), group.as_ref())?;
        let maps = probes::map_bytes(agent.pid())?;
        let anonymous = memory::resident(agent.pid(), "RssAnon")?;
        agent.stop()?;
        drop(group);

        let megabytes = peak.bytes / 1e6;
        report.judged(
            format!("memory after {flows:.0} flows ({})", peak.how),
            format!("{megabytes:.1} MB"),
            "at most 30 MB",
            megabytes <= 30.0,
        );
        report.row(
            "  at the end: maps, anonymous memory",
            format!("{:.1} MB, {:.1} MB", maps / 1e6, anonymous / 1e6),
        );
        report.judged(
            format!(
                "failed responses at {:.0}/s, labelled",
                flood.failed / flood.seconds
            ),
            format!("{:.0}, {:.0}", flood.failed, flood.labelled),
            "equal",
            (flood.failed - flood.labelled).abs() < 0.5,
        );
        report.judged("signals lost", format!("{lost:.0}"), "none", lost < 0.5);
        let delay = |delay: Option<f64>| {
            delay.map_or("unknown".to_owned(), |delay| {
                format!("at most {:.0} ms", delay * 1e3)
            })
        };
        report.judged(
            "response to verdict, p99",
            delay(flood.delay_p99),
            "under 100 ms",
            flood.delay_p99.is_some_and(|delay| delay <= 0.1),
        );
        report.row(
            "  where it waits for a later fact, p99",
            delay(waiting.delay_p99),
        );
        report.value(
            "storm",
            json!({
                "flows": flows,
                "memory_bytes": peak.bytes,
                "memory_measured_as": peak.how,
                "map_bytes": maps,
                "anonymous_bytes": anonymous,
                "failed": flood.failed,
                "failed_per_second": flood.failed / flood.seconds,
                "labelled": flood.labelled,
                "signals_lost": lost,
                "delay_p99_at_most_seconds": flood.delay_p99,
                "waiting_failed": waiting.failed,
                "waiting_labelled": waiting.labelled,
                "waiting_delay_p99_at_most_seconds": waiting.delay_p99,
            }),
        );
        Ok(())
    }
}

/// What the watched half of a pair saw.
struct Watched {
    run: Run,
    failed: f64,
    labelled: f64,
    agent_cpu: f64,
}
