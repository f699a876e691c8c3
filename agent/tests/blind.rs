//! A right that the program does not have is named at its start and in its summary, by the fact that
//! `check` lists.

use std::process::{Command, Output};

use caps::{CapSet, Capability};
use serde_json::Value;

/// Without the right to look at other users' processes, whoever runs this.
fn without_the_right(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_why502");
    let mut command = if caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_PTRACE).unwrap()
    {
        let mut command = Command::new("setpriv");
        for set in ["bounding-set", "inh-caps", "ambient-caps"] {
            command.arg(format!("--{set}=-sys_ptrace"));
        }
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    let output = command
        .args(arguments)
        .output()
        .expect("setpriv of util-linux");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "{}: {errors}", output.status);
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str(line).unwrap());
    parsed.collect()
}

#[test]
fn logs_that_may_be_other_users_are_named_as_in_check() {
    let checked = lines(&without_the_right(&["check", "--json"]));
    let of_logs = checked.iter().find(|line| line["fact"] == "logs").unwrap();
    assert_eq!(of_logs["visible"], false);
    let why = of_logs["reason"].as_str().unwrap();
    assert!(why.starts_with("CAP_SYS_PTRACE"), "{why}");

    let seen = without_the_right(&["capture", "--json", "--for", "1s", "--source", "logs"]);
    let errors = String::from_utf8_lossy(&seen.stderr);
    let warning = format!("warning: logs cannot be seen: {why}");
    assert!(errors.contains(&warning), "{errors}");
    let said = lines(&seen);
    let blind = said.last().unwrap()["blind"].as_array().unwrap();
    let text = format!("logs: {why}");
    assert!(blind.iter().any(|fact| *fact == text), "{blind:?}");
}
