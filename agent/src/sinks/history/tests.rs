//! Files as they are found, and what is kept of what comes.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::file;
use super::store::Store;
use super::*;
use crate::cause::Cause;
use crate::sinks::sample::{other, verdict};

const DAY_MS: i64 = 86_400_000;
const NOW: i64 = 1_795_182_504_000;

fn open(path: &Path) -> Store {
    Store::open(path, "web-3", Limits::default(), NOW).unwrap()
}

fn entry(at_ms: i64, cause: Cause, line: &str) -> Entry {
    Entry::Line {
        at_ms,
        series: Series::of(&other(cause, "10.9.0.2:9000", 0)),
        line: line.to_owned(),
    }
}

fn lines(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let each = |_, line: &str| {
        lines.push(line.to_owned());
        Ok(())
    };
    Reader::open(path).unwrap().lines(0, each).unwrap();
    lines
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_kept_is_the_json_line_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    assert!(history.is_up());
    let verdict = verdict();
    history.on_verdict(&verdict, NOW);
    history.lost("ring_buffer", "full", 3);
    history.blind("reset_reason: kernel 6.6");
    let (dropped, messages) = history.finish();
    assert!(dropped.is_empty() && messages.is_empty(), "{messages:?}");
    let line = String::from_utf8(json_line(&verdict).unwrap()).unwrap();
    assert_eq!(lines(&path), [line.trim_end()]);
    let reader = Reader::open(&path).unwrap();
    let tally = reader.tally(NOW).unwrap();
    assert_eq!(tally.folded.len(), 1);
    assert_eq!(tally.folded[0].series, Series::of(&verdict));
    assert_eq!(reader.tally(NOW + 1).unwrap(), Tally::default());
    assert_eq!(
        reader.losses(NOW).unwrap(),
        [("ring_buffer_full".to_owned(), 3)]
    );
    assert_eq!(reader.blind(NOW).unwrap(), ["reset_reason: kernel 6.6"]);
    assert_eq!(reader.watched(NOW).unwrap().nodes, ["web-3"]);
    // Whoever may not see traffic must not see it here.
    use std::os::unix::fs::PermissionsExt as _;
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn counts_are_by_cause_and_hour_and_examples_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut store = open(&path);
    let hour = 3_600_000;
    let batch: Vec<Entry> = (0..300)
        .map(|n| entry(NOW + n * hour / 100, Cause::WorkerCrashed, &n.to_string()))
        .chain([entry(NOW, Cause::KeepaliveRace, "race")])
        .collect();
    store.write(&batch, &BTreeMap::new(), NOW).unwrap();
    let reader = Reader::open(&path).unwrap();
    let tally = reader.tally(NOW).unwrap();
    let crashes = tally.folded.last().unwrap();
    assert_eq!((crashes.count, crashes.first_ms), (300, NOW));
    assert_eq!(reader.line(crashes.example).unwrap().unwrap(), "299");
    let total: u64 = tally.hours.values().flat_map(BTreeMap::values).sum();
    assert_eq!((tally.hours.len(), total), (4, 301));
    assert_eq!(tally.hours[&(NOW / hour * hour)]["keepalive_race"], 1);
    // As they came, across the reader's chunks.
    let lines = lines(&path);
    assert_eq!((lines.len(), lines[300].as_str()), (301, "race"));
}

#[test]
fn age_and_size_are_bounded_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let limits = Limits {
        bytes: 4 << 20,
        age: Duration::from_secs(7 * 86_400),
    };
    let mut store = Store::open(&path, "web-3", limits, NOW).unwrap();
    let losses = BTreeMap::from([("ring_buffer_full".to_owned(), 1)]);
    let old = entry(NOW, Cause::WorkerCrashed, "old");
    store.write(&[old], &losses, NOW).unwrap();
    assert_eq!(lines(&path), ["old"]);
    let later = NOW + 8 * DAY_MS;
    store.write(&[], &BTreeMap::new(), later).unwrap();
    assert!(lines(&path).is_empty());
    assert!(Reader::open(&path).unwrap().losses(0).unwrap().is_empty());

    let text = "x".repeat(2_000);
    for n in 0..40 {
        let batch: Vec<Entry> = (0..256)
            .map(|i| entry(later + n, Cause::KeepaliveRace, &format!("{n} {i} {text}")))
            .collect();
        store.write(&batch, &BTreeMap::new(), later).unwrap();
    }
    let kept = lines(&path);
    assert!((1_000..2_200).contains(&kept.len()), "{}", kept.len());
    assert!(kept.last().unwrap().starts_with("39 255 "));
    let size: u64 = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size < 12 << 20, "{size}");
}

#[test]
fn two_agents_do_not_keep_one_failure_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let first = open(&path);
    let second = || Store::open(&path, "web-3", Limits::default(), NOW);
    let error = format!("{:#}", second().unwrap_err());
    assert!(error.contains("another why502"), "{error}");
    drop(first);
    second().unwrap();
}

