//! `cargo xtask bench offline`: what explaining a large capture costs, and whether every verdict
//! is right, against a bare libpcap loop and tshark on the same packets.

mod chance;
mod generate;
mod measure;
mod session;
mod verdicts;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use self::generate::Generated;
use self::measure::Cost;
use super::pairs::median;
use super::report::Report;
use crate::{build, process, shell};

/// Sessions of two connections, for two million packets in over 1 GB.
const SESSIONS: u32 = 50_000;
/// tshark needs minutes for that many: it gets fewer, and its time is scaled.
const TSHARK_SESSIONS: u32 = 5_000;
/// Sessions at once: 20,000 connections.
const AT_ONCE: u32 = 10_000;
const SEED: u64 = 502;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A tenth of the packets: a first look
    #[arg(long)]
    quick: bool,
    /// Runs of each, of which the median counts
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Leave the captures in target/bench/offline, with the truth of each beside it
    #[arg(long)]
    keep: bool,
    /// Use this why502 instead of building one
    #[arg(long, value_name = "FILE")]
    why502: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let program = match &args.why502 {
        Some(file) => file.canonicalize()?,
        None => build::run(&build::Args { release: true })?,
    };
    let bench = Bench {
        program,
        bare_loop: example("bare_loop")?,
        decode: example("decode_capture")?,
        runs: args.runs,
        scale: if args.quick { 10 } else { 1 },
    };
    let folder = shell::target().join("bench/offline");
    process::fresh_folder(&folder)?;
    let mut report = Report::named("offline");
    for (key, what, at_once) in [
        ("sequential", "one after another", 1),
        (
            "interleaved",
            "20,000 connections at once",
            AT_ONCE / bench.scale,
        ),
    ] {
        let file = folder.join(format!("{key}.pcap"));
        println!("writing {} …", file.display());
        let generated = generate::capture(&file, SESSIONS / bench.scale, at_once, SEED)?;
        let truth = serde_json::to_string_pretty(&generated.truths)?;
        fs::write(file.with_extension("truth.json"), truth)?;
        bench.capture(key, what, &file, &generated, &mut report)?;
        if !args.keep {
            fs::remove_file(&file)?;
        }
    }
    bench.tshark(&folder, &mut report)?;
    if !args.keep {
        fs::remove_dir_all(&folder)?;
    }
    let missed = report.finish()?;
    if !missed.is_empty() {
        bail!("goals missed:{}", missed.join("; "));
    }
    Ok(())
}

/// Builds an example of the agent's and gives its path.
fn example(name: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "why502",
        "--example",
        name,
    ]);
    shell::run(&mut cargo)?;
    Ok(shell::target().join("release/examples").join(name))
}

struct Bench {
    program: PathBuf,
    bare_loop: PathBuf,
    decode: PathBuf,
    runs: u32,
    scale: u32,
}

impl Bench {
    fn explain(&self, file: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("explain").arg(file).args(["--json", "--quiet"]);
        command
    }

