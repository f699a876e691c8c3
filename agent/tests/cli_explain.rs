//! `why502 explain` as scripts meet it: a recording in, lines and a status out.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::NamedTempFile;

const HEADER: &str = r#"{"why502_recording":1,"version":"0.1.0","clock_offset_ns":1795182504000000000,"node":"web-3"}"#;

/// `count` requests that met a full accept queue, as signals.
fn recording(count: u64) -> String {
    let mut text = format!("{HEADER}\n");
    for n in 1..=count {
        let (at, upstream_flow, flow) = (n * 1_000_000, 2 * n, 2 * n + 1);
        let request = format!(
            r#"{{"protocol":"http_request","method":"POST","path":"/orders/{n}","path_complete":true,"host":"shop.example"}}"#
        );
        let downstream = format!(
            r#"{{"flow":{flow},"ordinal":1,"order":"after_read","client":"10.9.0.7:51544","proxy_address":"10.9.0.1:8080","request":{request},"state":"open"}}"#
        );
        text += &format!(
            r#"{{"at":{at},"source":"kernel","fact":{{"kind":"attempt_ended","flow":{upstream_flow},"proxy":7,"thread":7,"downstream":{downstream},"upstream":"unix:/run/g.sock","local":null,"began":{at},"connected":null,"reused":false,"requests_before":0,"idle_ns":null,"request":null,"received":0,"response":null,"end":{{"how":"connect_failed","errno":11}},"tcp":null,"peer":null,"queue":{{"length":129,"limit":128,"drops":0,"later":false}}}}}}"#
        );
        text += "\n";
        text += &format!(
            r#"{{"at":{},"source":"kernel","fact":{{"kind":"response_sent","proxy":7,"thread":7,"downstream":{flow},"ordinal":1,"status":502,"client":"10.9.0.7:51544","proxy_address":"10.9.0.1:8080","request":{request},"request_at":{at},"adjacent":{upstream_flow},"last_attempt":null}}}}"#,
            at + 50_000
        );
        text += "\n";
    }
    text
}

fn explain(recording: &str, args: &[&str]) -> (Command, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(recording.as_bytes()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    for name in ["WHY502_CONFIG", "WHY502_JSON", "WHY502_PRIVACY"] {
        command.env_remove(name);
    }
    command.arg("explain").arg(file.path()).args(args);
    (command, file)
}

fn run(recording: &str, args: &[&str]) -> Output {
    let (mut command, _file) = explain(recording, args);
    command.output().expect("start why502")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8 output")
}

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("nothing but JSON lines"))
        .collect()
}

#[test]
fn json_is_every_verdict_and_the_summary_and_nothing_else() {
    let output = run(&recording(300), &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = lines(&output);
    assert_eq!(lines.len(), 301);
    let (summary, verdicts) = lines.split_last().unwrap();
    for verdict in verdicts {
        assert_eq!(verdict["type"], "verdict");
        assert_eq!(verdict["cause"], "unix_accept_queue_full");
        assert_eq!(verdict["node"], "web-3");
        assert!(
            verdict["time"]
                .as_str()
                .unwrap()
                .starts_with("2026-11-20T13:48:24.")
        );
    }
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["responses"]["failed"], 300);
    assert_eq!(summary["verdicts"]["unix_accept_queue_full"], 300);
}

#[test]
fn the_same_recording_gives_the_same_bytes() {
    let recording = recording(20);
    let first = run(&recording, &["--json"]);
    assert_eq!(first.stdout, run(&recording, &["--json"]).stdout);
}

#[test]
fn privacy_hides_what_it_says() {
    let recording = recording(1);
    for (level, path, client) in [
        (
            "full",
            Value::from("/orders/1"),
            Value::from("10.9.0.7:51544"),
        ),
        (
            "template",
            Value::from("/orders/:id"),
            Value::from("10.9.0.0/24"),
        ),
        ("minimal", Value::Null, Value::Null),
    ] {
        let output = run(&recording, &["--json", "--privacy", level]);
        let verdict = &lines(&output)[0];
        assert_eq!(verdict["request"]["path"], path);
        assert_eq!(verdict["client"]["address"], client);
    }
}

#[test]
fn people_get_a_table_without_colours_in_a_pipe() {
    let output = run(&recording(3), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    assert!(text.contains("3 failed responses in"), "{text}");
    assert!(text.contains("unix_accept_queue_full"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_cut_recording_is_explained_as_far_as_it_goes() {
    let whole = recording(2);
    let output = run(&whole[..whole.len() - 40], &["--json"]);
    assert_eq!(lines(&output)[0]["cause"], "unix_accept_queue_full");
    let error = text(&output.stderr);
    assert!(error.contains("line 5 is cut off"), "{error}");
}

#[test]
fn what_cannot_be_read_is_status_1_and_named() {
    for (recording, part) in [
        ("", "it is empty"),
        ("GET / HTTP/1.1\n", "neither a packet capture"),
        (
            "{\"why502_recording\":2,\"version\":\"9.9.0\"}\n",
            "written by why502 9.9.0",
        ),
        (&format!("{HEADER}\n{{}}\n{{}}\n"), "line 2: missing field"),
    ] {
        let output = run(recording, &["--json"]);
        assert_eq!(output.status.code(), Some(1), "{recording:?}");
        let error = text(&output.stderr);
        assert!(error.contains(part), "{recording:?}: {error}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_why502"))
        .args(["explain", "/nonexistent/\x1b[2J"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("/nonexistent/\\x1b[2J"), "{error}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (mut command, _file) = explain(&recording(2_000), &["--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    let (mut command, _file) = explain(&recording(1), &["--json"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("No space left"), "{error}");
}

fn capture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/captures")
        .join(name)
}

#[test]
fn a_capture_is_explained_and_names_no_process() {
    let output = Command::new(env!("CARGO_BIN_EXE_why502"))
        .args(["explain", "--json"])
        .arg(capture("r02-post-fin-in-flight.pcap.gz"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = lines(&output);
    let verdicts: Vec<&Value> = lines.iter().filter(|l| l["type"] == "verdict").collect();
    assert!(!verdicts.is_empty());
    for verdict in verdicts {
        assert_eq!(verdict["cause"], "keepalive_race", "{verdict}");
        assert_eq!(verdict["status_source"], "packets");
        assert_eq!(verdict["proxy"]["pid"], Value::Null);
        assert_eq!(verdict["proxy"]["address"], "127.0.0.1:8080");
    }
    assert_eq!(lines.last().unwrap()["type"], "summary");
}

#[test]
fn a_cut_capture_is_explained_as_far_as_it_goes_and_is_status_1() {
    let whole = std::fs::read(capture("loopback.pcap")).unwrap();
    let mut cut = NamedTempFile::new().unwrap();
    cut.write_all(&whole[..whole.len() - 7]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_why502"))
        .args(["explain", "--json"])
        .arg(cut.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output).last().unwrap()["type"], "summary");
    let error = text(&output.stderr);
    assert!(
        error.contains("byte ") && error.contains("frames before it"),
        "{error}"
    );
}
