use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::cause::Cause;
use crate::sinks::sample;
use crate::sinks::summary::Totals;
use crate::verdict::{Confidence, Kind, Party, Spread};

const HOSTILE: &[&str] = &[
    "/</script><script>alert(1)</script>",
    "/<img src=x onerror=alert(1)>",
    "/\"'><svg onload=alert(1)>",
    "/<!--<script>",
    "/&lt;b&gt;&#60;",
    "/\u{202e}gpj.exe\u{2028}\u{0}\u{1b}[2J",
    "/]]></style><style>*{display:none}",
];

/// A folder with a report in it, and the report's text.
fn report(verdicts: &[Verdict], totals: &Totals, risks: &[Risk]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("r.html");
    let mut report = Report::create(&path, "web-3", "from a test").unwrap();
    for verdict in verdicts {
        report.on_verdict(verdict, (verdict.at / 1_000_000) as i64, &[]);
    }
    risks.iter().for_each(|risk| report.on_risk(risk));
    assert!(!path.exists(), "it has no name before it is whole");
    report.finish(&totals.finish(0, 60_000_000_000)).unwrap();
    std::fs::read_to_string(&path).unwrap()
}

fn totals(verdicts: &[Verdict]) -> Totals {
    let mut totals = Totals::default();
    verdicts.iter().for_each(|v| totals.on_verdict(v));
    totals
}

fn embedded(html: &str) -> Vec<Value> {
    let from = "id=\"verdicts\">";
    let start = html.find(from).unwrap() + from.len();
    let end = html[start..].find("</script>").unwrap();
    serde_json::from_str(&html[start..start + end]).unwrap()
}

#[test]
fn hostile_text_stays_text() {
    let mut verdicts = Vec::new();
    for text in HOSTILE {
        let mut verdict = sample::verdict();
        verdict.request.path = Some((*text).to_owned());
        verdict.request.host = Some((*text).to_owned());
        verdict.request.method = Some((*text).to_owned());
        verdict.node = (*text).to_owned();
        verdict.upstream.address = Some(sample::address(&format!("unix:{text}")));
        verdict.upstream.process = Some(Some((*text).to_owned()));
        verdict.evidence[0].text = (*text).to_owned();
        verdict.missing.push((*text).to_owned());
        verdict.advice.text = (*text).to_owned();
        verdict.advice.settings[0].name = (*text).to_owned();
        verdict.advice.settings[0].observed = Some((*text).to_owned());
        verdicts.push(verdict);
    }
    let mut totals = totals(&verdicts);
    totals.lost(HOSTILE[0], HOSTILE[1], 1);
    totals.blind(HOSTILE[0], HOSTILE[1]);
    let risk = Risk {
        kind: "risk",
        time: sample::verdict().time,
        proxy: Party::default(),
        upstream: Party {
            address: Some(sample::address(HOSTILE[1])),
            process: Some(Some(HOSTILE[2].to_owned())),
            ..Party::default()
        },
        closes_after_us: Spread {
            median: 1,
            p5: 1,
            p95: 1,
            n: 1,
        },
        longest_reuse_us: 1,
        text: HOSTILE[0].to_owned(),
    };
    let html = report(&verdicts, &totals, &[risk]);
    for part in [
        "alert(1)</script>",
        "<img",
        "<svg onload",
        "<!--<script",
        "<style>*",
        "\u{202e}",
        "\u{1b}",
        "\u{0}",
    ] {
        assert!(!html.contains(part), "{part:?}");
    }
    // What opens is what the page itself opens: its data, what goes with it, its program.
    assert_eq!(html.matches("<script").count(), 3);
    assert_eq!(html.matches("</script>").count(), 3);
    assert_eq!(html.matches("<style").count(), 1);
    let rows = embedded(&html);
    assert_eq!(rows[0]["request"]["path"], HOSTILE[0]);
    assert_eq!(
        rows[5]["request"]["path"],
        "/\\u{202e}gpj.exe\\u{2028}\\x00\\x1b[2J"
    );
}

#[test]
fn a_report_asks_nobody_for_anything() {
    let verdicts = [sample::verdict()];
    let html = report(&verdicts, &totals(&verdicts), &[]);
    for part in [
        "http://",
        "https://",
        "url(",
        "@import",
        " src=",
        "href=\"//",
        "<link",
        "<iframe",
    ] {
        assert!(!html.contains(part), "{part}");
    }
    let policy = "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-";
    assert!(html.contains(policy));
    assert!(!html.contains("unsafe-eval") && !html.contains("script-src 'unsafe"));
    assert!(html.len() < 100_000, "{} bytes of page", html.len());
}

#[test]
fn the_page_reads_without_its_script() {
    let mut verdicts = vec![sample::verdict()];
    let mut likely = sample::other(Cause::WorkerCrashed, "10.9.0.3:80", 9_000);
    likely.confidence = Confidence::Likely;
    let mut near = sample::verdict();
    near.kind = Kind::NearMiss;
    verdicts.extend([likely, near]);
    let mut totals = totals(&verdicts);
    totals.lost("ring_buffer", "full", 3);
    totals.blind("unix_connect_failures", "no tracefs");
    let html = report(&verdicts, &totals, &[]);
    let (page, _) = html[html.find("<main").unwrap()..]
        .split_once("<script")
        .unwrap();
    for part in [
        "2 failed responses",
        "keepalive_race",
        "worker_crashed",
        "10.9.0.3:80",
        "likely",
        "3 signals lost",
        "ring_buffer_full",
        "unix_connect_failures: no tracefs",
        "server.keepAliveTimeout",
        "at least 65 s",
        "Near misses",
        "<svg class=\"chart\"",
        "The same as a table",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn no_failure_is_a_report_too() {
    let mut totals = Totals::default();
    totals.lost("capture", "gaps", 3);
    let html = report(&[], &totals, &[]);
    assert!(html.contains("No response failed in this time."));
    assert!(html.contains("No signal was lost."));
    assert!(html.contains("Packets not followed: <code>capture_gaps</code> 3"));
    assert!(embedded(&html).is_empty());
}

#[test]
fn what_is_not_listed_is_counted_and_said() {
    let verdict = sample::verdict();
    let mut verdicts = vec![verdict; MAX_LISTED + 5];
    // A rare cause that comes late still has its place.
    verdicts.push(sample::other(Cause::WorkerCrashed, "10.9.0.3:80", 9_000));
    let html = report(&verdicts, &totals(&verdicts), &[]);
    let rows = embedded(&html);
    assert_eq!(rows.len(), MAX_LISTED + 1);
    assert_eq!(rows[MAX_LISTED]["cause"], "worker_crashed");
    assert!(html.contains("10,006 failed responses"));
    assert!(html.contains("10,001 are listed, the first that came; 5 more are counted above"));
    let per_verdict = html.len() / MAX_LISTED;
    assert!(per_verdict < 2_500, "{per_verdict} bytes for each");
}

#[test]
fn a_report_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.html");
    let mut report = Report::create(&path, "web-3", "from a test").unwrap();
    report.on_verdict(&sample::verdict(), 1, &[]);
    drop(report);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
