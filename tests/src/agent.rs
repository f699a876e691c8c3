//! why502 beside a scenario: started as a user would, its lines kept for the judge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Proc;
use crate::wait::{self, monotonic_ns};

const ATTACH: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(20);
/// The contract's latest time for a verdict is 250 ms after the response (or two round trips).
const SETTLE: Duration = Duration::from_secs(2);

/// What `why502 explain` says of a capture or recording, of logs, or of both together.
pub fn explain(why502: &Path, file: Option<&Path>, logs: &[PathBuf]) -> Result<Vec<Value>> {
    let mut command = Command::new(why502);
    command.args(["explain", "--json"]).args(file);
    for log in logs {
        command.arg("--log").arg(log);
    }
    let output = command.output().context("run why502 explain")?;
    if !output.status.success() {
        bail!("explain: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of explain"))
        .collect()
}

/// A why502 under way, all that it says kept.
pub struct Capture {
    proc: Proc,
    /// Each with the moment at which it was read.
    lines: Arc<Mutex<Vec<(u64, Value)>>>,
    messages: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// All it said.
pub struct Captured {
    pub lines: Vec<Value>,
    /// When those that have an id were read, by it: monotonic nanoseconds.
    pub heard: BTreeMap<String, u64>,
    /// The lines of its standard error.
    pub messages: Vec<String>,
    pub exit: i32,
}

impl Captured {
    /// The last line, where it is the summary.
    pub fn summary(&self) -> Result<&Value> {
        let last = self.lines.last();
        last.filter(|line| line["type"] == "summary")
            .with_context(|| {
                format!(
                    "why502 ended (status {}) without its summary line",
                    self.exit
                )
            })
    }
}

impl Capture {
    /// Starts `why502 capture` and waits until every probe is attached.
    pub fn start(why502: &Path, folder: &Path, more: &[&str]) -> Result<Capture> {
        std::fs::create_dir_all(folder)?;
        let mut command = Capture::command(why502);
        command
            .args(more)
            .arg("--record")
            .arg(folder.join("recording.jsonl"));
        let mut capture = Capture::launch(command, folder)?;
        capture.wait_ready()?;
        Ok(capture)
    }

    /// `why502 capture` of nginx for longer than any scenario takes.
    pub fn command(why502: &Path) -> Command {
        let mut command = Command::new(why502);
        command.args([
            "capture",
            "--for",
            "600s",
            "--json",
            "--no-logs",
            "--proxy",
            "nginx",
        ]);
        // It is what is judged here: nothing else may take its place.
        command.args(["--source", "kernel"]);
        command
    }

    /// Starts any command of why502; what it says is also kept in files in `folder`.
    pub fn launch(mut command: Command, folder: &Path) -> Result<Capture> {
        std::fs::create_dir_all(folder)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let log = folder.join("why502.stderr");
        let mut proc = Proc::spawn_as_is("why502", command, &log)?;
        let out = proc.child_mut().stdout.take().context("no stdout")?;
        let err = proc.child_mut().stderr.take().context("no stderr")?;
        let (lines, messages) = <(Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<String>>>)>::default();
        let mut log_file = File::create(&log)?;
        let mut json_file = File::create(folder.join("why502.jsonl"))?;
        let readers = vec![
            {
                let messages = messages.clone();
                thread::spawn(move || {
                    for line in BufReader::new(err).lines().map_while(Result::ok) {
                        let _ = writeln!(log_file, "{line}");
                        messages.lock().expect("messages").push(line);
                    }
                })
            },
            {
                let lines = lines.clone();
                thread::spawn(move || {
                    for line in BufReader::new(out).lines().map_while(Result::ok) {
                        let heard = monotonic_ns();
                        let _ = writeln!(json_file, "{line}");
                        // A line that is no JSON breaks the contract; the judge reports it.
                        let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                        lines.lock().expect("lines").push((heard, value));
                    }
                })
            },
        ];
        Ok(Capture {
            proc,
            lines,
            messages,
            readers,
        })
    }

    /// Waits until every probe is attached.
    pub fn wait_ready(&mut self) -> Result<()> {
        let messages = self.messages.clone();
        self.proc.wait_ready("why502's line `ready`", ATTACH, || {
            let messages = messages.lock().expect("messages");
            messages.iter().any(|line| line.trim() == "ready")
        })
    }

    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    pub fn signal(&self, signal: i32) {
        self.proc.signal(signal);
    }

    /// What it has said so far.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.lines.lock().expect("lines");
        lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Shows what it has said from this line on; the line from which to look the next time.
    pub fn look(&self, from: usize, mut show: impl FnMut(&Value)) -> usize {
        let lines = self.lines.lock().expect("lines");
        lines[from..].iter().for_each(|(_, line)| show(line));
        lines.len()
    }

    /// On how many lines of its standard error these words stand so far.
    pub fn told(&self, words: &str) -> usize {
        let messages = self.messages.lock().expect("messages");
        messages.iter().filter(|line| line.contains(words)).count()
    }

    fn count(&self, kind: &str) -> usize {
        self.count_where(|line| line["type"] == kind)
    }

    /// How many lines it has said so far that are like this.
    pub fn count_where(&self, like: impl Fn(&Value) -> bool) -> usize {
        let lines = self.lines.lock().expect("lines");
        lines.iter().filter(|(_, line)| like(line)).count()
    }

    /// Ends it as Ctrl-C does, once the expected lines are there or their time is over.
    pub fn finish(self, verdicts: usize, near_misses: usize) -> Result<Captured> {
        // Too few lines are the judge's business, not an error of the harness.
        let _ = wait::until("the expected verdicts", SETTLE, || {
            self.count("verdict") >= verdicts && self.count("near_miss") >= near_misses
        });
        let captured = self.end(libc::SIGINT)?;
        captured.summary()?;
        Ok(captured)
    }

    /// Ends it by this signal.
    pub fn end(self, signal: i32) -> Result<Captured> {
        self.signal(signal);
        self.ended()
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> Result<Captured> {
        let status = self.proc.wait_exit(END)?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let said = std::mem::take(&mut *self.lines.lock().expect("lines"));
        let id = |line: &Value| line["id"].as_str().map(str::to_owned);
        Ok(Captured {
            heard: (said.iter())
                .filter_map(|(at, line)| Some((id(line)?, *at)))
                .collect(),
            lines: said.into_iter().map(|(_, line)| line).collect(),
            messages: std::mem::take(&mut *self.messages.lock().expect("messages")),
            exit: status.code().unwrap_or(-1),
        })
    }
}
