//! Logs as files: whole, plain or gzip, several merged by time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::{Counts, Parser, Template, Timed, Zone};
use crate::signal::{Fact, LogLine, Nanos};

/// How much of a log is looked at to recognise it.
const HEAD: usize = 256 * 1024;
/// Read at most of one line; the rest of it is left out.
const LINE: u64 = 256 * 1024 + 2;

/// A log that is open and not read yet.
pub struct LogFile {
    name: String,
    input: BufReader<Box<dyn Read + Send>>,
    /// What its beginning was recognised as.
    format: Option<String>,
    tells: Vec<&'static str>,
    zone_seen: Option<i64>,
    empty: bool,
}

impl LogFile {
    pub fn open(path: &Path, templates: &Arc<[Template]>) -> io::Result<LogFile> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        LogFile::read(Box::new(file), &path.display().to_string(), templates)
    }

    /// Recognises a log by its beginning.
    pub fn read(
        input: Box<dyn Read + Send>,
        name: &str,
        templates: &Arc<[Template]>,
    ) -> io::Result<LogFile> {
        let mut raw = BufReader::with_capacity(HEAD, input);
        let gzip = raw.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let input: Box<dyn Read + Send> = match gzip {
            true => Box::new(MultiGzDecoder::new(raw)),
            false => Box::new(raw),
        };
        let mut input = BufReader::with_capacity(HEAD, input);
        let head = input.fill_buf()?;
        let mut parser = Parser::new(Arc::clone(templates), Zone::Fixed(0));
        let mut ignored = Vec::new();
        // After the last newline there is no line yet.
        let lines = head.strip_suffix(b"\n").unwrap_or(head);
        for line in lines.split(|b| *b == b'\n') {
            parser.line(line, None, &mut ignored);
            ignored.clear();
        }
        parser.flush(&mut ignored);
        Ok(LogFile {
            name: name.to_owned(),
            format: parser.name(),
            tells: parser.tells(),
            zone_seen: parser.zone_seen,
            empty: head.is_empty(),
            input,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was recognised as; `None`: as nothing.
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    pub fn is_empty(&self) -> bool {
        self.empty
    }

    pub fn tells(&self) -> &[&'static str] {
        &self.tells
    }

    /// The zone that its times name.
    pub fn zone_seen(&self) -> Option<i64> {
        self.zone_seen
    }
}

/// The signals of several logs, in order of time.
pub struct Merged {
    logs: Vec<Open>,
}

struct Open {
    name: String,
    input: BufReader<Box<dyn Read + Send>>,
    parser: Parser,
    ready: std::collections::VecDeque<Timed>,
    /// The latest time so far: a log's order counts for more than its times.
    latest: Nanos,
    ended: bool,
    error: Option<io::Error>,
}

impl Merged {
    pub fn new(logs: Vec<LogFile>, templates: &Arc<[Template]>, zone: Zone) -> Merged {
        let open = |log: LogFile| Open {
            name: log.name,
            input: log.input,
            parser: Parser::new(Arc::clone(templates), zone),
            ready: std::collections::VecDeque::new(),
            latest: 0,
            ended: false,
            error: None,
        };
        Merged {
            logs: logs.into_iter().map(open).collect(),
        }
    }

    /// The next signal's time.
    pub fn peek(&mut self) -> Option<Nanos> {
        let at = self.next_log()?;
        self.logs[at].ready.front().map(|timed| timed.at)
    }

    /// The log with the earliest signal; what says why comes before what says that.
    fn next_log(&mut self) -> Option<usize> {
        for log in &mut self.logs {
            log.fill();
        }
        let key = |log: &Open| {
            let timed = log.ready.front()?;
            let last = match &timed.fact {
                Fact::Logged(logged) => logged.line == LogLine::Access,
                _ => false,
            };
            Some((timed.at.max(log.latest), last))
        };
        let keys = self.logs.iter().enumerate();
        let keys = keys.filter_map(|(at, log)| Some((key(log)?, at)));
        keys.min().map(|(_, at)| at)
    }

    /// Each log's name and counts, and what ended it early.
    pub fn finish(self) -> impl Iterator<Item = (String, Counts, Option<io::Error>)> {
        let told = |log: Open| (log.name, log.parser.counts(), log.error);
        self.logs.into_iter().map(told)
    }
}

impl Iterator for Merged {
    type Item = Timed;

    fn next(&mut self) -> Option<Timed> {
        let at = self.next_log()?;
        let log = &mut self.logs[at];
        let timed = log.ready.pop_front()?;
        log.latest = log.latest.max(timed.at);
        Some(timed)
    }
}

impl Open {
    fn fill(&mut self) {
        let mut out = Vec::new();
        let mut line = Vec::new();
        while self.ready.is_empty() && !self.ended {
            line.clear();
            match self.input.by_ref().take(LINE).read_until(b'\n', &mut line) {
                Ok(0) => {
                    self.ended = true;
                    self.parser.flush(&mut out);
                }
                Ok(_) => {
                    let whole = line.pop_if(|b| *b == b'\n').is_some();
                    if !whole && line.len() as u64 == LINE {
                        self.skip_line();
                    }
                    self.parser.line(&line, None, &mut out);
                }
                Err(error) => {
                    self.ended = true;
                    self.error = Some(error);
                    self.parser.flush(&mut out);
                }
            }
            self.ready.extend(out.drain(..));
        }
    }

    /// The rest of a line that is too long.
    fn skip_line(&mut self) {
        while let Ok(buffer) = self.input.fill_buf() {
            let end = buffer.iter().position(|b| *b == b'\n');
            let length = buffer.len();
            self.input.consume(end.map_or(length, |end| end + 1));
            if end.is_some() || length == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ends with its last newline has no line behind it that would end another's entry.
    #[test]
    fn a_short_error_log_tells_errors() {
        let text = "2026/11/23 18:08:16 [notice] 7#7: start worker processes\n\
                    2026/11/23 18:08:17 [info] 9#9: *2 client 10.0.0.7 closed keepalive connection\n";
        let log = LogFile::read(Box::new(text.as_bytes()), "error.log", &[].into()).unwrap();
        assert_eq!(log.tells(), ["nginx_error_log", "proxy_log"]);
    }
}
