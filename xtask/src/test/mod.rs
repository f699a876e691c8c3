//! `cargo xtask test`: everything that has to pass before a change lands.

mod count;
mod deploy;
mod image;
mod leftovers;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

pub(crate) use self::count::Count;
use self::leftovers::Before;
use crate::{browser, build, lab, process, setup, shell, vm};

/// The matrix has the same conditions each time: what fails here that has not before is a change's doing.
/// Other draws are looked for with `cargo xtask lab matrix`.
const SEED: &str = "1";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the lab, here and on other kernels: nothing then needs root or a kernel with BTF
    #[arg(long)]
    no_lab: bool,
    /// Options for the lab, after `--`
    #[arg(last = true)]
    lab: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    process::adopt_orphans();
    process::end_all_when_interrupted();
    setup::run(&setup::Args::default())?;
    let before = Before::now();
    let mut total = Count::default();
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    let mut why = Vec::new();

    let mut check = |what: &str, result: Result<Count>| {
        let count = result.unwrap_or_else(|error| {
            eprintln!("{what}: {error:#}");
            Count::FAILED
        });
        println!("── {what}: {count} ({} s)", start.elapsed().as_secs());
        if count.failed > 0 {
            failed.push(what.to_owned());
        }
        if count.skipped > 0 {
            skipped.push(format!("{} of {what}", count.skipped));
        }
        total += count;
    };

    check(
        "format",
        passes(shell::cargo().args(["fmt", "--all", "--check"])),
    );
    check(
        "lints",
        passes(shell::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])),
    );
    check(
        "unit tests and replays",
        // A snapshot that differs fails; it is never written here.
        counted(
            shell::cargo()
                .args(["test", "--workspace", "--locked"])
                .env("INSTA_UPDATE", "no"),
            &mut why,
        ),
    );
    check("alert and recording rules", rules());
    check("dashboards", dashboards());
    check("manifests", deploy::manifests());
    let program = build::run(&build::Args { release: true });
    let built = program
        .as_ref()
        .map(|_| Count::PASSED)
        .map_err(|error| anyhow::anyhow!("{error:#}"));
    check("build", built);
    if let Ok(program) = &program {
        check("unit", deploy::unit(program));
        check("report in a browser", in_browser(program, &mut why));
    }
    if let (Ok(program), false) = (program, args.no_lab) {
        let mut lab = lab::command(&program);
        lab.arg("--packets").args(&args.lab);
        check("lab", counted(&mut lab, &mut why));
        let mut matrix = lab::command(&program);
        matrix.arg("matrix").args(["--jobs", "6"]);
        matrix.args(["--seed", SEED]);
        check(
            "matrix of proxies and causes",
            counted(&mut matrix, &mut why),
        );
        check("image", image::image(&program, &mut why));
        check("oldest and newest kernel", vm::ends(&program));
    }
    check("nothing left behind", before.compare());

    // At the end, where it is read, however long the output above is.
    for line in &why {
        println!("{line}");
    }
    if !skipped.is_empty() {
        println!("SKIPPED, so not looked at: {}", skipped.join(", "));
    }
    println!("{total}");
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// A command that counts as one check.
fn passes(command: &mut Command) -> Result<Count> {
    shell::run(command).map(|()| Count::PASSED)
}

/// A command that prints how many of its checks passed; what it says of those that did not is
/// added to `why`.
fn counted(command: &mut Command, why: &mut Vec<String>) -> Result<Count> {
    shell::announce(command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("start it")?;
    let mut count = Count::default();
    let mut failing = false;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            count += Count::from_line(&line).unwrap_or_default();
            // A line says that it failed; those below it that are indented say how.
            failing = line.contains("FAILED") || (failing && line.starts_with("    "));
            if failing {
                why.push(line);
            }
        }
    }
    let status = child.wait()?;
    // A test that aborts, or does not compile, prints no count.
    if !status.success() && count.failed == 0 {
        count += Count::FAILED;
    }
    if status.success() && count == Count::default() {
        bail!("{} ran no test", shell::line(command));
    }
    Ok(count)
}

/// Skipped, with the reason, where no browser can be had.
fn in_browser(program: &Path, why: &mut Vec<String>) -> Result<Count> {
    match setup::browser::find() {
        Ok(found) => counted(&mut browser::test(&found, program)?, why),
        Err(reason) => {
            println!("skipped: the report in a browser: {reason:#}");
            Ok(Count::SKIPPED)
        }
    }
}

/// The system's, and a newer one; skipped aloud where that cannot be had.
fn promtools() -> (Vec<&'static str>, Count) {
    let newer = setup::prometheus::PROGRAMS[1].1;
    if shell::find(newer).is_none() {
        println!("skipped: there is no {newer}");
        return (vec!["promtool"], Count::SKIPPED);
    }
    (vec!["promtool", newer], Count::default())
}

fn rules() -> Result<Count> {
    let folder = shell::root().join("dashboards/prometheus");
    let (promtools, mut count) = promtools();
    for program in promtools {
        for (what, file) in [("check", "rules.yml"), ("test", "rules_test.yml")] {
            let mut promtool = shell::command(program);
            promtool.args([what, "rules"]).arg(folder.join(file));
            count += passes(&mut promtool)?;
        }
    }
    Ok(count)
}

/// Every expression of the dashboards, as a rule, so that promtool parses it.
fn dashboards() -> Result<Count> {
    let folder = shell::root().join("dashboards/grafana");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
    let mut groups = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let dashboard: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let mut expressions = Vec::new();
        collect(&dashboard, &mut expressions);
        let rules: Vec<_> = expressions
            .iter()
            .enumerate()
            .map(|(number, expression)| {
                let expression = expression
                    .replace("$__rate_interval", "5m")
                    .replace("$__range", "1h")
                    .replace("$pool", "60")
                    .replace("$proxy", ".*")
                    .replace("$upstream", ".*")
                    .replace("$socket", ".*")
                    .replace("$instance", ".*");
                serde_json::json!({"record": format!("panel:{number}"), "expr": expression})
            })
            .collect();
        if rules.is_empty() {
            bail!("{} holds no expression", path.display());
        }
        groups.push(serde_json::json!({"name": path.display().to_string(), "rules": rules}));
    }
    let rules = serde_json::json!({"groups": groups});
    // JSON is YAML.
    let file = shell::target().join("dashboard-rules.yml");
    std::fs::write(&file, rules.to_string())?;
    let (promtools, mut count) = promtools();
    for program in promtools {
        let mut promtool = shell::command(program);
        promtool.args(["check", "rules", "--lint=none"]).arg(&file);
        count += passes(&mut promtool)?;
    }
    Ok(count)
}

fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" => found.push(text.to_owned()),
                    _ => collect(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}