    fn capture(
        &self,
        key: &str,
        what: &str,
        file: &Path,
        generated: &Generated,
        report: &mut Report,
    ) -> Result<()> {
        let (mut bare, mut decode, mut explain) = (Vec::new(), Vec::new(), Vec::new());
        let of = |program: &Path| {
            let mut command = Command::new(program);
            command.arg(file);
            command
        };
        // Once unmeasured, so that the file is in memory for all.
        measure::run(&mut of(&self.bare_loop))?;
        let mut last = None;
        for _ in 0..self.runs {
            // Alternating, so that a drift of the machine favours none.
            bare.push(measure::run(&mut of(&self.bare_loop))?);
            decode.push(measure::run(&mut of(&self.decode))?);
            let cost = measure::run(&mut self.explain(file))?;
            explain.push((cost.cpu_seconds, cost.peak_bytes));
            last = Some(cost.output);
        }
        let cpu = |costs: &[Cost]| median(costs.iter().map(|cost| cost.cpu_seconds).collect());
        let bare = cpu(&bare).context("a run")?;
        let decode = cpu(&decode).context("a run")?;
        let own = median(explain.iter().map(|&(cpu, _)| cpu).collect()).context("a run")?;
        let peak = explain.iter().map(|&(_, peak)| peak).fold(0.0, f64::max);
        let packets = number(generated.packets);

        report.row(
            format!("{what}: packets, bytes, connections, exchanges"),
            format!(
                "{}, {}, {}, {}",
                generated.packets, generated.bytes, generated.connections, generated.exchanges
            ),
        );
        let each = |seconds: f64| format!("{seconds:.3} s, {:.0} ns each", seconds / packets * 1e9);
        report.row("  bare libpcap loop, CPU", each(bare));
        report.row(
            "  read and decode alone, CPU",
            format!("{}, {:.2} times the loop", each(decode), decode / bare),
        );
        report.judged(
            format!("  explain, CPU ({key})"),
            format!("{}, {:.2} times the loop", each(own), own / bare),
            "at most 1.5 times the loop",
            own <= 1.5 * bare,
        );
        let open = if key == "sequential" {
            2
        } else {
            2 * AT_ONCE / self.scale
        };
        let limit = 32.0 * 1024.0 * 1024.0 + 256.0 * f64::from(open);
        report.judged(
            format!("  explain, peak memory ({key})"),
            format!("{:.1} MB", peak / 1e6),
            format!("at most {:.1} MB", limit / 1e6),
            peak <= limit,
        );
        let judged = verdicts::judge(&generated.truths, &last.unwrap_or_default())?;
        report.judged(
            format!("  failed exchanges, right, wrong, extra, false proven ({key})"),
            judged.to_string(),
            "all right",
            judged.all_right(),
        );
        for line in &judged.complaints {
            println!("{key}: {line}");
        }
        report.value(
            key,
            json!({
                "packets": generated.packets,
                "bytes": generated.bytes,
                "connections": generated.connections,
                "exchanges": generated.exchanges,
                "runs": self.runs,
                "bare_loop_cpu_seconds": bare,
                "read_and_decode_cpu_seconds": decode,
                "explain_cpu_seconds": own,
                "explain_to_bare_loop": own / bare,
                "peak_bytes": peak,
                "verdicts": judged.json(),
            }),
        );
        Ok(())
    }

    /// On fewer packets, both programs on the same file: tshark once, for it takes seconds.
    fn tshark(&self, folder: &Path, report: &mut Report) -> Result<()> {
        if shell::find("tshark").is_none() {
            bail!("tshark is not installed; `cargo xtask setup` installs it");
        }
        let file = folder.join("tshark.pcap");
        let sessions = TSHARK_SESSIONS / self.scale;
        let generated = generate::capture(&file, sessions, AT_ONCE.min(sessions), SEED)?;
        let mut own = Vec::new();
        for _ in 0..self.runs {
            own.push(measure::run(&mut self.explain(&file))?.cpu_seconds);
        }
        let own = median(own).context("a run")?;
        let mut tshark = shell::command("tshark");
        tshark
            .arg("-r")
            .arg(&file)
            .args(["-Y", "http.response", "-T", "fields", "-e", "frame.number"])
            .stderr(Stdio::null());
        let tshark = measure::run(&mut tshark)?.cpu_seconds;
        report.row(
            format!(
                "tshark -Y http.response, CPU on {} packets",
                generated.packets
            ),
            format!("{tshark:.1} s; {own:.3} s for explain"),
        );
        report.judged(
            "  tshark's CPU to explain's",
            format!("{:.0} times", tshark / own),
            "at least 100 times",
            tshark >= 100.0 * own,
        );
        report.value(
            "tshark",
            json!({
                "packets": generated.packets,
                "tshark_cpu_seconds": tshark,
                "explain_cpu_seconds": own,
                "ratio": tshark / own,
            }),
        );
        fs::remove_file(&file)?;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}

/// The text of a field, or nothing.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
