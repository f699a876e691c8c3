//! `cargo xtask bench live`: packets read live on loopback at a steady rate, and as fast as the host
//! makes them: what was lost is counted, and nothing is proven meanwhile.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::flood;
use super::load::{Mode, Pace, Site};
use super::report::Report;
use crate::agent::Agent;
use crate::process::{self, until};
use crate::{build, exposition, shell};

const FAILED: &str = "why502_failed_responses_total";
/// The proxy's name in the metrics.
const PROXY: &str = "nginx";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds per rate
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Use this why502 instead of building one
    #[arg(long, value_name = "FILE")]
    why502: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!("packets are read live by root: run it as root");
    }
    process::end_all_when_interrupted();
    process::adopt_orphans();
    let program = match &args.why502 {
        Some(file) => file.canonicalize()?,
        None => build::run(&build::Args { release: true })?,
    };
    let folder = shell::target().join("bench").join("live");
    process::fresh_folder(&folder)?;
    let site = Site::start(&folder, flood::closing_upstream()?)?;
    let time = Duration::from_secs(args.seconds);
    let mut report = Report::named("live");
    for (pace, name) in [(Pace::Steady, "steady"), (Pace::Saturated, "saturated")] {
        println!("{name} …");
        let agent = Agent::start(&program, &folder, site.pid(), |command| {
            command.args(["--source", "packets"]);
        })?;
        let (packets, failures) = (on_loopback()?, site.failures());
        let run = site.run(Mode::KeepAlive, pace, time)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let packets = (on_loopback()? - packets) as f64;
        // A busy nginx logs some of them when wrk has ended.
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let failed = || (site.failures() - failures) as f64;
        let sum = |metric: &str, labels: &[(&str, &str)]| {
            exposition::sum(&agent.metrics(), metric, labels)
        };
        // Whoever else fails on this loopback is no concern of this.
        let labelled = || sum(FAILED, &[("proxy", PROXY)]);
        // Too few in the end is a result: what was lost cannot be told.
        let _ = until("the verdicts", Duration::from_secs(3), || {
            labelled() >= failed()
        });
        let of = |cause: &str| sum(FAILED, &[("proxy", PROXY), ("cause", cause)]);
        let (right, unknown) = (of("connection_refused"), of("unknown"));
        let (failed, all) = (failed(), labelled());
        let others = sum(FAILED, &[]) - all;
        let proven = sum("why502_verdicts_total", &[("confidence", "proven")]);
        let lost = sum("why502_signals_lost_total", &[]);
        let doubtful = agent
            .since(0, 0)
            .iter()
            .filter(|line| proven_in_loss(line))
            .count();
        agent.stop()?;
        let rate = packets / run.seconds();
        report.row(
            format!("{name}: packets a second on loopback, requests a second"),
            format!("{rate:.0}, {:.0}", run.rate()),
        );
        report.row(
            "  lost, as libpcap and the program count it",
            format!("{lost:.0}"),
        );
        report.row(
            "  failed; labelled: right, unknown, wrong; proven",
            format!(
                "{failed:.0}; {right:.0}, {unknown:.0}, {:.0}; {proven:.0}",
                all - right - unknown
            ),
        );
        if pace == Pace::Steady {
            report.judged(
                "  labelled (steady)",
                format!("{all:.0}"),
                "all",
                all >= failed,
            );
        }
        report.judged(
            format!("  labelled that did not fail, or twice ({name})"),
            format!("{:.0}", (all - failed).max(0.0)),
            "none",
            all <= failed,
        );
        report.judged(
            format!("  proven, though something was lost meanwhile ({name})"),
            doubtful.to_string(),
            "none",
            doubtful == 0,
        );
        report.value(
            name,
            json!({
                "packets_per_second": rate,
                "requests_per_second": run.rate(),
                "lost": lost,
                "failed": failed,
                "labelled": all,
                "others": others,
                "right": right,
                "unknown": unknown,
                "proven": proven,
                "proven_in_loss": doubtful,
            }),
        );
    }
    let missed = report.finish()?;
    if !missed.is_empty() {
        bail!("goals missed:{}", missed.join("; "));
    }
    Ok(())
}

fn proven_in_loss(line: &Value) -> bool {
    line["confidence"] == "proven" && line["lost_signals"].as_u64() != Some(0)
}

/// Packets that the loopback interface has carried.
fn on_loopback() -> Result<u64> {
    let path = "/sys/class/net/lo/statistics/rx_packets";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("parse {path}"))
}
