//! What an SQLite file must be to be a history of ours, for who writes and who reads.

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, ErrorCode};

/// "w502" in SQLite's header: tells a history from every other database.
const APPLICATION: i64 = 0x7735_3032;

pub(super) const HOUR_MS: i64 = 3_600_000;

/// Raised with every change of the tables.
const VERSION: i64 = 1;

/// A line is some 2 KB: in larger pages less room is wasted. Times are milliseconds since 1970,
/// hours of lines are hours since then: in the index they are groups that need no sorting.
const TABLES: &str = "
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    cause TEXT NOT NULL,
    variant TEXT NOT NULL,
    confidence TEXT NOT NULL,
    status INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    UNIQUE (kind, cause, variant, confidence, status, upstream)
);
CREATE TABLE lines (
    id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    line TEXT NOT NULL
);
CREATE INDEX lines_hour ON lines (hour, series, time);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    began INTEGER NOT NULL,
    seen INTEGER NOT NULL
);
CREATE TABLE losses (
    hour INTEGER NOT NULL,
    name TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour, name)
);
CREATE TABLE blind (
    run INTEGER NOT NULL REFERENCES runs,
    text TEXT NOT NULL,
    PRIMARY KEY (run, text)
);
";

/// What a file was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Empty,
    History,
}

/// Refuses what is no history, or another version's.
pub(super) fn identify(connection: &Connection) -> Result<Found> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id").map_err(plain)?;
    let version = number("PRAGMA user_version").map_err(plain)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(plain)?;
    match (application, tables, version) {
        (0, 0, 0) => Ok(Found::Empty),
        (APPLICATION, _, VERSION) => Ok(Found::History),
        (APPLICATION, _, other) => bail!(
            "it was made by {} version of why502 (tables {other}, this one knows {VERSION}): \
             name another file, or move it away",
            if other > VERSION {
                "a newer"
            } else {
                "an older"
            },
        ),
        _ => bail!("it is another program's database: name another file"),
    }
}

/// Makes an empty file a history.
pub(super) fn create(connection: &mut Connection) -> Result<()> {
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let tables = connection.transaction()?;
    tables.execute_batch(TABLES)?;
    tables.pragma_update(None, "application_id", APPLICATION)?;
    tables.pragma_update(None, "user_version", VERSION)?;
    tables.commit().context("make its tables")
}

/// In a person's words, with the way out.
pub(super) fn plain(error: rusqlite::Error) -> anyhow::Error {
    let way_out = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is no SQLite database: name another file",
        Some(ErrorCode::DatabaseCorrupt) => {
            "it is damaged: move it away; `sqlite3 FILE .recover` saves what can be read"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program keeps it locked"
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened: the right to read it is missing, or that to read the files beside it \
             that end in -wal and -shm"
        }
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(way_out)
}

/// Why something could not be written, as the metric has it.
pub(super) fn reason(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "disk_full",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "locked",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "damaged",
        _ => "write_failed",
    }
}
