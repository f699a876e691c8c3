//! The report: one HTML file with everything in it, to send to a colleague.
//!
//! Verdicts go to the file as they come, so that a long capture costs no memory; what is counted of
//! them is bounded. The file appears under its name when it is whole.

mod chart;
mod embed;
mod findings;
mod ladder;
mod page;
mod row;
#[cfg(test)]
mod tests;
mod timeline;
mod why;
mod words;

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;

use self::findings::Findings;
pub(super) use self::ladder::deciding_evidence;
use self::page::Page;
use self::row::Rows;
use super::file::NewFile;
use super::summary::Summary;
use crate::cli::note;
use crate::packet::PacketSeen;
use crate::verdict::{Risk, Verdict};

/// Verdicts that are listed one by one; all are counted.
const MAX_LISTED: usize = 10_000;
/// Room beyond, for the first few of what a storm of something else would hide.
const RARE_ROOM: usize = 1_000;
const RARE: u64 = 20;
/// Risks and hosts' names that are kept.
const MAX_RISKS: usize = 200;
const MAX_NODES: usize = 20;

/// A report that is being written.
#[derive(Debug)]
pub struct Report {
    file: BufWriter<NewFile>,
    source: String,
    rows: Rows,
    left_out: u64,
    /// Verdicts that are still to come with their packets, and have their place.
    awaited: usize,
    findings: Findings,
    risks: Vec<Risk>,
    nodes: BTreeSet<String>,
    range_ms: Option<(i64, i64)>,
    /// The first error of writing: told at the end, so that a full disk does not end a capture.
    broken: Option<io::Error>,
}

impl Report {
    /// Begins a report that will be at `path`. `title` and `source` say where its verdicts come from.
    pub fn create(path: &Path, title: &str, source: &str) -> anyhow::Result<Report> {
        let mut file = BufWriter::new(NewFile::create(path)?);
        file.write_all(page::begin(title).as_bytes())
            .and_then(|()| file.flush())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Report {
            file,
            source: source.to_owned(),
            rows: Rows::default(),
            left_out: 0,
            awaited: 0,
            findings: Findings::default(),
            risks: Vec::new(),
            nodes: BTreeSet::new(),
            range_ms: None,
            broken: None,
        })
    }

    /// Something was seen at this moment (milliseconds since 1970): the report's time includes it.
    pub fn saw(&mut self, at_ms: i64) {
        let (from, to) = self.range_ms.unwrap_or((at_ms, at_ms));
        self.range_ms = Some((from.min(at_ms), to.max(at_ms)));
    }

    /// `at_ms` is the verdict's time; `packets` are those of the exchange, where a capture has them.
    pub fn on_verdict(&mut self, verdict: &Verdict, at_ms: i64, packets: &[PacketSeen]) {
        self.saw(at_ms);
        let nth = self.findings.on_verdict(verdict, at_ms);
        if self.nodes.len() < MAX_NODES && !self.nodes.contains(&verdict.node) {
            self.nodes.insert(verdict.node.clone());
        }
        let room = match nth <= RARE {
            true => MAX_LISTED + RARE_ROOM,
            false => MAX_LISTED,
        };
        if self.rows.count() + self.awaited >= room || self.broken.is_some() {
            self.left_out += 1;
            return;
        }
        let separator: &[u8] = if self.rows.count() > 0 { b",\n" } else { b"\n" };
        let written = self.rows.next(verdict, packets).and_then(|row| {
            self.file.write_all(separator)?;
            self.file.write_all(&row)
        });
        self.broken = written.err();
    }

    /// Keeps room for this many verdicts that come later, with their packets.
    pub fn await_packets(&mut self, verdicts: usize) {
        self.awaited = verdicts;
    }

    pub fn on_risk(&mut self, risk: &Risk) {
        if self.risks.len() < MAX_RISKS {
            self.risks.push(risk.clone());
        }
    }

    /// Writes what is left, gives the file its name and says so.
    pub fn finish(mut self, summary: &Summary) -> anyhow::Result<()> {
        let path = self.file.get_ref().path().to_owned();
        let context = || format!("write {}", path.display());
        if let Some(error) = self.broken.take() {
            return Err(error).with_context(context);
        }
        if let Some((from, to)) = self.range_ms {
            self.findings.timeline.reach(from);
            self.findings.timeline.reach(to);
        }
        let rest = page::end(&Page {
            source: &self.source,
            nodes: self.nodes.iter().map(String::as_str).collect(),
            range_ms: self.range_ms,
            summary,
            findings: &self.findings,
            risks: &self.risks,
            listed: self.rows.count(),
            left_out: self.left_out,
        })
        .with_context(context)?;
        self.file.write_all(&rest).with_context(context)?;
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error);
        file.with_context(context)?.finish()?;
        let listed = self.rows.count();
        match self.left_out {
            0 => note!("report: {} ({listed} listed)", path.display()),
            n => note!(
                "report: {} ({listed} listed; {n} more counted there, not listed)",
                path.display()
            ),
        }
        Ok(())
    }
}
