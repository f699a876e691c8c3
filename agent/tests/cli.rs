//! The command line as scripts and people meet it: help, errors, exit codes.

use std::process::{Command, Output, Stdio};

fn why502(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command.args(args);
    // What the tester has set must not decide a test.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHY502_") || name == "COLUMNS" {
            command.env_remove(name);
        }
    }
    command
}

fn run(args: &[&str]) -> Output {
    why502(args).output().expect("start why502")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8 output")
}

#[test]
fn help_and_version_go_to_standard_output_with_status_0() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["run", "--help"],
        &["capture", "--help"],
        &["explain", "--help"],
        &["check", "-h"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}"
        );
    }
    assert_eq!(
        text(&run(&["--version"]).stdout),
        format!("why502 {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_help_is_what_it_was() {
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_run", &["run", "--help"]),
        ("help_capture", &["capture", "--help"]),
        ("help_explain", &["explain", "--help"]),
        ("help_check", &["check", "--help"]),
        ("help_report", &["report", "--help"]),
    ] {
        insta::assert_snapshot!(name, text(&run(args).stdout));
    }
}

#[test]
fn wrong_usage_is_status_2_and_says_what_to_do() {
    for (args, part) in [
        (&[][..], "Usage: why502"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["run", "--lisen", "x"], "--listen"),
        (&["capture", "--for", "soon"], "such as 60s"),
        (&["capture", "--for", "0s"], "longer than zero"),
        (&["capture", "--count", "0"], "--count"),
        (&["run", "--listen", "9502"], "--listen"),
        (&["run", "--pid", "nginx"], "--pid"),
        (&["run", "--source", "log"], "auto, kernel, packets, logs"),
        (&["capture", "--proxy-address", "web-3"], "--proxy-address"),
        (&["explain"], "FILE"),
        (&["report", "--since", "yesterday"], "--since"),
        (
            &["--config", "/nonexistent.toml", "check"],
            "/nonexistent.toml",
        ),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

#[test]
fn the_environment_is_checked_like_the_command_line() {
    let output = why502(&["capture"])
        .env("WHY502_FOR", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("--for"),
        "{}",
        text(&output.stderr)
    );
    let output = why502(&["run"])
        .env("WHY502_JSON", "perhaps")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_capture_that_cannot_begin_says_why_and_what_to_do() {
    let args = ["capture", "--source", "packets", "-i", "nowhere0"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("capture on nowhere0: "), "{error}");
    // Without the right to capture, the interface is not even looked for.
    let way_out = error.contains("; there are ") || error.contains("setcap cap_net_raw=ep");
    assert!(way_out, "{error}");
    assert!(!error.contains("ready"), "{error}");
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = why502(&["--help"])
        .stdout(Stdio::from(writer))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
