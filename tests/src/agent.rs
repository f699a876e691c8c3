//! why502 beside a scenario: started as a user would, its lines kept for the judge.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Proc;
use crate::wait;

const ATTACH: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(20);
/// The contract's latest time for a verdict is 250 ms after the response (or two round trips).
const SETTLE: Duration = Duration::from_secs(2);

/// A `why502 capture` under way.
pub struct Capture {
    proc: Proc,
    lines: Arc<Mutex<Vec<Value>>>,
    readers: Vec<JoinHandle<()>>,
    pub recording: PathBuf,
}

/// All it said.
pub struct Captured {
    pub lines: Vec<Value>,
    pub exit: i32,
}

impl Capture {
    /// Starts it and waits until every probe is attached.
    pub fn start(why502: &Path, folder: &Path, more: &[&str]) -> Result<Capture> {
        let recording = folder.join("recording.jsonl");
        let mut command = Command::new(why502);
        command
            .args(["capture", "--for", "600s", "--json", "--proxy", "nginx"])
            .args(more)
            .arg("--record")
            .arg(&recording)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let log = folder.join("why502.stderr");
        let mut proc = Proc::spawn_as_is("why502 capture", command, &log)?;
        let out = proc.child_mut().stdout.take().context("no stdout")?;
        let err = proc.child_mut().stderr.take().context("no stderr")?;
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let ready = Arc::new(AtomicBool::new(false));
        let mut log_file = File::create(&log)?;
        let mut json_file = File::create(folder.join("why502.jsonl"))?;
        let readers = vec![
            {
                let ready = ready.clone();
                thread::spawn(move || {
                    for line in BufReader::new(err).lines().map_while(Result::ok) {
                        let _ = writeln!(log_file, "{line}");
                        if line.trim() == "ready" {
                            ready.store(true, Ordering::Release);
                        }
                    }
                })
            },
            {
                let lines = lines.clone();
                thread::spawn(move || {
                    for line in BufReader::new(out).lines().map_while(Result::ok) {
                        let _ = writeln!(json_file, "{line}");
                        // A line that is no JSON breaks the contract; the judge reports it.
                        let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                        lines.lock().expect("lines").push(value);
                    }
                })
            },
        ];
        proc.wait_ready("why502's line `ready`", ATTACH, || {
            ready.load(Ordering::Acquire)
        })?;
        Ok(Capture {
            proc,
            lines,
            readers,
            recording,
        })
    }

    fn count(&self, kind: &str) -> usize {
        let lines = self.lines.lock().expect("lines");
        lines.iter().filter(|line| line["type"] == kind).count()
    }

    /// Ends it as Ctrl-C does, once the expected lines are there or their time is over.
    pub fn finish(mut self, verdicts: usize, near_misses: usize) -> Result<Captured> {
        // Too few lines are the judge's business, not an error of the harness.
        let _ = wait::until("the expected verdicts", SETTLE, || {
            self.count("verdict") >= verdicts && self.count("near_miss") >= near_misses
        });
        self.proc.signal(libc::SIGINT);
        let status = self.proc.wait_exit(END)?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let lines = std::mem::take(&mut *self.lines.lock().expect("lines"));
        let exit = status.code().unwrap_or(-1);
        if lines.last().is_none_or(|line| line["type"] != "summary") {
            bail!("why502 capture ended (status {exit}) without its summary line");
        }
        Ok(Captured { lines, exit })
    }
}
