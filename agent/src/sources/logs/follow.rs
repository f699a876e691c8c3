//! Logs that grow: followed by name through rotation and truncation, from their end on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Counts, Parser, Template, Timed, Zone};
use crate::signal::Nanos;

/// How much of a log's beginning and end is looked at to recognise it.
const PRIME: u64 = 64 * 1024;
/// Read of one log before the others have their turn.
const TURN: usize = 1024 * 1024;
/// A line longer than this is left out.
const LINE: usize = 256 * 1024;

/// One log that is followed.
pub struct Followed {
    path: PathBuf,
    templates: Arc<[Template]>,
    zone: Zone,
    parser: Parser,
    open: Option<Open>,
    /// Bytes of a line whose end has not been written yet.
    partial: Vec<u8>,
    /// The rest of a line that is too long is passed over.
    skipping: bool,
    /// Nothing came at the last look: what the parser held is whole.
    quiet: bool,
    /// It was opened once: a later file of that name is read from its beginning.
    begun: bool,
    /// Since when no file has the name.
    gone: Option<Nanos>,
}

struct Open {
    file: File,
    device: u64,
    inode: u64,
    at: u64,
}

impl Followed {
    pub fn new(path: &Path, templates: &Arc<[Template]>, zone: Zone) -> Followed {
        Followed {
            path: path.to_owned(),
            templates: Arc::clone(templates),
            zone,
            parser: Parser::new(Arc::clone(templates), zone),
            open: None,
            partial: Vec::new(),
            skipping: false,
            quiet: false,
            begun: false,
            gone: None,
        }
    }

    /// For how long no file has had the name; 0 while one has.
    pub fn gone_for(&self, now: Nanos) -> Nanos {
        self.gone.map_or(0, |since| now.saturating_sub(since))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this path leads to the file that is followed.
    pub fn reads(&self, path: &Path) -> bool {
        let identity = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
        let own = match &self.open {
            Some(open) => Some((open.device, open.inode)),
            None => identity(&self.path),
        };
        own.is_some() && own == identity(path)
    }

    pub fn counts(&self) -> Counts {
        self.parser.counts()
    }

    /// What it was recognised as.
    pub fn format(&self) -> Option<String> {
        self.parser.name()
    }

    pub fn tells(&self) -> Vec<&'static str> {
        self.parser.tells()
    }

    /// Opens it if it is there, and takes in what was written since the last look.
    pub fn look(&mut self, now: Nanos, out: &mut Vec<Timed>) -> io::Result<()> {
        if self.open.is_none() {
            self.gone.get_or_insert(now);
            self.open_again()?;
            self.gone = None;
        }
        let came = self.read(now, out)?;
        if came == 0 {
            if self.quiet {
                self.parser.flush(out);
            }
            self.quiet = true;
            self.follow_the_name(now, out)?;
        } else {
            self.quiet = false;
        }
        Ok(())
    }

    fn open_again(&mut self) -> io::Result<()> {
        // A pipe of that name must not hold up the other logs.
        let mut open = File::options();
        open.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = open.open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut at = 0;
        if !self.begun {
            // What was written before is of no concern but for what kind of log it is.
            at = self.prime(&mut file, metadata.len())?;
        }
        self.begun = true;
        self.open = Some(Open {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            at,
        });
        Ok(())
    }

    /// Recognises the log by its beginning and its end; gives where the next line begins.
    fn prime(&mut self, file: &mut File, length: u64) -> io::Result<u64> {
        let mut ignored = Vec::new();
        let mut beginning = Vec::new();
        file.by_ref().take(PRIME).read_to_end(&mut beginning)?;
        let mut end = Vec::new();
        if length > PRIME {
            file.seek(SeekFrom::Start(length - PRIME))?;
            file.by_ref().take(PRIME).read_to_end(&mut end)?;
        }
        let mut parser = Parser::new(Arc::clone(&self.templates), self.zone);
        for part in [&beginning, &end] {
            for line in part.split(|b| *b == b'\n') {
                parser.line(line, None, &mut ignored);
                ignored.clear();
            }
        }
        parser.flush(&mut ignored);
        parser.forget();
        self.parser = parser;
        // A line that is being written is read from its beginning.
        let last = if end.is_empty() { &beginning } else { &end };
        let behind = last.iter().rev().take_while(|b| **b != b'\n').count() as u64;
        let whole = last.len() as u64 == behind;
        Ok(if whole && length > PRIME {
            length
        } else {
            length.saturating_sub(behind)
        })
    }

    /// Takes in what is there; gives how many bytes came.
    fn read(&mut self, now: Nanos, out: &mut Vec<Timed>) -> io::Result<usize> {
        let Some(open) = &mut self.open else {
            return Ok(0);
        };
        // Cut and written anew from its beginning, as by `copytruncate`.
        if open.file.metadata()?.len() < open.at {
            open.at = 0;
            self.partial.clear();
            self.skipping = false;
        }
        open.file.seek(SeekFrom::Start(open.at))?;
        let mut bytes = Vec::new();
        let came = open
            .file
            .by_ref()
            .take(TURN as u64)
            .read_to_end(&mut bytes)?;
        open.at += came as u64;
        let mut lines = bytes.split(|b| *b == b'\n').peekable();
        while let Some(piece) = lines.next() {
            let ends = lines.peek().is_some();
            if !self.skipping {
                self.partial.extend_from_slice(piece);
            }
            if self.partial.len() > LINE {
                self.parser.line(&self.partial, Some(now), out);
                self.partial.clear();
                self.skipping = true;
            }
            if ends {
                if !self.skipping {
                    let line = std::mem::take(&mut self.partial);
                    self.parser.line(&line, Some(now), out);
                }
                self.skipping = false;
            }
        }
        Ok(came)
    }