#[test]
fn a_file_that_is_no_history_of_ours_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("text"), "no database\n".repeat(500)).unwrap();
    let foreign = Connection::open(at("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(foreign);
    for (name, version) in [("newer", 2), ("older", 0)] {
        drop(open(&at(name)));
        let made = Connection::open(at(name)).unwrap();
        made.pragma_update(None, "user_version", version).unwrap();
    }
    drop(open(&at("cut")));
    let cut = std::fs::read(at("cut")).unwrap();
    std::fs::write(at("cut"), &cut[..cut.len() / 2]).unwrap();
    std::os::unix::fs::symlink("text", at("link")).unwrap();
    for (name, part) in [
        ("text", "no SQLite database"),
        ("foreign", "another program's"),
        ("newer", "a newer version of why502 (tables 2"),
        ("older", "an older version of why502 (tables 0"),
        ("cut", "damaged: move it away"),
        (".", ""),
        ("no/such/folder", "No such file"),
    ] {
        let error = Store::open(&at(name), "web-3", Limits::default(), NOW).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{name}: {error:#}");
    }
    let error = Store::open(&at("link"), "web-3", Limits::default(), NOW).unwrap_err();
    assert!(error.to_string().contains("name its target"), "{error:#}");
    for (name, part) in [
        ("text", "no SQLite database"),
        ("foreign", "another program's"),
        ("newer", "a newer version"),
        ("cut", "damaged"),
        ("none", "there is none; `why502 run`"),
        (".", "no regular file"),
    ] {
        let error = Reader::open(&at(name))
            .and_then(|r| r.tally(0))
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[test]
fn damage_in_the_middle_is_an_error_not_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut store = open(&path);
    let text = "x".repeat(1_000);
    let batch: Vec<Entry> = (0..500)
        .map(|n| entry(NOW + n, Cause::KeepaliveRace, &text))
        .collect();
    store.write(&batch, &BTreeMap::new(), NOW).unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for at in (16_384..whole.len()).step_by(16_384) {
        let mut bytes = whole.clone();
        for (i, byte) in bytes[at..at + 4_096].iter_mut().enumerate() {
            *byte = (i * 7 + at / 16_384) as u8;
        }
        std::fs::write(&path, bytes).unwrap();
        let Ok(reader) = Reader::open(&path) else {
            continue;
        };
        let _ = reader.tally(0);
        let _ = reader.lines(0, |_, _| Ok(()));
    }
}

#[test]
fn a_locked_file_costs_entries_that_are_counted_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    let mut other = Connection::open(&path).unwrap();
    let lock = other
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let verdict = verdict();
    let began = Instant::now();
    for _ in 0..5_000 {
        history.on_verdict(&verdict, NOW);
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    drop(lock);
    let (before, _) = history.take();
    let (after, _) = history.finish();
    let dropped: u64 = before.values().chain(after.values()).sum();
    assert!(before["queue_full"] > 1_000, "{before:?}");
    assert_eq!(lines(&path).len() as u64 + dropped, 5_000);
}

#[test]
fn a_file_that_is_moved_away_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    history.on_verdict(&verdict(), NOW);
    eventually("the first verdict", || lines(&path).len() == 1);
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    history.on_verdict(&verdict(), NOW + 1);
    history.finish();
    assert_eq!(lines(&path).len(), 1);
    assert_eq!(
        Reader::open(&path).unwrap().tally(0).unwrap().folded[0].first_ms,
        NOW + 1
    );
}

#[test]
fn reasons_are_those_of_the_metric() {
    let failed = |code| {
        let error = rusqlite::ffi::Error::new(code);
        file::reason(&rusqlite::Error::SqliteFailure(error, None))
    };
    assert_eq!(failed(rusqlite::ffi::SQLITE_FULL), "disk_full");
    assert_eq!(failed(rusqlite::ffi::SQLITE_BUSY), "locked");
    assert_eq!(failed(rusqlite::ffi::SQLITE_CORRUPT), "damaged");
    assert_eq!(failed(rusqlite::ffi::SQLITE_IOERR), "write_failed");
}

#[test]
fn a_reader_that_does_not_end_does_not_make_the_log_grow_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut store = open(&path);
    let text = "x".repeat(16_000);
    let batch: Vec<Entry> = (0..512)
        .map(|n| entry(NOW + n, Cause::KeepaliveRace, &text))
        .collect();
    let mut write = || store.write(&batch, &BTreeMap::new(), NOW);
    write().unwrap();
    let mut reader = Connection::open(&path).unwrap();
    let held = reader.transaction().unwrap();
    held.query_row("SELECT count(*) FROM lines", [], |_| Ok(()))
        .unwrap();
    let refused = (0..20).find_map(|_| write().err()).unwrap();
    assert_eq!(refused.reason, "locked");
    let log = folder.path().join("history.db-wal");
    assert!(log.metadata().unwrap().len() < 96 << 20);
    drop(held);
    write().unwrap();
    assert!(log.metadata().unwrap().len() < 16 << 20);
}
