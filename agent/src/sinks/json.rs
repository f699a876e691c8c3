//! Results as JSON lines: one object per line and nothing else.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::escape::json_line;
use super::summary::Summary;
use crate::cause::Cause;
use crate::signal::{Address, Nanos};
use crate::verdict::{Kind, Risk, Verdict};

const SECOND: Nanos = 1_000_000_000;

/// How many lines of one kind, cause and upstream `run` writes in a second.
pub const LINES_PER_SECOND: u32 = 50;

/// More distinct upstreams in one second than this share one place.
const MAX_KEYS: usize = 1000;

/// Writes results as lines.
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    /// `None`: everything is written.
    per_second: Option<u32>,
    windows: HashMap<Key, Window>,
    suppressed: u64,
}

/// What is limited together; no upstream where there are too many of them, or none was chosen.
type Key = (Kind, Cause, Option<Address>);

/// One second of one key.
#[derive(Debug)]
struct Window {
    began: Nanos,
    written: u32,
    suppressed: u64,
    first: String,
    last: String,
}

/// `count` lines like the ones before were not written.
#[derive(Debug, Serialize)]
struct Suppressed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    of: Kind,
    cause: Cause,
    upstream: Option<&'a Address>,
    count: u64,
    first: &'a str,
    last: &'a str,
}

impl<W: Write> JsonLines<W> {
    /// Writes every line.
    pub fn all(out: W) -> JsonLines<W> {
        JsonLines {
            out,
            per_second: None,
            windows: HashMap::new(),
            suppressed: 0,
        }
    }

    /// Writes at most `per_second` lines a second of one kind, cause and upstream, then their count.
    pub fn limited(out: W, per_second: u32) -> JsonLines<W> {
        JsonLines {
            per_second: Some(per_second),
            ..JsonLines::all(out)
        }
    }

    /// `now` is when the verdict was made, on the clock of signals.
    pub fn on_verdict(&mut self, verdict: &Verdict, now: Nanos) -> io::Result<()> {
        if self.admits(verdict, now)? {
            self.write(verdict)?;
        }
        Ok(())
    }

    /// A line that was one of ours already.
    pub fn on_line(&mut self, line: &str) -> io::Result<()> {
        self.out.write_all(format!("{line}\n").as_bytes())
    }

    pub fn on_risk(&mut self, risk: &Risk) -> io::Result<()> {
        self.write(risk)
    }

    /// Writes the counts of seconds that are over.
    pub fn on_tick(&mut self, now: Nanos) -> io::Result<()> {
        self.close_windows(|window| now.saturating_sub(window.began) >= SECOND)
    }

