//! The history as it is met: killed in the middle, on a full disk, a million verdicts long, read by
//! another user. The test program starts itself again where a process must die or have its own disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use why502::sinks::history::{History, Limits, Reader};
use why502::verdict::Verdict;

const LINE: &str = r#"{"type":"verdict","version":1,"id":"01KAHX0000ABCDEFGHJKMNPQRS","time":"2026-11-20T13:48:24.123456789Z","node":"web-3","status":502,"status_source":"kernel","status_rewritten":false,"cause":"keepalive_race","variant":"fin_in_flight","confidence":"proven","duration_us":31250,"proxy":{"name":"nginx","address":"10.9.0.1:8080","pid":9197,"container":null,"namespace":null,"workload":null,"pod":null},"client":{"address":"10.9.0.0/24"},"request":{"method":"POST","host":"shop.example","path":"/orders/:id"},"upstream":{"address":"10.9.0.2:9000","process":"node","pid":9301,"container":null,"namespace":null,"workload":null,"pod":null},"attempts":[{"upstream":"10.9.0.2:9000","local":"10.9.0.1:40112","at_us":-31230,"reused":true,"requests_before":3,"idle_us":968123,"connect_us":null,"duration_us":20040,"bytes_sent":124,"bytes_received":0,"outcome":"peer_closed","cause":"keepalive_race"}],"evidence":[{"at_us":-31210,"fact":"request_sent","text":"124 bytes on a connection idle for 968 ms","source":"kernel"},{"at_us":-11200,"fact":"peer_closed","text":"FIN received; it acknowledges none of the 124 bytes","source":"kernel"}],"missing":[],"advice":{"text":"The upstream closes idle connections after 1.0 s.","settings":[{"software":"node","name":"server.keepAliveTimeout","observed_seconds":1.0,"observed_from":"wire","suggested":"at least 65 s","alternative_to":null,"risk":null}]},"lost_signals":0}"#;

const CHILD: &str = "HISTORY_TEST_FOLDER";

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_millis() as i64
}

fn verdict() -> Verdict {
    serde_json::from_str(LINE).unwrap()
}

/// This program again, to run one of its tests in `folder`.
fn again(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, folder);
    command
}

fn child_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

