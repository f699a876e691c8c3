//! The file as `report` reads it, also while `run` writes and without the right to write.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags, params};

use super::Series;
use super::file::{self, Found, HOUR_MS};

/// Lines that are read at once: nothing is held while they are shown.
const CHUNK: usize = 256;

/// Opened for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

/// Equal lines, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    pub series: Series,
    pub count: u64,
    pub first_ms: i64,
    pub last_ms: i64,
    /// The latest of them.
    pub example: i64,
}

/// What was kept since a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In the order of their last lines.
    pub folded: Vec<Folded>,
    /// Failed responses by the hour in which they were, and by cause.
    pub hours: BTreeMap<i64, BTreeMap<String, u64>>,
}

/// Who watched when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// From and to, in milliseconds since 1970.
    pub times: Vec<(i64, i64)>,
    pub nodes: Vec<String>,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Reader> {
        let reader = Self::connect(path);
        reader.with_context(|| format!("history {}", path.display()))
    }

    fn connect(path: &Path) -> Result<Reader> {
        // Not opened: closing a file takes this process's locks on it away.
        match path.metadata() {
            Ok(found) if !found.is_file() => bail!("it is no regular file"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is none; `why502 run` keeps one there, --history FILE names another")
            }
            Err(error) => return Err(error).context("it cannot be looked at"),
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        // Nobody has it open: it does not change, and its folder may not be ours to write to.
        let still = match Path::new(&log).exists() {
            true => "",
            false => "&immutable=1",
        };
        let uri = format!("file:{}?mode=ro{still}", encoded(path));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags).map_err(file::plain)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        match file::identify(&connection)? {
            Found::History => Ok(Reader { connection }),
            Found::Empty => bail!("it is empty"),
        }
    }

    /// Counts what was kept since then.
    pub fn tally(&self, since_ms: i64) -> Result<Tally> {
        self.read_tally(since_ms).map_err(file::plain)
    }

    fn read_tally(&self, since_ms: i64) -> rusqlite::Result<Tally> {
        let series = self.series()?;
        let mut folded: HashMap<i64, Folded> = HashMap::new();
        let mut tally = Tally::default();
        // The index alone answers this, in its own order.
        let mut select = self.connection.prepare(
            "SELECT hour, series, count(*), min(time), max(time), max(id) FROM lines
             WHERE hour >= ? AND time >= ? GROUP BY hour, series",
        )?;
        let mut rows = select.query([since_ms.div_euclid(HOUR_MS), since_ms])?;
        while let Some(row) = rows.next()? {
            let (hour, of, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (count, last_ms) = (count.cast_unsigned(), row.get(4)?);
            // One made after the list of series was read is for the next report.
            let Some(series) = series.get(&of) else {
                continue;
            };
            if series.kind == "verdict" {
                let causes = tally.hours.entry(hour * HOUR_MS).or_default();
                *causes.entry(series.cause.clone()).or_default() += count;
            }
            let one = folded.entry(of).or_insert(Folded {
                series: series.clone(),
                count: 0,
                first_ms: row.get(3)?,
                last_ms,
                example: 0,
            });
            one.count += count;
            one.last_ms = last_ms;
            one.example = row.get(5)?;
        }
        tally.folded = folded.into_values().collect();
        tally.folded.sort_by_key(|one| (one.last_ms, one.example));
        Ok(tally)
    }

    fn series(&self) -> rusqlite::Result<HashMap<i64, Series>> {
        let mut select = self
            .connection
            .prepare("SELECT id, kind, cause, variant, confidence, status, upstream FROM series")?;
        let rows = select.query_map([], |row| {
            let status: u16 = row.get(5)?;
            let series = Series {
                kind: row.get(1)?,
                cause: row.get(2)?,
                variant: row.get(3)?,
                confidence: row.get(4)?,
                status: Some(status).filter(|status| *status > 0),
                upstream: row.get(6)?,
            };
            Ok((row.get(0)?, series))
        })?;
        rows.collect()
    }

    /// One line; `None` when it was deleted meanwhile.
    pub fn line(&self, id: i64) -> Result<Option<String>> {
        let line = self
            .connection
            .prepare_cached("SELECT line FROM lines WHERE id = ?")
            .and_then(|mut select| select.query_row([id], |row| row.get(0)));
        match line {
            Ok(line) => Ok(Some(line)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(file::plain(error)),
        }
    }

    /// The lines of risks since then.
    pub fn risks(&self, since_ms: i64) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<_> {
            let mut select = self.connection.prepare(
                "SELECT line FROM lines WHERE hour >= ?1 / 3600000 AND time >= ?1 AND series IN
                 (SELECT id FROM series WHERE kind = ?2) ORDER BY id",
            )?;
            let rows = select.query_map(params![since_ms, super::RISK], |row| row.get(0))?;
            rows.collect()
        };
        read().map_err(file::plain)
    }

    /// Every line since then that is there now, as they were kept: its time and the line.
    pub fn lines(
        &self,
        since_ms: i64,
        mut each: impl FnMut(i64, &str) -> Result<()>,
    ) -> Result<()> {
        let ends = "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM lines WHERE hour >= ?";
        let (oldest, newest): (i64, i64) = self
            .connection
            .query_row(ends, [since_ms.div_euclid(HOUR_MS)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(file::plain)?;
        let mut next = oldest;
        loop {
            // Whoever takes the lines may be slow: between two chunks nothing is held.
            let chunk = self.chunk(since_ms, next, newest).map_err(file::plain)?;
            for (id, time, line) in &chunk {
                next = id + 1;
                each(*time, line)?;
            }
            if chunk.len() < CHUNK {
                return Ok(());
            }
        }
    }

    fn chunk(
        &self,
        since_ms: i64,
        from: i64,
        to: i64,
    ) -> rusqlite::Result<Vec<(i64, i64, String)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, time, line FROM lines WHERE id BETWEEN ? AND ? AND time >= ?
             ORDER BY id LIMIT ?",
        )?;
        let values = params![from, to, since_ms, CHUNK as i64];
        let rows = select.query_map(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    }

    /// When `run` watched since then.
    pub fn watched(&self, since_ms: i64) -> Result<Watched> {
        let read = || -> rusqlite::Result<_> {
            let mut select = self.connection.prepare(
                "SELECT max(began, ?1), seen, node FROM runs WHERE seen >= ?1 ORDER BY began",
            )?;
            let rows = select.query_map([since_ms], |row| {
                Ok(((row.get(0)?, row.get(1)?), row.get(2)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<((i64, i64), String)>>>()
        };
        let (times, mut nodes): (Vec<_>, Vec<_>) = read().map_err(file::plain)?.into_iter().unzip();
        nodes.sort();
        nodes.dedup();
        Ok(Watched { times, nodes })
    }

    /// What was lost since then, by name.
    pub fn losses(&self, since_ms: i64) -> Result<Vec<(String, u64)>> {
        let read = || -> rusqlite::Result<_> {
            // An hour that had begun before counts whole: rather too much is said than too little.
            let mut select = self.connection.prepare(
                "SELECT name, sum(count) FROM losses WHERE hour > ? - 3600000 GROUP BY name",
            )?;
            let rows = select.query_map([since_ms], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?;
            rows.collect()
        };
        read().map_err(file::plain)
    }

    /// What could not be seen since then.
    pub fn blind(&self, since_ms: i64) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<_> {
            let mut select = self.connection.prepare(
                "SELECT DISTINCT text FROM blind JOIN runs ON runs.id = blind.run
                 WHERE seen >= ? ORDER BY text",
            )?;
            let rows = select.query_map([since_ms], |row| row.get(0))?;
            rows.collect()
        };
        read().map_err(file::plain)
    }
}

/// A path in a URI.
fn encoded(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                out.push(char::from(*byte));
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    // An empty authority: a path that begins with two slashes would be taken for one.
    match out.starts_with('/') {
        true => format!("//{out}"),
        false => out,
    }
}
