//! The runbooks, alerts and dashboards against the program's own lists: none may go stale.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use why502::cause::Cause;

/// Pages that are for no single cause.
const OTHERS: &[&str] = &["README", "agent", "near_misses"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(&format!("docs/runbooks/{name}.md"))
}

/// The names of the pages that are there, without `.md`.
fn pages() -> BTreeSet<String> {
    let folder = fs::read_dir(root().join("docs/runbooks")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| name.strip_suffix(".md").expect(&name).to_owned())
        .collect()
}

/// Files of a folder of the repository with this extension.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut found: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(extension))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no {extension} in {folder}");
    found
}

#[test]
fn each_cause_has_a_page_and_each_page_a_cause() {
    let causes = Cause::ALL.iter().map(|cause| cause.name());
    let wanted: BTreeSet<String> = causes
        .chain(OTHERS.iter().copied())
        .map(str::to_owned)
        .collect();
    assert_eq!(pages(), wanted);
}

#[test]
fn a_page_names_its_cause_and_variants_and_has_all_parts() {
    for cause in Cause::ALL {
        let text = page(cause.name());
        let title = format!("# `{cause}`\n");
        assert!(text.starts_with(&title), "{cause}: no title");
        for variant in cause.variants() {
            let named = text.contains(&format!("`{variant}`"));
            assert!(named, "{cause}: no {variant}");
        }
        let parts = [
            "\n## What the proxies log\n",
            "\n## Confirm by hand\n",
            "\n## What to change\n",
            "\n## Easily confused with\n",
        ];
        for part in parts {
            assert!(text.contains(part), "{cause}: no {part:?}");
        }
        for software in [
            "nginx", "HAProxy", "Envoy", "Apache", "Caddy", "gunicorn", "uWSGI", "Node.js", "Puma",
            "Tomcat",
        ] {
            assert!(text.contains(software), "{cause}: no {software}");
        }
    }
}

#[test]
fn the_index_names_each_cause_twice() {
    let index = page("README");
    let (causes, lines) = index.split_once("\n## By what the log says\n").unwrap();
    for cause in Cause::ALL {
        let link = format!("| [`{cause}`]({cause}.md) | ");
        assert_eq!(causes.matches(&link).count(), 1, "{cause} by cause");
        // Nothing in a proxy's log leads to these.
        let silent = matches!(cause, Cause::Unknown);
        let link = format!("[`{cause}`]({cause}.md)");
        assert!(silent || lines.contains(&link), "{cause} by log line");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    for name in pages() {
        for link in page(&name).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let target = target.split('#').next().unwrap();
            let found = root().join("docs/runbooks").join(target).is_file();
            assert!(found, "{name}.md links to {target}");
        }
    }
}

#[test]
fn a_table_row_has_as_many_cells_as_its_head() {
    let cells = |row: &str| row.replace("\\|", "").matches('|').count();
    for name in pages() {
        let mut head = None;
        let mut code = false;
        for (line, number) in page(&name).lines().zip(1..) {
            code ^= line.starts_with("```");
            if code || !line.starts_with('|') {
                head = None;
                continue;
            }
            let wanted = *head.get_or_insert_with(|| cells(line));
            assert_eq!(cells(line), wanted, "{name}.md:{number}: {line}");
        }
    }
}

#[test]
fn each_alert_leads_to_a_page_that_exists() {
    const LABEL: &str = "{{ $labels.cause }}";
    let rules = read("dashboards/prometheus/rules.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let url = alert
            .lines()
            .find_map(|line| line.trim().strip_prefix("runbook_url: "))
            .unwrap_or_else(|| panic!("{name}: no runbook_url"));
        let target = url
            .trim_matches('"')
            .strip_prefix("docs/runbooks/")
            .and_then(|target| target.strip_suffix(".md"))
            .unwrap_or_else(|| panic!("{name}: {url}"));
        if target == LABEL {
            // The label must be there, or the link ends in nothing.
            let by: Vec<&str> = alert.split(" by (").skip(1).collect();
            let all = by.iter().all(|labels| {
                let labels = labels.split(')').next().unwrap();
                labels.split(',').any(|label| label.trim() == "cause")
            });
            assert!(!by.is_empty() && all, "{name}: its result has no cause");
        } else {
            assert!(pages().contains(target), "{name}: {url}");
        }
    }
}

/// What a dashboard or rule names as a metric; recorded series hold colons.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("why502_"))
        .collect()
}

#[test]
fn dashboards_and_rules_name_metrics_that_exist() {
    let sources: String = files("agent/src/sinks/metrics", ".rs")
        .iter()
        .map(|path| read(path))
        .collect();
    let mut checked = files("dashboards/grafana", ".json");
    checked.extend(files("dashboards/prometheus", ".yml"));
    checked.extend(files("docs/runbooks", ".md"));
    for path in checked {
        for name in metrics_named(&read(&path)) {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            let made = [name, base]
                .iter()
                .any(|name| sources.contains(&format!("\"{name}\"")));
            assert!(made, "{path}: no metric {name}");
        }
    }
}

/// The metrics that the program exports.
fn metrics() -> BTreeSet<String> {
    let sources = files("agent/src/sinks/metrics", ".rs");
    let texts = sources.iter().map(|path| read(path));
    let quoted = texts.flat_map(|text| {
        let words = text.split('"').skip(1).step_by(2);
        words.map(str::to_owned).collect::<Vec<_>>()
    });
    quoted.filter(|word| word.starts_with("why502_")).collect()
}

#[test]
fn each_metric_is_on_a_dashboard_or_in_a_rule() {
    let mut shown = files("dashboards/grafana", ".json");
    shown.push("dashboards/prometheus/rules.yml".to_owned());
    let shown: String = shown.iter().map(|path| read(path)).collect();
    let named = metrics_named(&shown);
    let metrics = metrics();
    assert!(metrics.len() > 20, "{metrics:?}");
    for metric in metrics {
        let is_shown = named.iter().any(|name| {
            let rest = name.strip_prefix(metric.as_str());
            matches!(rest, Some("" | "_bucket" | "_sum" | "_count"))
        });
        assert!(is_shown, "{metric} is shown nowhere");
    }
}

#[test]
fn dashboards_and_rules_ask_for_causes_that_exist() {
    let mut checked = files("dashboards/grafana", ".json");
    checked.push("dashboards/prometheus/rules.yml".to_owned());
    let causes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
    let mut asked = 0;
    for path in checked {
        // In JSON quotation marks are escaped.
        let text = read(&path).replace('\\', "");
        for matcher in text.split("cause=").skip(1) {
            let value = matcher.trim_start_matches('~').split('"').nth(1).unwrap();
            for cause in value.split('|') {
                assert!(causes.contains(cause), "{path}: no cause {cause}");
                asked += 1;
            }
        }
    }
    assert!(asked > 5, "{asked}");
}

#[test]
fn each_alert_is_seen_to_fire_and_to_keep_silent() {
    let rules = read("dashboards/prometheus/rules.yml");
    let tests = read("dashboards/prometheus/rules_test.yml");
    let cases: Vec<(&str, &str)> = tests
        .split("alertname: ")
        .skip(1)
        .map(|case| {
            let mut lines = case.lines();
            (lines.next().unwrap(), lines.next().unwrap().trim())
        })
        .collect();
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        for expected in ["exp_alerts:", "exp_alerts: []"] {
            assert!(cases.contains(&(name, expected)), "{name}: no {expected}");
        }
    }
}
