//! What logs alone admit, on what real proxies wrote about injected faults.
//!
//! `tests/logs/` has the lines and, for each request, the fault that was injected. Each failed
//! response must be told once, nothing may be proven, and no verdict may name another cause.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("tests/logs").join(name)
}

struct Told {
    /// By path: cause, confidence, status.
    verdicts: BTreeMap<String, Vec<(String, String, Option<u64>)>>,
    near_misses: Vec<(String, String)>,
    text: String,
    missing: BTreeMap<String, Vec<String>>,
}

fn explain(name: &str, logs: &[&str], options: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command.args(["explain", "--json"]);
    // The host's own configuration must not matter.
    let config = folder("nginx").join("nginx.conf");
    command.arg("--nginx-config").arg(config).args(options);
    for log in logs {
        command.arg("--log").arg(folder(name).join(log));
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut told = Told {
        verdicts: BTreeMap::new(),
        near_misses: Vec::new(),
        text: text.clone(),
        missing: BTreeMap::new(),
    };
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let path = line["request"]["path"].as_str().unwrap_or("").to_owned();
        let word = |name: &str| line[name].as_str().unwrap().to_owned();
        match line["type"].as_str() {
            Some("verdict") => {
                let missing = line["missing"].as_array().unwrap().iter();
                let missing = missing.map(|m| m.as_str().unwrap().to_owned());
                told.missing.insert(path.clone(), missing.collect());
                let verdict = (word("cause"), word("confidence"), line["status"].as_u64());
                told.verdicts.entry(path).or_default().push(verdict);
            }
            Some("near_miss") => told.near_misses.push((path, word("cause"))),
            _ => {}
        }
    }
    told
}

struct Truth {
    path: String,
    status: Option<u64>,
    cause: Option<String>,
}

fn truth(name: &str) -> Vec<Truth> {
    let text = std::fs::read_to_string(folder(name).join("truth.jsonl")).unwrap();
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        Truth {
            path: value["path"].as_str().unwrap().to_owned(),
            status: value["status"].as_u64(),
            cause: value["cause"].as_str().map(ToOwned::to_owned),
        }
    };
    text.lines().map(line).collect()
}

/// Judges every failed response; gives a line for each fault with what was said of it.
fn judge(name: &str, logs: &[&str], options: &[&str]) -> String {
    let told = explain(name, logs, options);
    assert!(
        !told.text.contains("s3cret"),
        "a query, a user or a header got out"
    );
    assert!(!told.text.contains("secret-agent"), "a user agent got out");
    assert!(!told.text.contains("\"proven\""), "a log proves nothing");
    assert!(
        !told.text.contains("\"/forged-line\""),
        "a client forged an exchange"
    );
    assert!(
        !told.text.contains("\"6.6.6.6"),
        "a client forged an address"
    );
    let mut table: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let (mut right, mut all) = (0, 0);
    for truth in truth(name) {
        let cause = truth.cause.unwrap_or_default();
        if truth.status.is_none_or(|s| s < 500) || cause.is_empty() || cause == "forgery" {
            continue;
        }
        all += 1;
        let fault = truth.path.split('/').nth(1).unwrap();
        let empty = Vec::new();
        let said = told.verdicts.get(&truth.path).unwrap_or(&empty);
        let [(got, confidence, status)] = &said[..] else {
            panic!("{name}: {} was told {} times", truth.path, said.len());
        };
        assert_eq!(*status, truth.status, "{name}: {}", truth.path);
        if got != "unknown" {
            assert_eq!(*got, cause, "{name}: {}", truth.path);
        }
        // What is not claimed must not be excluded either.
        let admitted = told.missing[&truth.path]
            .iter()
            .find(|m| m.starts_with("log:"));
        if let Some(admitted) = admitted {
            let names: Vec<&str> = admitted.split([' ', ',']).collect();
            assert!(
                names.contains(&cause.as_str()),
                "{name}: {}: {admitted}",
                truth.path
            );
        }
        right += usize::from(*got == cause);
        let key = format!("{fault:<16} {cause}");
        let said = format!("{got}, {confidence}");
        *table.entry(key).or_default().entry(said).or_default() += 1;
    }
    let mut out = format!("{right} of {all} failed responses named, the others unknown\n\n");
    for (fault, said) in table {
        let said: Vec<String> = said.iter().map(|(s, n)| format!("{n} × {s}")).collect();
        out.push_str(&format!("{fault:<46} {}\n", said.join("; ")));
    }
    out
}

#[test]
fn nginx() {
    let logs = ["error.log", "access.log", "gunicorn.log", "uwsgi.log"];
    insta::assert_snapshot!(judge("nginx", &logs, &[]));
}

