//! Keeps every signal in a file, so that the same verdicts can be made again elsewhere.
//!
//! The first line says what the file is; each further line is one signal. A full disk ends the
//! recording, not the command: the loss is said once and counted.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::create_private;
use crate::clock::Clock;
use crate::signal::Signal;

/// The newest format of recordings that this program reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// Bytes held back between writes.
const BUFFER: usize = 64 * 1024;

/// The first line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    #[serde(rename = "why502_recording")]
    pub format: u32,
    /// Of the program that wrote it.
    pub version: String,
    /// Wall clock minus monotonic clock on the recorded host.
    pub clock_offset_ns: i64,
    pub node: String,
}

impl Header {
    pub fn new(clock: Clock, node: &str) -> Header {
        Header {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_offset_ns: clock.offset_ns(),
            node: node.to_owned(),
        }
    }
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    /// Whole lines not yet written, and how many signals they are.
    pending: Vec<u8>,
    pending_signals: u64,
    /// Bytes of whole lines in the file.
    written: u64,
    broken: bool,
}

/// Signals that did not get into the file. `message` comes with the first loss only.
#[derive(Debug)]
pub struct RecordLoss {
    pub count: u64,
    pub reason: &'static str,
    pub message: Option<String>,
}

impl Recorder {
    /// Creates the file with mode 0600 and writes its first line.
    pub fn create(path: &Path, header: &Header) -> anyhow::Result<Recorder> {
        use anyhow::Context;

        let mut recorder = Recorder::new(create_private(path)?);
        recorder.pending = line(header)?;
        recorder
            .write_pending()
            .with_context(|| format!("write {}", path.display()))?;
        Ok(recorder)
    }

    fn new(file: File) -> Recorder {
        Recorder {
            file,
            pending: Vec::with_capacity(BUFFER),
            pending_signals: 0,
            written: 0,
            broken: false,
        }
    }

    pub fn on_signal(&mut self, signal: &Signal) -> Result<(), RecordLoss> {
        if self.broken {
            return Err(RecordLoss {
                count: 1,
                reason: "recording_ended",
                message: None,
            });
        }
        match line(signal) {
            Ok(line) => self.pending.extend(line),
            Err(error) => return Err(self.end(1, &error)),
        }
        self.pending_signals += 1;
        match self.pending.len() >= BUFFER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what is held back; call it from time to time and at the end.
    pub fn flush(&mut self) -> Result<(), RecordLoss> {
        if self.broken || self.pending.is_empty() {
            return Ok(());
        }
        self.write_pending().map_err(|error| self.end(0, &error))
    }

    fn write_pending(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        self.pending_signals = 0;
        Ok(())
    }

    /// Gives up: what is in the file stays readable, what is not is lost.
    fn end(&mut self, more: u64, error: &io::Error) -> RecordLoss {
        self.broken = true;
        let count = self.pending_signals + more;
        self.pending = Vec::new();
        self.pending_signals = 0;
        // Cut the half-written line off; a device cannot be cut, and its reader sees what it saw.
        if self.file.set_len(self.written).is_ok() {
            let _ = self.file.seek(io::SeekFrom::Start(self.written));
        }
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        RecordLoss {
            count,
            reason: if full { "disk_full" } else { "write_failed" },
            message: Some(format!(
                "the recording ends here: {error}; diagnosis goes on, and what is not recorded is counted"
            )),
        }
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{Fact, Source};
    use crate::sources::recording::Recording;

    fn tick(at: u64) -> Signal {
        Signal {
            at,
            source: Source::Kernel,
            fact: Fact::Tick,
        }
    }

    fn header() -> Header {
        Header::new(Clock::from_offset(7), "web-3")
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let mut recorder = Recorder::create(&path, &header()).unwrap();
        for at in 0..10_000 {
            recorder.on_signal(&tick(at)).unwrap();
        }
        recorder.flush().unwrap();
        let file = io::BufReader::new(File::open(&path).unwrap());
        let recording = Recording::open(file, "r.jsonl").unwrap();
        assert_eq!(*recording.header(), header());
        let signals: Vec<Signal> = recording.map(|signal| signal.unwrap()).collect();
        assert_eq!(signals.len(), 10_000);
        assert_eq!(signals[9_999], tick(9_999));
    }

    #[test]
    fn a_full_disk_is_said_once_and_counted_exactly() {
        let full = OpenFull::open();
        let mut recorder = Recorder::new(full);
        let mut lost = 0;
        let mut messages = Vec::new();
        let mut note = |result: Result<(), RecordLoss>| {
            if let Err(loss) = result {
                lost += loss.count;
                messages.extend(loss.message);
            }
        };
        for at in 0..5_000 {
            note(recorder.on_signal(&tick(at)));
        }
        note(recorder.flush());
        assert_eq!(lost, 5_000);
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].contains("No space left"), "{messages:?}");
    }

    #[test]
    fn creating_on_a_full_disk_names_the_file() {
        let error = Recorder::create(Path::new("/dev/full"), &header()).unwrap_err();
        assert!(format!("{error:#}").contains("write /dev/full: No space left"));
    }

    /// The device that is always full.
    struct OpenFull;

    impl OpenFull {
        fn open() -> File {
            File::options().write(true).open("/dev/full").unwrap()
        }
    }
}
