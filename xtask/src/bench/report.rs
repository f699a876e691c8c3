//! The table of a bench run, and its JSON.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::shell;

/// Rows for people beside values for programs.
pub(crate) struct Report {
    /// Of the file, in `target/bench`.
    name: &'static str,
    rows: Vec<Row>,
    json: Map<String, Value>,
}

struct Row {
    what: String,
    value: String,
    /// What it should be, and whether it is.
    goal: Option<(String, bool)>,
}

impl Report {
    pub(crate) fn named(name: &'static str) -> Report {
        Report {
            name,
            rows: Vec::new(),
            json: Map::new(),
        }
    }

    pub(crate) fn row(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.rows.push(Row {
            what: what.into(),
            value: value.into(),
            goal: None,
        });
    }

    pub(crate) fn judged(
        &mut self,
        what: impl Into<String>,
        value: impl Into<String>,
        goal: impl Into<String>,
        reached: bool,
    ) {
        self.rows.push(Row {
            what: what.into(),
            value: value.into(),
            goal: Some((goal.into(), reached)),
        });
    }

    pub(crate) fn value(&mut self, key: &str, value: Value) {
        self.json.insert(key.to_owned(), value);
    }

    /// Prints the table and writes the JSON; the goals that were missed.
    pub(crate) fn finish(mut self) -> Result<Vec<String>> {
        let machine = machine();
        println!("\n{}", machine_line(&machine));
        let width = self
            .rows
            .iter()
            .map(|row| row.what.chars().count())
            .max()
            .unwrap_or(0);
        let second = self
            .rows
            .iter()
            .map(|row| row.value.chars().count())
            .max()
            .unwrap_or(0);
        for row in &self.rows {
            let goal = match &row.goal {
                Some((goal, true)) => format!("  {goal}: reached"),
                Some((goal, false)) => format!("  {goal}: MISSED"),
                None => String::new(),
            };
            println!("{:<width$}  {:>second$}{goal}", row.what, row.value);
        }
        self.value("machine", machine);
        let folder = shell::target().join("bench");
        fs::create_dir_all(&folder)?;
        let file: PathBuf = folder.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&Value::Object(self.json))?;
        fs::write(&file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        println!("\nwritten to {}", file.display());
        Ok(self
            .rows
            .into_iter()
            .filter(|row| matches!(row.goal, Some((_, false))))
            .map(|row| row.what)
            .collect())
    }
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let version = |program: &str, option: &str| {
        // nginx writes its version to standard error.
        shell::command(program)
            .arg(option)
            .output()
            .ok()
            .map(|output| {
                let text = if output.stdout.is_empty() {
                    output.stderr
                } else {
                    output.stdout
                };
                String::from_utf8_lossy(&text)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
    };
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "nginx": version("nginx", "-v"),
    })
}

fn machine_line(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
    format!(
        "{} ({} cores), {} memory, Linux {}, {}",
        text("cpu"),
        machine["cores"],
        text("memory"),
        text("kernel"),
        text("nginx")
    )
}
