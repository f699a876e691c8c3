//! Results for people: the table of causes while it fills, then what happened and what to change.
//!
//! On a terminal the table is redrawn in place; elsewhere each new cause and upstream is one line
//! when it first appears. The end is the same for both.

mod report;
mod rows;
mod text;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use super::summary::Summary;
use crate::cause::Cause;
use crate::signal::Nanos;
use crate::verdict::{Risk, Verdict};

use rows::Rows;
use text::{Line, Style};

/// Columns where there is no terminal to ask.
const COLUMNS: usize = 80;

/// Redraws a second at most.
const REDRAW: Nanos = 250_000_000;

/// Upstreams at risk that are kept for the end.
const MAX_RISKS: usize = 100;

/// Columns and lines of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub lines: usize,
}

/// Where the table is shown.
#[derive(Clone, Copy, Debug)]
pub struct Display {
    /// Asks the terminal for its size; `None` where there is none.
    pub terminal: Option<fn() -> Size>,
    pub colour: bool,
    /// Show failures as they come; else only the report at the end.
    pub live: bool,
}

impl Display {
    /// No terminal: plain lines.
    pub fn plain() -> Display {
        Display {
            terminal: None,
            colour: false,
            live: true,
        }
    }

    /// The report alone: for what is over already.
    pub fn report_only(self) -> Display {
        Display {
            live: false,
            ..self
        }
    }

    /// What standard output is, and what `NO_COLOR` and `TERM` say of colours.
    pub fn of_stdout() -> Display {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !io::stdout().is_terminal() || dumb {
            return Display::plain();
        }
        Display {
            terminal: Some(|| match terminal_size::terminal_size() {
                Some((columns, lines)) => Size {
                    columns: columns.0.into(),
                    lines: lines.0.into(),
                },
                None => Size {
                    columns: COLUMNS,
                    lines: 24,
                },
            }),
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            live: true,
        }
    }
}

/// Failed responses of one hour or day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// As a person reads it.
    pub label: String,
    pub causes: BTreeMap<Cause, u64>,
}

/// Shows results to a person.
#[derive(Debug)]
pub struct Table<W> {
    out: W,
    display: Display,
    rows: Rows,
    /// The latest of each proxy and upstream.
    risks: BTreeMap<(String, String), Risk>,
    began: Nanos,
    /// Failed responses of each hour or day, by cause.
    when: Vec<When>,
    /// Lines on the screen that the next redraw replaces.
    drawn: usize,
    /// What these lines are.
    shown: String,
    /// Lines stand above the report.
    printed: bool,
    drawn_at: Option<Nanos>,
}

impl<W: Write> Table<W> {
    /// `began` is when the watch began, on the clock of signals.
    pub fn new(out: W, display: Display, began: Nanos) -> Table<W> {
        Table {
            out,
            display,
            rows: Rows::default(),
            risks: BTreeMap::new(),
            began,
            when: Vec::new(),
            drawn: 0,
            shown: String::new(),
            printed: false,
            drawn_at: None,
        }
    }

    pub fn on_verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        if self.rows.add(verdict) && self.prints_lines() {
            self.print(report::first_seen(verdict))?;
        }
        Ok(())
    }

    /// `count` like this one, of which it is the latest; the first was at `first` (RFC 3339).
    pub fn on_folded(&mut self, verdict: &Verdict, count: u64, first: &str) {
        self.rows.fold(verdict, count, first);
    }

    /// When failures were, for a time too long to be seen in the rows.
    pub fn on_when(&mut self, when: Vec<When>) {
        self.when = when;
    }

    pub fn on_risk(&mut self, risk: &Risk) -> io::Result<()> {
        let address = |party: &crate::verdict::Party| {
            party
                .address
                .as_ref()
                .map_or(String::new(), |address| address.0.clone())
        };
        let key = (
            risk.proxy.name.clone().unwrap_or_default(),
            address(&risk.upstream),
        );
        let new = !self.risks.contains_key(&key);
        if new && self.risks.len() >= MAX_RISKS {
            return Ok(());
        }
        self.risks.insert(key, risk.clone());
        if new && self.prints_lines() {
            self.print(report::risk_line(risk))?;
        }
        Ok(())
    }

    /// Redraws, if it is time to.
    pub fn on_tick(&mut self, now: Nanos) -> io::Result<()> {
        let Some(size) = self.display.terminal.filter(|_| self.display.live) else {
            return Ok(());
        };
        if self
            .drawn_at
            .is_some_and(|drawn| now.saturating_sub(drawn) < REDRAW)
        {
            return Ok(());
        }
        self.drawn_at = Some(now);
        let size = size();
        let seconds = now.saturating_sub(self.began) / 1_000_000_000;
        let mut lines = report::live(&self.rows, self.risks.len(), seconds, size.columns);
        // What is above the screen cannot be redrawn.
        let room = size.lines.saturating_sub(2).max(1);
        if lines.len() > room {
            let hidden = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(Line::new().add(Style::Faint, &format!("… {hidden} more lines")));
        }
        let text = self.render(&lines, Some(size.columns));
        if text == self.shown {
            return Ok(());
        }
        let erase = self.erase();
        self.drawn = lines.len();
        // In one piece, so that a screen never shows half a table.
        self.out.write_all(format!("{erase}{text}").as_bytes())?;
        self.shown = text;
        Ok(())
    }

    /// Takes the live table off the screen, so that a message can be written; it comes back with
    /// the next tick.
    pub fn make_room(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            let erase = self.erase();
            self.out.write_all(erase.as_bytes())?;
            self.out.flush()?;
            self.drawn = 0;
            self.shown.clear();
        }
        Ok(())
    }

    /// The whole table, then what happened and what to change.
    pub fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        let columns = self.display.terminal.map_or(COLUMNS, |size| size().columns);
        // Prose wider than this is hard to read; narrower than this there is no table.
        let columns = columns.clamp(60, 120);
        let risks: Vec<&Risk> = self.risks.values().collect();
        let mut lines = report::report(&self.rows, &self.when, &risks, summary, columns);
        if self.printed {
            lines.insert(0, Line::new());
        }
        let text = format!("{}{}", self.erase(), self.render(&lines, None));
        self.drawn = 0;
        // The report must arrive even when the reader is behind.
        self.out.flush()?;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Whether new causes are told one by one, because nothing can be redrawn.
    fn prints_lines(&self) -> bool {
        self.display.live && self.display.terminal.is_none()
    }

    /// Such lines are not cut: they are searched and copied.
    fn print(&mut self, line: Line) -> io::Result<()> {
        self.printed = true;
        let text = self.render(&[line], None);
        self.out.write_all(text.as_bytes())
    }

    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn render(&self, lines: &[Line], columns: Option<usize>) -> String {
        let colour = self.display.colour;
        lines
            .iter()
            .map(|line| line.render(columns, colour))
            .collect()
    }
}

#[cfg(test)]
mod tests;
