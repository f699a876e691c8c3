//! Bytes of a file or pipe, decompressed, with their kind known before they are read.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::kind::SNIFFED;
use super::zstd::ZstdDecoder;
use super::{Kind, OpenError, sniff};

/// Compressed bytes read at a time.
const COMPRESSED_READ: usize = 128 * 1024;

/// An input whose kind is known; reading it gives it whole, from its first byte, decompressed.
pub struct Input {
    name: String,
    kind: Kind,
    compressed: bool,
    progress: Progress,
    /// The same file where it can be mapped: its bytes are the input's.
    mappable: Option<File>,
    reader: Peeked<Box<dyn Read + Send>>,
}

/// How far a file has been read, in its own (compressed) bytes.
#[derive(Clone, Debug)]
pub struct Progress {
    read: Arc<AtomicU64>,
    total: Option<u64>,
}

impl Progress {
    /// The file has been read up to here.
    pub(super) fn reached(&self, offset: u64) {
        self.read.store(offset, Ordering::Relaxed);
    }

    /// Bytes read so far, and of how many where that is known.
    pub fn now(&self) -> (u64, Option<u64>) {
        (self.read.load(Ordering::Relaxed), self.total)
    }
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Counts what goes through.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Input {
    pub fn open(path: &Path) -> Result<Input, OpenError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Input::from_file(file, &name),
            Err(error) => Err(OpenError::Io { name, error }),
        }
    }

    /// Reads an open file, which messages call `name`, from where it stands.
    pub fn from_file(file: File, name: &str) -> Result<Input, OpenError> {
        let failed = |error| OpenError::Io {
            name: name.to_owned(),
            error,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Input::new(Box::new(file), name, None);
        }
        let mut same = file.try_clone().map_err(failed)?;
        let from_its_beginning = same.stream_position().map_err(failed)? == 0;
        let mut input = Input::new(Box::new(file), name, Some(metadata.len()))?;
        input.mappable = (from_its_beginning && !input.compressed).then_some(same);
        Ok(input)
    }

    /// Reads from `reader`, standard input for example, which messages call `name`.
    pub fn read(reader: impl Read + Send + 'static, name: &str) -> Result<Input, OpenError> {
        Input::new(Box::new(reader), name, None)
    }

    fn new(
        reader: Box<dyn Read + Send>,
        name: &str,
        total: Option<u64>,
    ) -> Result<Input, OpenError> {
        let failed = |error| OpenError::Io {
            name: name.to_owned(),
            error,
        };
        let read = Arc::new(AtomicU64::new(0));
        let counted: Box<dyn Read + Send> = Box::new(Counted {
            inner: reader,
            read: read.clone(),
        });
        let (mut kind, mut reader) = peek(counted).map_err(failed)?;
        let compressed = matches!(kind, Kind::Gzip | Kind::Zstd);
        if compressed {
            let raw = BufReader::with_capacity(COMPRESSED_READ, reader);
            let plain: Box<dyn Read + Send> = if kind == Kind::Gzip {
                Box::new(MultiGzDecoder::new(raw))
            } else {
                Box::new(ZstdDecoder::new(raw))
            };
            (kind, reader) = peek(plain).map_err(failed)?;
        }
        if reader.get_ref().0.get_ref().is_empty() {
            return Err(OpenError::Empty {
                name: name.to_owned(),
            });
        }
        Ok(Input {
            name: name.to_owned(),
            kind,
            compressed,
            progress: Progress { read, total },
            mappable: None,
            reader,
        })
    }

    /// What it is once decompressed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file whose bytes are the input's, if it can be mapped.
    pub(super) fn take_mappable(&mut self) -> Option<File> {
        self.mappable.take()
    }

    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("compressed", &self.compressed)
            .finish_non_exhaustive()
    }
}

/// Tells the kind by the first bytes, and puts them back in front.
fn peek(mut reader: Box<dyn Read + Send>) -> io::Result<(Kind, Peeked<Box<dyn Read + Send>>)> {
    let mut first = vec![0; SNIFFED];
    let mut length = 0;
    while length < first.len() {
        match reader.read(&mut first[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The next read says so again, where there is something to tell first.
            Err(error) if length > 0 && error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    first.truncate(length);
    Ok((sniff(&first), Cursor::new(first).chain(reader)))
}