#[test]
fn nginx_with_a_format_of_its_own() {
    let logs = ["error.log", "access-timed.log", "gunicorn.log", "uwsgi.log"];
    insta::assert_snapshot!(judge("nginx", &logs, &[]));
}

#[test]
fn nginx_in_json() {
    judge(
        "nginx",
        &["error.log", "access-json.log"],
        &["--log-format", "json"],
    );
}

#[test]
fn nginx_access_lines_alone() {
    insta::assert_snapshot!(judge("nginx", &["access-timed.log"], &[]));
    judge("nginx", &["access.log"], &[]);
}

#[test]
fn nginx_out_of_ports_and_descriptors() {
    insta::assert_snapshot!(judge("nginx-limits", &["error.log", "access.log"], &[]));
}

#[test]
fn haproxy() {
    let old = judge("haproxy", &["haproxy.log"], &[]);
    assert_eq!(old, judge("haproxy", &["haproxy-rfc5424.log"], &[]));
    insta::assert_snapshot!(old);
}

#[test]
fn envoy_with_details() {
    let text = judge("envoy", &["access-istio.log"], &[]);
    assert_eq!(text, judge("envoy", &["access-json.log"], &[]));
    insta::assert_snapshot!(text);
}

#[test]
fn envoy_by_default() {
    insta::assert_snapshot!(judge("envoy", &["access.log"], &[]));
}

#[test]
fn apache() {
    insta::assert_snapshot!(judge("apache", &["error.log", "access.log"], &[]));
}

#[test]
fn caddy() {
    insta::assert_snapshot!(judge("caddy", &["caddy.log", "access.log"], &[]));
}

#[test]
fn varnish() {
    let text = judge("varnish", &["varnishlog.log"], &[]);
    assert_eq!(text, judge("varnish", &["varnishlog-vxid.log"], &[]));
    insta::assert_snapshot!(text);
}

/// What a later try saved, or the client left, is no failed response.
#[test]
fn near_misses() {
    let told = explain("nginx", &["error.log", "access.log"], &[]);
    let near = |path: &str, cause: &str| {
        assert!(!told.verdicts.contains_key(path), "{path} is no failure");
        let wanted = (path.to_owned(), cause.to_owned());
        assert!(
            told.near_misses.contains(&wanted),
            "{path}: {:?}",
            told.near_misses
        );
    };
    near("/saved/0", "connection_refused");
    near("/no-reply/left", "downstream_gave_up");
    let told = explain("haproxy", &["haproxy.log"], &[]);
    let saved = |(path, _): &&(String, String)| path.starts_with("/saved/");
    let why = told.near_misses.iter().filter(saved);
    let why: Vec<&str> = why.map(|(_, cause)| cause.as_str()).collect();
    assert_eq!(
        why, ["unknown"; 2],
        "its line counts tries, and says nothing of them"
    );
    let told = explain("varnish", &["varnishlog.log"], &[]);
    assert_eq!(told.near_misses.iter().filter(saved).count(), 2);
}

/// nginx answered 200 by `error_page` where its upstream had failed: only `$upstream_status` says so.
#[test]
fn a_rewritten_status_is_a_failure_all_the_same() {
    let told = explain("nginx", &["error.log", "access-timed.log"], &[]);
    let said = &told.verdicts["/intercepted/0"][0];
    let wanted = ("connection_refused".into(), "likely".into(), Some(200));
    assert_eq!(*said, wanted);
}

/// The error log alone has no status, and cannot say whether a further try saved the request.
#[test]
fn without_the_access_log() {
    let told = explain("nginx", &["error.log"], &[]);
    let said = &told.verdicts["/refused/0"];
    assert_eq!(
        *said,
        [("connection_refused".into(), "likely".into(), None)]
    );
    let missing = &told.missing["/refused/0"];
    assert!(
        missing.iter().any(|m| m.starts_with("access_log")),
        "{missing:?}"
    );
    assert!(
        !told.text.contains("/forged"),
        "of the forger's lines none is about a failure"
    );
}

#[test]
fn what_is_no_log_is_named_and_the_rest_is_explained() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    command.args(["explain", "--json", "--log"]);
    command.arg(folder("nginx").join("error.log"));
    let others = [
        folder("nginx").join("truth.jsonl"),
        folder("haproxy").join("haproxy.cfg"),
    ];
    // Several may stand in one value.
    let [a, b] = others.each_ref().map(|path| path.display());
    command.arg(format!("--log={a},{b}"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    let all = format!("{a}, {b}: not recognised");
    assert!(errors.contains(&all), "{errors}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("connection_refused")
    );
}
