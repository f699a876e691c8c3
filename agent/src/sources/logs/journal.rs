//! What a systemd service writes to the journal, followed by way of `journalctl`: systemd's own reader of
//! its files, whose format is no interface.

use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde::Deserialize;

use super::{Counts, Parser, Template, Timed, Zone};
use crate::signal::Nanos;

/// Entries from before by which it is recognised.
const BEFORE: u32 = 64;
/// Read of one journal before other logs have their turn.
const TURN: usize = 1024 * 1024;
/// An entry longer than this is left out.
const ENTRY: usize = 1024 * 1024;

/// The journal of one service.
pub struct Journal {
    /// What it is called in messages.
    path: PathBuf,
    child: Child,
    parser: Parser,
    partial: Vec<u8>,
    skipping: bool,
    quiet: bool,
    /// What was written before says what kind of log it is, and no more.
    began: Nanos,
    primed: bool,
}

/// Of an entry: what was written, by whom, and when in microseconds.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Message,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
}

/// What is no text is a list of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
}

impl Journal {
    /// From `now` on.
    pub fn follow(
        service: &str,
        now: Nanos,
        templates: &Arc<[Template]>,
        zone: Zone,
    ) -> io::Result<Journal> {
        let mut command = Command::new("journalctl");
        command
            .args(["--follow", "--quiet", "--all", "--output=json"])
            .arg(format!("--lines={BEFORE}"))
            // Also of services with a journal of their own.
            .arg("--namespace=*")
            .arg("--output-fields=MESSAGE,_PID")
            .arg(format!("_SYSTEMD_UNIT={service}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: prctl takes flags alone, and may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // It ends with the thread that follows it, whatever ends that.
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn()?;
        if let Some(output) = &child.stdout {
            // SAFETY: the descriptor is open as long as `child` is.
            if unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Journal {
            path: PathBuf::from(format!("journal of {service}")),
            child,
            parser: Parser::new(Arc::clone(templates), zone),
            partial: Vec::new(),
            skipping: false,
            quiet: false,
            began: now,
            primed: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn counts(&self) -> Counts {
        self.parser.counts()
    }

    /// What it was recognised as.
    pub fn format(&self) -> Option<String> {
        self.parser.name()
    }

    /// Also that its lines come by way of a journal: later than those of a file.
    pub fn tells(&self) -> Vec<&'static str> {
        let lines = self.parser.tells();
        let late = (!lines.is_empty()).then_some("journal");
        lines.into_iter().chain(late).collect()
    }

    /// Takes in what was written since the last look; an error when there will be no more.
    pub fn look(&mut self, out: &mut Vec<Timed>) -> io::Result<()> {
        let Some(output) = &mut self.child.stdout else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        let read = output.by_ref().take(TURN as u64).read_to_end(&mut bytes);
        let ended = match read {
            Ok(_) => bytes.len() < TURN,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        self.take(&bytes, out);
        if bytes.is_empty() && self.quiet {
            self.prime();
            self.parser.flush(out);
        }
        self.quiet = bytes.is_empty();
        match ended {
            true => Err(io::Error::other("journalctl has ended")),
            false => Ok(()),
        }
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<Timed>) {
        let mut pieces = bytes.split(|b| *b == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let ends = pieces.peek().is_some();
            if self.partial.len() + piece.len() > ENTRY {
                self.skipping = true;
            }
            if !self.skipping {
                self.partial.extend_from_slice(piece);
            }
            if ends {
                let entry = std::mem::take(&mut self.partial);
                if !std::mem::take(&mut self.skipping) {
                    self.entry(&entry, out);
                }
            }
        }
    }

    fn entry(&mut self, entry: &[u8], out: &mut Vec<Timed>) {
        let Some(entry) = Entry::parse(entry) else {
            return;
        };
        if self.primed || entry.at() >= Some(self.began) {
            self.prime();
            entry.read(&mut self.parser, out);
        } else {
            entry.read(&mut self.parser, &mut Vec::new());
        }
    }

    /// The entries from before have all been seen.
    fn prime(&mut self) {
        if !std::mem::replace(&mut self.primed, true) {
            self.parser.flush(&mut Vec::new());
            self.parser.forget();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Entry {
    fn parse(json: &[u8]) -> Option<Entry> {
        serde_json::from_slice(json).ok()
    }

    /// In nanoseconds since 1970.
    fn at(&self) -> Option<Nanos> {
        let microseconds: Nanos = self.at.parse().ok()?;
        microseconds.checked_mul(1000)
    }

    fn read(&self, parser: &mut Parser, out: &mut Vec<Timed>) {
        let message = match &self.message {
            Message::Text(text) => text.as_bytes(),
            Message::Bytes(bytes) => bytes,
        };
        let pid = self.pid.as_ref().and_then(|pid| pid.parse().ok());
        parser.record(message, (self.at(), pid), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Fact;

    const HAPROXY: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/-1/-1/3 503 217 - - SC-- 1/1/0/0/3 0/0 \"GET /x HTTP/1.1\""#;

    fn lines(entries: &[String]) -> (Vec<Timed>, Counts) {
        let mut parser = Parser::new(Vec::new().into(), Zone::Fixed(0));
        let mut out = Vec::new();
        for entry in entries {
            if let Some(entry) = Entry::parse(entry.as_bytes()) {
                entry.read(&mut parser, &mut out);
            }
        }
        (out, parser.counts())
    }

    fn entry(message: &str) -> String {
        format!(
            r#"{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795376445103000","MESSAGE":{message},"_PID":"307"}}"#
        )
    }

    #[test]
    fn a_line_of_a_service() {
        let text = format!("\"{HAPROXY}\"");
        let bytes = format!("{:?}", HAPROXY.replace('\\', "").as_bytes());
        for message in [text, bytes] {
            let (out, _) = lines(&[entry(&message)]);
            let [Timed { fact, .. }] = &out[..] else {
                panic!("{out:?}");
            };
            let Fact::Logged(line) = fact else {
                panic!("{fact:?}");
            };
            assert_eq!((line.status, line.pid), (Some(503), Some(307)));
        }
    }

    #[test]
    fn what_a_client_has_put_a_newline_into_is_no_line() {
        let (out, counts) = lines(&[entry(&format!("\"x\\n{HAPROXY}\""))]);
        assert_eq!((out.len(), counts.not_understood), (0, 1));
        let (out, _) = lines(&["{".to_owned(), "[]".to_owned(), entry("null")]);
        assert_eq!(out.len(), 0);
    }
}
