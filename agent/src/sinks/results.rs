//! What a command writes to standard output: JSON lines for programs, or the table for people.

use std::io::{self, Write};

use super::json::JsonLines;
use super::summary::Summary;
use super::table::Table;
use crate::signal::Nanos;
use crate::verdict::{Risk, Verdict};

/// The one of the two that was asked for. An error of kind `BrokenPipe` means that the reader left.
///
/// `run` and `capture` write to an `Output`, which never waits; `explain` to a `BufWriter`, which
/// waits for its reader and loses nothing.
#[derive(Debug)]
pub enum Results<W> {
    Json(JsonLines<W>),
    Table(Box<Table<W>>),
}

impl<W: Write> Results<W> {
    /// `now` is when the verdict was made, on the clock of signals.
    pub fn on_verdict(&mut self, verdict: &Verdict, now: Nanos) -> io::Result<()> {
        match self {
            Results::Json(lines) => lines.on_verdict(verdict, now),
            Results::Table(table) => table.on_verdict(verdict),
        }
    }

    pub fn on_risk(&mut self, risk: &Risk) -> io::Result<()> {
        match self {
            Results::Json(lines) => lines.on_risk(risk),
            Results::Table(table) => table.on_risk(risk),
        }
    }

    /// Time passed: a few times a second.
    pub fn on_tick(&mut self, now: Nanos) -> io::Result<()> {
        match self {
            Results::Json(lines) => lines.on_tick(now),
            Results::Table(table) => table.on_tick(now),
        }
    }

    /// Call this before writing to standard error: the live table may be in the way.
    pub fn make_room(&mut self) -> io::Result<()> {
        match self {
            Results::Json(_) => Ok(()),
            Results::Table(table) => table.make_room(),
        }
    }

    pub fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        match self {
            Results::Json(lines) => lines.finish(summary),
            Results::Table(table) => table.finish(summary),
        }
    }
}
