//! Logs beside a kernel recording of the same failures: they decide, corroborate and contradict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::NamedTempFile;

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("tests/logs/nginx-kernel")
}

/// Verdicts by path.
fn explain(recording: &Path, logs: &[&Path], options: &[&str]) -> BTreeMap<String, Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command
        .args(["explain", "--json"])
        .arg(recording)
        .args(options);
    for log in logs {
        command.arg("--log").arg(log);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let mut verdicts = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["type"] == "verdict" {
            let path = line["request"]["path"].as_str().unwrap_or("").to_owned();
            let before = verdicts.insert(path.clone(), line);
            assert!(before.is_none(), "{path} was told twice");
        }
    }
    verdicts
}

fn text<'a>(verdict: &'a Value, name: &str) -> &'a str {
    verdict[name].as_str().unwrap_or_default()
}

/// For each fault what was said without and with the logs, and the sums.
#[test]
fn the_log_adds_to_the_kernel_and_takes_nothing() {
    let folder = folder();
    let recording = folder.join("kernel.jsonl");
    let alone = explain(&recording, &[], &[]);
    let (errors, access) = (folder.join("error.log"), folder.join("access.log"));
    let both = explain(&recording, &[&errors, &access], &[]);
    assert_eq!(
        alone.len(),
        both.len(),
        "an exchange was told by one source and again by the other"
    );
    let mut table = BTreeMap::new();
    let mut sums: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let truth = std::fs::read_to_string(folder.join("truth.jsonl")).unwrap();
    for line in truth.lines() {
        let truth: Value = serde_json::from_str(line).unwrap();
        let (path, cause) = (text(&truth, "path"), text(&truth, "cause"));
        let failed = truth["status"].as_u64().is_some_and(|s| s >= 500);
        if !failed || cause.is_empty() || cause == "forgery" {
            continue;
        }
        let mut said = Vec::new();
        for (source, verdicts) in [&alone, &both].into_iter().enumerate() {
            let verdict = &verdicts[path];
            assert_eq!(verdict["status"], truth["status"], "{path}");
            let (got, confidence) = (text(verdict, "cause"), text(verdict, "confidence"));
            let right = if got == cause {
                "right"
            } else if got == "unknown" {
                "not named"
            } else {
                "wrong"
            };
            sums.entry(format!("{right}, {confidence}")).or_default()[source] += 1;
            said.push(format!("{got}, {confidence}"));
        }
        // What the kernel proves and the log does not deny stays as it was.
        let (before, after) = (&alone[path], &both[path]);
        if text(before, "confidence") == "proven" && text(before, "cause") == cause {
            for name in ["cause", "variant", "confidence"] {
                assert_eq!(before[name], after[name], "{path}: {name}");
            }
        }
        let fault = path.split('/').nth(1).unwrap();
        let change = match said[0] == said[1] {
            true => continue,
            false => format!("{} → {}", said[0], said[1]),
        };
        table.insert(format!("{fault:<16} {cause:<22}"), change);
    }
    let mut out = String::from("kernel alone, kernel and logs:\n");
    for (what, [kernel, both]) in sums {
        out.push_str(&format!("{what:<20} {kernel:>3} {both:>3}\n"));
    }
    out.push_str("\nwhat the logs changed:\n");
    for (fault, change) in table {
        out.push_str(&format!("{fault} {change}\n"));
    }
    insta::assert_snapshot!(out);
}

/// A log that says what the kernel saw not to be so: the facts win, and the verdict shows both.
#[test]
fn a_contradiction_is_said_aloud() {
    let folder = folder();
    let errors = std::fs::read_to_string(folder.join("error.log")).unwrap();
    let changed: String = errors
        .lines()
        .map(|line| match line.contains("GET /refused/0?") {
            true => line.replace(
                "connect() failed (111: Connection refused) while connecting to upstream",
                "upstream timed out (110: Connection timed out) while reading response header from upstream",
            ),
            false => line.to_owned(),
        } + "\n")
        .collect();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), changed).unwrap();
    let access = folder.join("access.log");
    let verdicts = explain(&folder.join("kernel.jsonl"), &[file.path(), &access], &[]);
    let verdict = &verdicts["/refused/0"];
    assert_eq!(text(verdict, "cause"), "connection_refused");
    assert_eq!(text(verdict, "confidence"), "likely", "the proxy denies it");
    let evidence = verdict["evidence"].as_array().unwrap();
    let says = |source: &str, word: &str| {
        let mut all = evidence.iter();
        all.any(|e| e["source"] == source && text(e, "text").contains(word))
    };
    assert!(says("kernel", "ECONNREFUSED"), "{evidence:?}");
    assert!(says("log", "says otherwise"), "{evidence:?}");
    assert_eq!(text(&verdicts["/refused/1"], "confidence"), "proven");
}

/// Behind TLS the kernel cannot see the status: the log has it.
#[test]
fn the_log_gives_the_status_behind_tls() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let recording = root.join("tests/streams/r17-tls-no-reply.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command.args(["explain", "--json"]).arg(&recording);
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let verdict: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert!(verdict["status"].is_null(), "{verdict}");
    let time = text(&verdict, "time");
    let (date, clock) = time.split_once('T').unwrap();
    let client = text(&verdict["client"], "address");
    let upstream = text(&verdict["upstream"], "address");
    let line = format!(
        "{client} {date}T{}+00:00 \"GET /secret?s3cret HTTP/2.0\" 504 {upstream} 504\n",
        &clock[..8]
    );
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &line).unwrap();
    let format = "$remote_addr:$remote_port $time_iso8601 \"$request\" $status $upstream_addr $upstream_status";
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command.args(["explain", "--json", "--log-format", format]);
    command.arg(&recording).arg("--log").arg(file.path());
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let lines: Vec<Value> = output
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .filter(|l| l["type"] == "verdict" && l["status"] == 504)
        .collect();
    assert_eq!(told.len(), 1, "{line}{output}");
    assert_eq!(told[0]["status_source"], "log");
    assert_eq!(told[0]["cause"], verdict["cause"]);
    assert_eq!(told[0]["confidence"], verdict["confidence"]);
    assert!(!output.contains("s3cret"));
}
