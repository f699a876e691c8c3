//! `--report` as a person meets it: a recording in, one private HTML file out.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn streams() -> Vec<PathBuf> {
    let files = files("streams", ".jsonl");
    assert!(files.len() > 20);
    files
}

fn captures() -> Vec<PathBuf> {
    let files = files("captures", ".pcap.gz");
    assert!(files.len() > 10);
    files
}

fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests")
        .join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    files.sort();
    files
}

fn why502(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_why502"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHY502_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

fn explain(files: &[PathBuf], report: &Path, args: &[&str]) -> Output {
    let mut command = why502(&["explain", "--json", "--report"]);
    command.arg(report).args(args).args(files);
    command.output().expect("start why502")
}

fn embedded(html: &str) -> Vec<Value> {
    let from = "id=\"verdicts\">";
    let start = html.find(from).unwrap() + from.len();
    let end = html[start..].find("</script>").unwrap();
    serde_json::from_str(&html[start..start + end]).unwrap()
}

/// The report holds what standard output says, and each verdict's ladder holds all its evidence.
#[test]
fn a_report_of_every_recording_and_capture_holds_what_the_lines_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let output = explain(&[streams(), captures()].concat(), &path, &[]);
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lines: Vec<&Value> = lines
        .iter()
        .filter(|line| line["type"] == "verdict" || line["type"] == "near_miss")
        .collect();
    let html = std::fs::read_to_string(&path).unwrap();
    let rows = embedded(&html);
    assert_eq!(rows.len(), lines.len());
    let packets = rows.iter().filter(|row| draws_packets(row)).count();
    assert!(packets > 100, "{packets} ladders with packets");
    for (row, line) in rows.iter().zip(lines) {
        assert_eq!(row["kind"], line["type"]);
        for field in [
            "id",
            "cause",
            "variant",
            "confidence",
            "status",
            "request",
            "evidence",
        ] {
            assert_eq!(row[field], line[field], "{field} of {}", line["id"]);
        }
        check_ladder(row);
    }
    let mut by_cause: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row["kind"] == "verdict") {
        *by_cause.entry(row["cause"].as_str().unwrap()).or_default() += 1;
    }
    for cause in by_cause.keys() {
        assert!(
            html.contains(&format!("{cause}</th>")),
            "{cause} in the table"
        );
    }
}

fn draws_packets(row: &Value) -> bool {
    let mut sections = row["ladder"].as_array().unwrap().iter();
    sections.any(|section| {
        let mut steps = section["steps"].as_array().unwrap().iter();
        steps.any(|step| step["shape"] == "packet")
    })
}

fn check_ladder(row: &Value) {
    let id = &row["id"];
    let steps: Vec<&Value> = row["ladder"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|section| section["steps"].as_array().unwrap())
        .collect();
    let mut drawn: Vec<u64> = steps
        .iter()
        .filter_map(|s| s["evidence"].as_u64())
        .collect();
    drawn.sort_unstable();
    let all: Vec<u64> = (0..row["evidence"].as_array().unwrap().len() as u64).collect();
    assert_eq!(drawn, all, "each piece of evidence of {id} once");
    let deciding = steps.iter().filter(|s| s["decides"] == true).count();
    let expected = usize::from(row["confidence"] != "unknown");
    assert_eq!(deciding, expected, "{id}, {}", row["cause"]);
    for section in row["ladder"].as_array().unwrap() {
        let times = section["steps"].as_array().unwrap().iter();
        let times: Vec<i64> = times.filter_map(|s| s["at_us"].as_i64()).collect();
        assert!(times.is_sorted(), "{id}: {times:?}");
    }
    if row["kind"] == "verdict" {
        let answers = |s: &&&Value| s["to"] == "client" && s["shape"] != "packet";
        let response = steps.iter().find(answers).unwrap();
        assert_eq!(response["at_us"], 0, "{id}");
    }
}

#[test]
fn privacy_holds_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let files = streams();
    explain(&files, &path, &[]);
    let full = embedded(&std::fs::read_to_string(&path).unwrap());
    let paths: Vec<&str> = full
        .iter()
        .filter_map(|r| r["request"]["path"].as_str())
        .collect();
    assert!(paths.len() > 100);
    explain(&files, &path, &["--privacy", "minimal"]);
    let html = std::fs::read_to_string(&path).unwrap();
    for row in embedded(&html) {
        assert!(row["request"]["path"].is_null() && row["client"].is_null());
    }
    for path in paths.into_iter().filter(|path| path.len() > 1) {
        assert!(!html.contains(path), "{path}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/folder/report.html");
    let output = explain(&streams()[..1], &missing, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(missing.to_str().unwrap()), "{stderr}");
    // A capture says so before it attaches anything: it needs no privilege to fail here.
    let output = why502(&["capture", "--for", "60s", "--report"])
        .arg(&missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(missing.to_str().unwrap()), "{stderr}");
}

#[test]
fn a_recording_that_is_cut_still_gives_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(&streams()[0]).unwrap();
    let cut = folder.path().join("cut.jsonl");
    std::fs::write(&cut, &text[..text.len() - 20]).unwrap();
    let path = folder.path().join("report.html");
    let output = explain(&[cut], &path, &[]);
    assert!(output.status.success());
    assert!(!embedded(&std::fs::read_to_string(&path).unwrap()).is_empty());
}