    /// Writes what is held back, then the summary.
    pub fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        self.close_windows(|_| true)?;
        // The summary must arrive even when the reader is behind.
        self.out.flush()?;
        self.write(summary)?;
        self.out.flush()
    }

    /// Lines suppressed so far.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }

    fn admits(&mut self, verdict: &Verdict, now: Nanos) -> io::Result<bool> {
        let Some(limit) = self.per_second else {
            return Ok(true);
        };
        let mut key = (
            verdict.kind,
            verdict.cause,
            verdict.upstream.address.clone(),
        );
        if self.windows.len() >= MAX_KEYS && !self.windows.contains_key(&key) {
            key.2 = None;
        }
        if let Some(window) = self.windows.get(&key)
            && now.saturating_sub(window.began) >= SECOND
        {
            self.on_tick(now)?;
        }
        let window = self.windows.entry(key).or_insert_with(|| Window {
            began: now,
            written: 0,
            suppressed: 0,
            first: String::new(),
            last: String::new(),
        });
        if window.written < limit {
            window.written += 1;
            return Ok(true);
        }
        if window.suppressed == 0 {
            window.first.clone_from(&verdict.time);
        }
        window.last.clone_from(&verdict.time);
        window.suppressed += 1;
        self.suppressed += 1;
        Ok(false)
    }

    fn close_windows(&mut self, over: impl Fn(&Window) -> bool) -> io::Result<()> {
        let mut lines: Vec<(Key, Window)> =
            self.windows.extract_if(|_, window| over(window)).collect();
        lines.retain(|(_, window)| window.suppressed > 0);
        lines.sort_by(|a, b| a.1.first.cmp(&b.1.first));
        for ((of, cause, upstream), window) in &lines {
            self.write(&Suppressed {
                kind: "suppressed",
                of: *of,
                cause: *cause,
                upstream: upstream.as_ref(),
                count: window.suppressed,
                first: &window.first,
                last: &window.last,
            })?;
        }
        Ok(())
    }

    fn write(&mut self, value: &impl Serialize) -> io::Result<()> {
        // In one piece: a reader, or another writer to the same file, never sees half a line.
        self.out.write_all(&json_line(value)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sinks::sample::{other, verdict};
    use crate::sinks::summary::Totals;

    fn lines(out: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(out).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_verdict_is_the_contracts_line() {
        let mut out = Vec::new();
        let mut sink = JsonLines::all(&mut out);
        sink.on_verdict(&verdict(), 0).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn a_storm_is_cut_and_counted_exactly() {
        let mut out = Vec::new();
        let mut sink = JsonLines::limited(&mut out, 50);
        let mut total = 0;
        for ms in 0..2_500 {
            let storm = other(Cause::UnixAcceptQueueFull, "unix:/run/g.sock", ms);
            sink.on_verdict(&storm, storm.at).unwrap();
            total += 1;
            if ms % 500 == 0 {
                let lone = other(Cause::WorkerCrashed, "10.9.0.2:9000", ms);
                sink.on_verdict(&lone, lone.at).unwrap();
            }
            if ms % 100 == 0 {
                sink.on_tick(ms * 1_000_000).unwrap();
            }
        }
        assert_eq!(sink.suppressed(), 2_500 - 150);
        sink.finish(&Totals::default().finish(0, 1)).unwrap();
        let lines = lines(&out);
        let of = |kind: &'static str| lines.iter().filter(move |line| line["type"] == kind);
        let written = of("verdict")
            .filter(|v| v["cause"] == "unix_accept_queue_full")
            .count();
        let counted: u64 = of("suppressed")
            .map(|line| line["count"].as_u64().unwrap())
            .sum();
        assert_eq!(written as u64 + counted, total);
        assert_eq!(written, 150);
        assert_eq!(of("suppressed").count(), 3);
        assert_eq!(
            of("verdict")
                .filter(|v| v["cause"] == "worker_crashed")
                .count(),
            5
        );
        let first = of("suppressed").next().unwrap();
        assert_eq!(first["of"], "verdict");
        assert_eq!(first["count"], 950);
        assert_eq!(first["first"], "2026-11-20T13:48:24.050000000Z");
        assert_eq!(first["last"], "2026-11-20T13:48:24.999000000Z");
        assert_eq!(lines.last().unwrap()["type"], "summary");
    }

    #[test]
    fn memory_stays_bounded_with_many_upstreams() {
        let mut sink = JsonLines::limited(Vec::new(), 1);
        for port in 0..5_000 {
            let verdict = other(Cause::ConnectionRefused, &format!("10.0.0.1:{port}"), 1);
            sink.on_verdict(&verdict, verdict.at).unwrap();
        }
        assert_eq!(sink.windows.len(), MAX_KEYS + 1);
        assert_eq!(sink.suppressed(), 5_000 - MAX_KEYS as u64 - 1);
    }

    #[test]
    fn nothing_in_a_request_can_forge_a_line() {
        let mut out = Vec::new();
        let mut sink = JsonLines::all(&mut out);
        let mut forged = verdict();
        forged.request.path = Some("/\"}\n{\"type\":\"summary\"}\r\n\u{2028}\u{1b}[1A".to_owned());
        sink.on_verdict(&forged, 0).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(!out.contains(&0x1b));
        assert_eq!(
            lines(&out)[0]["request"]["path"],
            forged.request.path.unwrap()
        );
    }
}
