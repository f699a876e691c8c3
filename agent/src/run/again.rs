//! Inputs that can be read more than once: files as they are, streams through a temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::config;
use crate::sources::packets::file::{Input, Kind, OpenError};

/// Where the bytes can be had again.
pub(super) enum Again {
    File(File),
    Spool(Arc<Mutex<Spool>>),
}

/// What has come from a stream so far, in a file without a name.
pub(super) struct Spool {
    file: Option<File>,
    broken: Option<io::Error>,
}

/// Opens an input; with the way to read it again if that is `wanted` and it is a capture.
pub(super) fn open(
    input: &config::Input,
    wanted: bool,
) -> Result<(Input, Option<Again>), OpenError> {
    let (stream, name): (Box<dyn Read + Send>, String) = match input {
        config::Input::File(path) if !wanted => return Ok((Input::open(path)?, None)),
        config::Input::Stdin if !wanted => {
            return Ok((Input::read(io::stdin(), "standard input")?, None));
        }
        config::Input::File(path) => {
            let name = path.display().to_string();
            let failed = |error| OpenError::Io {
                name: name.clone(),
                error,
            };
            let file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_file() {
                // The same file, whatever becomes of its name meanwhile.
                let again = file.try_clone().map_err(failed)?;
                return Ok((Input::from_file(file, &name)?, Some(Again::File(again))));
            }
            (Box::new(file), name)
        }
        config::Input::Stdin => (Box::new(io::stdin()), "standard input".to_owned()),
    };
    let spool = Arc::new(Mutex::new(Spool::new()));
    let copied = Copied {
        inner: stream,
        spool: Arc::clone(&spool),
    };
    let input = Input::read(copied, &name)?;
    if !matches!(input.kind(), Kind::Pcap | Kind::PcapNg) {
        // A recording is read once.
        lock(&spool).file = None;
    }
    Ok((input, Some(Again::Spool(spool))))
}

fn lock(spool: &Mutex<Spool>) -> std::sync::MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Again {
    /// The input from its beginning.
    pub(super) fn open(&self, name: &str) -> Result<Input> {
        let mut file = match self {
            Again::File(file) => file.try_clone()?,
            Again::Spool(spool) => {
                let spool = &mut *lock(spool);
                match (&spool.file, &spool.broken) {
                    (Some(file), _) => file.try_clone()?,
                    (None, Some(error)) => bail!("{name} cannot be read again: {error}"),
                    (None, None) => bail!("{name} cannot be read again"),
                }
            }
        };
        file.seek(SeekFrom::Start(0))
            .with_context(|| format!("read {name} again"))?;
        Ok(Input::from_file(file, name)?)
    }
}

impl Spool {
    fn new() -> Spool {
        let (file, broken) = match tempfile::tempfile() {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(error)),
        };
        Spool { file, broken }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let written = self.file.as_mut().map(|file| file.write_all(bytes));
        if let Some(Err(error)) = written {
            // The verdicts do not need it: it gives its room back.
            self.file = None;
            self.broken = Some(error);
        }
    }
}

/// Keeps what goes through.
struct Copied<R> {
    inner: R,
    spool: Arc<Mutex<Spool>>,
}

impl<R: Read> Read for Copied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        lock(&self.spool).keep(&buffer[..read]);
        Ok(read)
    }
}