    /// Goes on with the file that has the name now, once the old one is read to its end.
    fn follow_the_name(&mut self, now: Nanos, out: &mut Vec<Timed>) -> io::Result<()> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let same = match std::fs::metadata(&self.path) {
            Ok(named) => {
                self.gone = None;
                (named.dev(), named.ino()) == (open.device, open.inode)
            }
            // Moved away, and its successor not there yet: the old one may still be written.
            Err(_) => {
                self.gone.get_or_insert(now);
                true
            }
        };
        if same {
            return Ok(());
        }
        // The last line of the old one has no more to come.
        self.parser.flush(out);
        self.partial.clear();
        self.skipping = false;
        self.open = None;
        self.open_again()?;
        self.read(now, out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::signal::Fact;

    fn line(path: &str) -> String {
        format!(
            "10.0.0.7 - - [21/Nov/2026:12:12:16 +0000] \"GET {path} HTTP/1.1\" 502 157 \"-\" \"-\"\n"
        )
    }

    struct Scene {
        folder: tempfile::TempDir,
        log: Followed,
    }

    impl Scene {
        fn new() -> Scene {
            let folder = tempfile::tempdir().unwrap();
            let templates: Arc<[Template]> = Template::known().into();
            let log = Followed::new(
                &folder.path().join("access.log"),
                &templates,
                Zone::Fixed(0),
            );
            Scene { folder, log }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("access.log")
        }

        fn append(&self, text: &str) {
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(self.path())
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// The paths of what came.
        fn look(&mut self) -> Vec<String> {
            let mut out = Vec::new();
            self.log.look(1, &mut out).unwrap();
            let path = |timed: Timed| match timed.fact {
                Fact::Logged(logged) => match logged.request {
                    Some(crate::signal::Opening::HttpRequest { path, .. }) => path,
                    _ => String::new(),
                },
                _ => String::new(),
            };
            out.into_iter().map(path).collect()
        }
    }

    #[test]
    fn a_log_is_the_same_by_whichever_way_it_is_reached() {
        let mut scene = Scene::new();
        let path = scene.path();
        let elsewhere = PathBuf::from(format!("/proc/self/root{}", path.display()));
        assert!(!scene.log.reads(&elsewhere), "there is no log yet");
        scene.append(&line("/a"));
        assert!(scene.log.reads(&elsewhere));
        scene.look();
        assert!(scene.log.reads(&elsewhere));
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        scene.append(&line("/b"));
        assert!(
            !scene.log.reads(&elsewhere),
            "the new one is not followed yet"
        );
        scene.look();
        assert!(scene.log.reads(&elsewhere));
    }

    #[test]
    fn only_what_is_written_from_now_on() {
        let mut scene = Scene::new();
        assert!(
            scene.log.look(1, &mut Vec::new()).is_err(),
            "it is not there yet"
        );
        scene.append(&line("/before"));
        assert_eq!(scene.look(), [""; 0]);
        assert!(scene.log.format().unwrap().contains("combined"));
        scene.append(&line("/after"));
        assert_eq!(scene.look(), ["/after"]);
    }

    #[test]
    fn a_pipe_is_refused_and_holds_nothing_up() {
        let mut scene = Scene::new();
        let made = std::process::Command::new("mkfifo")
            .arg(scene.path())
            .status();
        assert!(made.unwrap().success());
        let error = scene.log.look(1, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
    }

    #[test]
    fn a_line_in_pieces_is_one_line() {
        let mut scene = Scene::new();
        let all = line("/a");
        scene.append(&all[..20]);
        assert_eq!(scene.look(), [""; 0]);
        scene.append(&all[20..50]);
        assert_eq!(scene.look(), [""; 0]);
        scene.append(&all[50..]);
        assert_eq!(scene.look(), ["/a"]);
    }

    #[test]
    fn rotation_loses_nothing() {
        let mut scene = Scene::new();
        scene.append(&line("/0"));
        scene.look();
        scene.append(&line("/1"));
        let old = scene.folder.path().join("access.log.1");
        std::fs::rename(scene.path(), &old).unwrap();
        // nginx writes to the old one until it is told to open it again.
        let mut file = File::options().append(true).open(&old).unwrap();
        assert_eq!(scene.look(), ["/1"]);
        file.write_all(line("/2").as_bytes()).unwrap();
        assert_eq!(scene.look(), ["/2"]);
        file.write_all(line("/3").as_bytes()).unwrap();
        scene.append(&line("/4"));
        let mut all = scene.look();
        all.extend(scene.look());
        assert_eq!(all, ["/3", "/4"]);
    }

    #[test]
    fn truncation_is_a_new_beginning() {
        let mut scene = Scene::new();
        scene.append(&line("/0").repeat(3));
        scene.look();
        std::fs::write(scene.path(), line("/1")).unwrap();
        assert_eq!(scene.look(), ["/1"]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut scene = Scene::new();
        scene.append(&line("/0"));
        scene.look();
        scene.append(&"x".repeat(3 * LINE));
        scene.look();
        assert!(scene.log.partial.len() <= LINE);
        scene.append(&format!("\n{}", line("/1")));
        assert_eq!(scene.look(), ["/1"]);
    }
}
