//! The file as its one writer has it: batches in, what is too old or too much out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::file::{self, Found, HOUR_MS};
use super::{DEFAULT_PATH, Entry, Series};

/// In KiB. More would only be copied: what is written is seldom read.
const CACHE: i64 = 512;
/// After so many pages (1 MB) the log goes into the file.
const CHECKPOINT: i64 = 64;
/// The log beyond this size is kept by a reader that does not end: nothing more is written to it.
const MAX_LOG: u64 = 64 << 20;
/// How long a lock of another program is waited for.
const BUSY: Duration = Duration::from_secs(2);
/// Lines that are deleted at once.
const CHUNK: i64 = 1_024;

/// What is kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bytes: u64,
    pub age: Duration,
}

impl Default for Limits {
    /// Some half a million verdicts, and a month.
    fn default() -> Limits {
        Limits {
            bytes: 1 << 30,
            age: Duration::from_secs(30 * 86_400),
        }
    }
}

/// The open file. The connection must be closed first: closing `file` drops its locks.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    file: File,
    path: PathBuf,
    run: i64,
    limits: Limits,
    tidied_ms: i64,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused {
            reason: file::reason(&error),
            message: error.to_string(),
        }
    }
}

impl Store {
    /// Opens or makes the file; refuses one that another agent writes.
    pub(super) fn open(path: &Path, node: &str, limits: Limits, now_ms: i64) -> Result<Store> {
        let path = real(path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => {
                    anyhow::anyhow!("it is a symbolic link; name its target instead")
                }
                _ => error.into(),
            })?;
        if !file.metadata()?.is_file() {
            bail!("it is no regular file");
        }
        // Two would keep every failure twice. The kernel lets go of it however an agent ends.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another why502 keeps its history there: name another file")
            }
            Err(TryLockError::Error(error)) => return Err(error).context("lock it"),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags).map_err(file::plain)?;
        connection.busy_timeout(BUSY)?;
        if file::identify(&connection)? == Found::Empty {
            file::create(&mut connection)?;
        }
        // Commits survive kill -9 without waiting for the disk; a power cut may take the last ones.
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "cache_size", -CACHE)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        let page: i64 = pragma(&connection, "page_size")?;
        // Deleting comes first; this is for what it did not foresee.
        let most = limits.bytes.cast_signed() / page.max(1) * 9 / 8 + 64;
        connection.pragma_update(None, "max_page_count", most)?;
        connection
            .execute(
                "INSERT INTO runs (node, began, seen) VALUES (?1, ?2, ?2)",
                params![node, now_ms],
            )
            .map_err(file::plain)?;
        let run = connection.last_insert_rowid();
        Ok(Store {
            connection,
            file,
            path,
            run,
            limits,
            tidied_ms: 0,
        })
    }

    /// Whether the name still stands for this file.
    pub(super) fn is_there(&self) -> bool {
        let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
        let named = self.path.symlink_metadata().ok().map(identity);
        named.is_some() && named == self.file.metadata().ok().map(identity)
    }

    /// Writes all of it or nothing. `now_ms` is noted as the last moment that was watched.
    pub(super) fn write(
        &mut self,
        batch: &[Entry],
        losses: &BTreeMap<String, u64>,
        now_ms: i64,
    ) -> Result<(), Refused> {
        self.room_in_log()?;
        let tidy = now_ms - self.tidied_ms >= HOUR_MS;
        let limits = self.limits;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        drop_old(&transaction, limits, now_ms, tidy)?;
        for entry in batch {
            match entry {
                Entry::Line {
                    at_ms,
                    series,
                    line,
                } => {
                    let series = series_id(&transaction, series)?;
                    transaction
                        .prepare_cached(
                            "INSERT INTO lines (time, hour, series, line) VALUES (?, ?, ?, ?)",
                        )?
                        .execute(params![at_ms, at_ms.div_euclid(HOUR_MS), series, line])?;
                }
                // Summed up in `losses`.
                Entry::Lost { .. } => {}
                Entry::Blind(text) => {
                    transaction.execute(
                        "INSERT OR IGNORE INTO blind (run, text) VALUES (?, ?)",
                        params![self.run, text],
                    )?;
                }
            }
        }
        for (name, count) in losses {
            transaction.execute(
                "INSERT INTO losses (hour, name, count) VALUES (?, ?, ?)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
                params![
                    now_ms.div_euclid(HOUR_MS) * HOUR_MS,
                    name,
                    count.cast_signed()
                ],
            )?;
        }
        transaction
            .prepare_cached("UPDATE runs SET seen = max(seen, ?) WHERE id = ?")?
            .execute(params![now_ms, self.run])?;
        transaction.commit()?;
        if tidy {
            self.tidied_ms = now_ms;
        }
        self.forget_pages();
        Ok(())
    }

    /// A reader that stays in the middle of the file keeps the log from being reused.
    fn room_in_log(&self) -> Result<(), Refused> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let size = || std::fs::metadata(&log).map_or(0, |m| m.len());
        if size() < MAX_LOG {
            return Ok(());
        }
        let emptied = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: i64 = self.connection.query_row(emptied, [], |row| row.get(0))?;
        match busy {
            0 => Ok(()),
            _ => Err(Refused {
                reason: "locked",
                message: "a reader has not let go of it for too long".to_owned(),
            }),
        }
    }

    /// The kernel counts cached pages as this program's memory; those on the disk are not needed.
    fn forget_pages(&self) {
        // SAFETY: advice on an open descriptor; it changes no data.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

/// The path with its folder's links followed; the default folder is made.
fn real(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        bail!("it names no file");
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path == Path::new(DEFAULT_PATH) && !folder.exists() {
        std::fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let folder = folder
        .canonicalize()
        .with_context(|| folder.display().to_string())?;
    Ok(folder.join(name))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn series_id(transaction: &Transaction<'_>, series: &Series) -> rusqlite::Result<i64> {
    let values = params![
        series.kind,
        series.cause,
        series.variant,
        series.confidence,
        series.status.unwrap_or(0),
        series.upstream
    ];
    let mut find = transaction.prepare_cached(
        "SELECT id FROM series WHERE kind = ? AND cause = ? AND variant = ? AND confidence = ?
         AND status = ? AND upstream = ?",
    )?;
    match find.query_row(values, |row| row.get(0)) {
        Err(rusqlite::Error::QueryReturnedNoRows) => {}
        found => return found,
    }
    transaction
        .prepare_cached(
            "INSERT INTO series (kind, cause, variant, confidence, status, upstream)
             VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .insert(values)
}

/// Deletes what is too old, and of what is too much the oldest.
fn drop_old(
    transaction: &Transaction<'_>,
    limits: Limits,
    now_ms: i64,
    tidy: bool,
) -> rusqlite::Result<()> {
    let oldest = now_ms - i64::try_from(limits.age.as_millis()).unwrap_or(i64::MAX / 2);
    transaction
        .prepare_cached(
            "DELETE FROM lines WHERE id IN
             (SELECT id FROM lines WHERE hour < ? LIMIT ?)",
        )?
        .execute(params![oldest.div_euclid(HOUR_MS), CHUNK])?;
    let page = pragma(transaction, "page_size")?;
    let most = limits.bytes.cast_signed() / page;
    while pragma(transaction, "page_count")? - pragma(transaction, "freelist_count")? > most {
        let deleted = transaction
            .prepare_cached(
                "DELETE FROM lines WHERE id IN (SELECT id FROM lines ORDER BY id LIMIT ?)",
            )?
            .execute([CHUNK])?;
        if deleted == 0 {
            break;
        }
    }
    if tidy {
        transaction.execute("DELETE FROM losses WHERE hour < ?", [oldest])?;
        transaction.execute("DELETE FROM runs WHERE seen < ?", [oldest])?;
        transaction.execute(
            "DELETE FROM blind WHERE run NOT IN (SELECT id FROM runs)",
            [],
        )?;
        transaction.execute(
            "DELETE FROM series WHERE NOT EXISTS
             (SELECT 1 FROM lines WHERE lines.series = series.id)",
            [],
        )?;
    }
    Ok(())
}