fn why502(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHY502_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

fn report(file: &Path, args: &[&str]) -> Output {
    let mut command = why502(
        Path::new(env!("CARGO_BIN_EXE_why502")),
        &["report", "--history"],
    );
    command.arg(file).args(args).output().unwrap()
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t0\t"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Kills what it holds when a test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kill_9_in_the_middle_loses_the_last_second_at_most() {
    if let Some(folder) = child_folder() {
        let path = folder.join("history.db");
        let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
        let (verdict, began, mut out) = (verdict(), now_ms(), std::io::stdout());
        // About two thousand a second, each told when it is handed over, until the end comes.
        for n in 0_i64.. {
            history.on_verdict(&verdict, began + n);
            let _ = writeln!(out, "sent {n} {}", now_ms());
            let _ = history.take();
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = again(
        "kill_9_in_the_middle_loses_the_last_second_at_most",
        folder.path(),
    );
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let sent = |line: &str| -> Option<(i64, i64)> {
        let (_, rest) = line.split_once("sent ")?;
        let (n, at) = rest.split_once(' ')?;
        Some((n.parse().ok()?, at.parse().ok()?))
    };
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut all = Vec::new();
    while all.len() < 4_000 {
        all.extend(sent(&lines.next().unwrap().unwrap()));
    }
    child.0.kill().unwrap();
    let killed_ms = now_ms();
    child.0.wait().unwrap();
    all.extend(lines.map_while(Result::ok).filter_map(|line| sent(&line)));

    let reader = Reader::open(&folder.path().join("history.db")).unwrap();
    let mut kept = Vec::new();
    let each = |at: i64, line: &str| {
        assert_eq!(line, LINE);
        kept.push(at);
        Ok(())
    };
    reader.lines(0, each).unwrap();
    let hole = kept.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(hole, None, "no hole and nothing twice");
    let (first_lost, lost_ms) = *all.get(kept.len()).unwrap_or(all.last().unwrap());
    println!(
        "of {} verdicts the last {} are lost",
        all.len(),
        all.len() - kept.len().min(all.len())
    );
    assert!(
        killed_ms - lost_ms <= 1_000,
        "{first_lost} was sent {} ms before the end and is lost",
        killed_ms - lost_ms
    );
    // The next agent goes on where the killed one was.
    let path = folder.path().join("history.db");
    let mut next = History::start(&path, "web-3", Limits::default()).unwrap();
    next.on_verdict(&verdict(), now_ms());
    assert!(next.finish().0.is_empty());
    let mut count = 0;
    let each = |_: i64, _: &str| {
        count += 1;
        Ok(())
    };
    Reader::open(&path).unwrap().lines(0, each).unwrap();
    assert_eq!(count, kept.len() + 1);
}

#[test]
fn a_full_disk_stops_nothing_and_is_counted() {
    if let Some(folder) = child_folder() {
        fill_the_disk(&folder);
        return;
    }
    if !is_root() {
        eprintln!("skipped: a small disk can be mounted by root only");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let itself = again("a_full_disk_stops_nothing_and_is_counted", folder.path());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount -t tmpfs -o size=4m tmpfs \"$1\" && shift && exec \"$@\"")
        .arg("sh")
        .arg(folder.path())
        .arg(itself.get_program())
        .args(itself.get_args())
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("filled"), "{said}");
}

/// On a disk of 4 MB.
fn fill_the_disk(folder: &Path) {
    let (path, filler) = (folder.join("history.db"), folder.join("filler"));
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    let verdict = verdict();
    let (mut produced, mut dropped, mut messages) = (0, 0, Vec::new());
    let mut send = |history: &mut History, count: i64| {
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let began = Instant::now();
            history.on_verdict(&verdict, now_ms());
            slowest = slowest.max(began.elapsed());
            produced += 1;
        }
        let (lost, said) = history.take();
        dropped += lost.values().sum::<u64>();
        messages.extend(said);
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        lost.get("disk_full").copied().unwrap_or(0)
    };
    let end = Instant::now() + Duration::from_secs(30);
    let mut full = 0;
    while full < 500 {
        assert!(Instant::now() < end, "the disk did not fill up");
        full += send(&mut history, 50);
        std::thread::sleep(Duration::from_millis(10));
    }
    // Room again: it goes on, and what was lost is in the history as well.
    std::fs::remove_file(filler).unwrap();
    let kept = || {
        let mut kept = 0;
        let each = |_: i64, _: &str| {
            kept += 1;
            Ok(())
        };
        Reader::open(&path).unwrap().lines(0, each).unwrap();
        kept
    };
    let before = kept();
    while kept() == before {
        assert!(
            Instant::now() < end,
            "nothing is written when there is room again"
        );
        send(&mut history, 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    let (lost, said) = history.finish();
    dropped += lost.values().sum::<u64>();
    messages.extend(said);
    assert_eq!(kept() + dropped, produced, "kept or counted");
    assert_eq!(messages.len(), 1, "said once: {messages:?}");
    assert!(messages[0].contains("full"), "{messages:?}");
    let losses = Reader::open(&path).unwrap().losses(0).unwrap();
    assert!(
        losses
            .iter()
            .any(|(name, n)| name == "history_disk_full" && *n > 0),
        "{losses:?}"
    );
    println!("filled");
}

/// A million over 24 hours: 40 causes at 50 upstreams.
fn make_a_million(path: &Path) {
    let history = History::start(path, "web-3", Limits::default()).unwrap();
    history.finish();
    let file = rusqlite::Connection::open(path).unwrap();
    let causes = why502::cause::Cause::ALL;
    let insert = "INSERT INTO series VALUES (?, 'verdict', ?, '', 'proven', 502, ?)";
    for id in 0..2_000 {
        let cause = causes[id % 40].name();
        let upstream = format!("10.9.0.{}:9000", id / 40);
        let values = rusqlite::params![id as i64 + 1, cause, upstream];
        file.execute(insert, values).unwrap();
    }
    // The latest of each series are whole lines; the others are never read.
    file.execute(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
         INSERT INTO lines (time, hour, series, line)
         SELECT ?1 - 86000000 + i * 86, (?1 - 86000000 + i * 86) / 3600000,
         i * 7919 % 2000 + 1, CASE WHEN i >= 990000 THEN ?2 ELSE '{}' END FROM n",
        rusqlite::params![now_ms(), LINE],
    )
    .unwrap();
}

#[test]
fn a_million_verdicts_are_counted_by_cause_and_hour_in_under_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    make_a_million(&path);
    let began = Instant::now();
    let tally = Reader::open(&path).unwrap().tally(0).unwrap();
    let took = began.elapsed();
    let counts = tally.hours.values().flat_map(|causes| causes.values());
    assert_eq!(counts.sum::<u64>(), 1_000_000);
    assert!(tally.hours.len() >= 24 && tally.folded.len() == 2_000);
    assert!(took < Duration::from_secs(1), "{took:?}");

    let began = Instant::now();
    let output = report(&path, &["--since", "24h"]);
    let whole = began.elapsed();
    let said = text(&output.stdout);
    assert!(said.contains("1000000 failed responses"), "{said}");
    println!("counted in {took:?}, the whole report in {whole:?}");
}

#[test]
fn a_report_is_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    let (mut verdict, now) = (verdict(), now_ms());
    history.on_verdict(&verdict, now - 25 * 3_600_000);
    for ago in 0..300 {
        history.on_verdict(&verdict, now - ago);
    }
    verdict.upstream.address = Some(why502::signal::Address("10.9.0.3:9000".to_owned()));
    verdict.kind = why502::verdict::Kind::NearMiss;
    history.on_verdict(&verdict, now);
    history.lost("ring_buffer", "full", 7);
    history.take();
    history.finish();

    let output = report(&path, &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 302);
    assert_eq!(lines[0], LINE);
    let summary: serde_json::Value = serde_json::from_str(lines[301]).unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["verdicts"]["keepalive_race"], 300);
    assert_eq!(summary["near_misses"]["keepalive_race"], 1);
    assert_eq!(summary["lost"]["ring_buffer_full"], 7);
    // It was not watched all the time, and silence must not be taken for health.
    let said = text(&output.stderr);
    assert!(said.contains("of these 24.00 hours"), "{said}");

    let page = folder.path().join("night.html");
    let output = report(&path, &["--since", "2d", "--html", page.to_str().unwrap()]);
    let table = text(&output.stdout);
    for part in [
        "301 failed responses",
        "keepalive_race ×300",
        "→ node server.keepAliveTimeout: at least 65 s",
        "7 signals lost",
        "NEAR MISS",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("301 failed responses") || html.contains(">301<"));
    assert_eq!(html.matches("\"id\":\"01KAHX").count(), 302);

    let output = report(&path, &["--since", "24h", "--html", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let output = report(&folder.path().join("none.db"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("error: history ") && said.contains("why502 run"),
        "{said}"
    );
}

/// Reads standard error until a line has this part.
fn said(lines: &mut impl Iterator<Item = std::io::Result<String>>, part: &str) -> String {
    let mut before = String::new();
    for line in lines.map_while(Result::ok) {
        if line.contains(part) {
            return line;
        }
        before += &line;
    }
    panic!("{part} is not in {before}");
}

fn daemon(file: &Path) -> (Killed, impl Iterator<Item = std::io::Result<String>>) {
    let program = Path::new(env!("CARGO_BIN_EXE_why502"));
    let mut command = why502(program, &["run", "--json", "--listen", "127.0.0.1:0"]);
    command
        .args([
            "--source",
            "packets",
            "--proxy",
            "no-such-proxy",
            "--history",
        ])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    (child, lines)
}

fn metrics(line: &str) -> String {
    let address = line.split("http://").nth(1).unwrap();
    let address = address.strip_suffix("/metrics").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_history_that_cannot_be_kept_is_said_once_and_the_daemon_stays() {
    if !is_root() {
        eprintln!("skipped: nothing is kept before a source works, and packets need root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let (_first, mut lines) = daemon(&path);
    let line = said(&mut lines, "metrics on");
    let end = Instant::now() + Duration::from_secs(10);
    while !metrics(&line).contains("why502_history_up 1") {
        assert!(Instant::now() < end, "{}", metrics(&line));
    }
    for (file, part) in [
        (path.clone(), "another why502 keeps its history there"),
        (folder.path().join("no/folder/h.db"), "No such file"),
        (folder.path().to_owned(), "history "),
    ] {
        let (mut daemon, mut lines) = daemon(&file);
        let line = said(&mut lines, "metrics on");
        let message = said(&mut lines, "warning: history ");
        assert!(message.contains(part), "{message}");
        assert!(metrics(&line).contains("why502_history_up 0"));
        assert!(daemon.0.try_wait().unwrap().is_none());
    }
}

#[test]
fn a_report_is_read_beside_the_writer_by_another_user() {
    if !is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let all = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    all(folder.path(), 0o755);
    let program = folder.path().join("why502");
    std::fs::copy(env!("CARGO_BIN_EXE_why502"), &program).unwrap();
    let path = folder.path().join("history.db");
    drop(
        History::start(&path, "web-3", Limits::default())
            .unwrap()
            .finish(),
    );
    let nobody = |expected: &str| {
        let output = why502(&program, &["report", "--json", "--history"])
            .arg(&path)
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(said.contains(expected), "{expected}: {said}");
    };
    nobody("the right to read it is missing");
    // What is granted on the file, SQLite grants on those beside it.
    all(&path, 0o644);
    nobody("\"failed\":0");
    let mut history = History::start(&path, "web-3", Limits::default()).unwrap();
    for n in 1..=3 {
        history.on_verdict(&verdict(), now_ms());
        let end = Instant::now() + Duration::from_secs(10);
        let kept = || {
            let tally = Reader::open(&path).unwrap().tally(0).unwrap();
            tally.folded.first().map_or(0, |folded| folded.count)
        };
        while kept() < n {
            assert!(Instant::now() < end);
        }
        nobody(&format!("\"failed\":{n}"));
    }
    // And where a killed writer has left its log.
    let copy = folder.path().join("killed.db");
    for end in ["", "-wal"] {
        let from = folder.path().join(format!("history.db{end}"));
        std::fs::copy(from, folder.path().join(format!("killed.db{end}"))).unwrap();
    }
    let output = why502(&program, &["report", "--json", "--history"])
        .arg(&copy)
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        said.contains("\"failed\":3") || said.contains("error: history"),
        "{said}"
    );
    history.finish();
}
