//! How the demo tells its story: what was broken, who saw what, what why502 says, what to do.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use serde_json::Value;

use super::acts::{Act, Case};
use crate::agent;

const WIDTH: usize = 100;
const INDENT: usize = 12;

pub(crate) fn open(number: usize, of: usize, act: &Act) {
    let head = format!("── {number}/{of}  {} ", act.title);
    let rule = "─".repeat(WIDTH.saturating_sub(head.chars().count()));
    println!("\n{}", bold(&format!("{head}{rule}")));
    section("broken", act.broken);
}

/// What the client got, and what nginx says about it.
pub(crate) fn outside(cases: &[Case], complaints: &[(String, usize)]) {
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for case in cases {
        *statuses.entry(case.answer.status).or_default() += 1;
    }
    let seen: Vec<String> = statuses
        .iter()
        .rev()
        .map(|(status, count)| match status {
            0 => format!("{count} × no response"),
            _ => format!("{count} × {status}"),
        })
        .collect();
    let longest = cases
        .iter()
        .map(|case| case.answer.took)
        .max()
        .unwrap_or_default();
    section(
        "client saw",
        &format!(
            "{}   (the slowest took {:.1} s)",
            seen.join(", "),
            longest.as_secs_f64()
        ),
    );
    for (text, count) in complaints {
        section("nginx logs", &format!("{count} × {text}"));
    }
}

/// The labels, the proof of one of each kind, and the advice.
pub(crate) fn inside(lines: &[Value]) {
    let mut kinds: Vec<(&Value, usize)> = Vec::new();
    for line in lines.iter().filter(|line| agent::weight(line) > 0) {
        // A `suppressed` line says less than the verdicts that it stands for.
        let same = |seen: &Value| {
            seen["cause"] == line["cause"]
                && (line["type"] == "suppressed"
                    || (seen["variant"] == line["variant"]
                        && seen["confidence"] == line["confidence"]
                        && seen["status"] == line["status"]))
        };
        match kinds.iter_mut().find(|(seen, _)| same(seen)) {
            Some((_, count)) => *count += agent::weight(line),
            None => kinds.push((line, agent::weight(line))),
        }
    }
    println!();
    section(
        "why502",
        &format!(
            "{:>5}  {:6}  {:34}  {}",
            "count", "status", "cause", "confidence"
        ),
    );
    for (line, count) in &kinds {
        let cause = named(line);
        let status = line["status"]
            .as_u64()
            .map_or("-".to_owned(), |status| status.to_string());
        let confidence = text(line, "confidence");
        println!(
            "{:INDENT$}{}",
            "",
            green(&format!("{count:>5}  {status:6}  {cause:42}  {confidence}"))
        );
    }
    let near_misses = lines
        .iter()
        .filter(|line| line["type"] == "near_miss")
        .count();
    if near_misses > 0 {
        println!(
            "{:INDENT$}{near_misses:>5}  near misses: failures that a retry hid",
            ""
        );
    }
    proofs(kinds.iter().map(|(line, _)| *line));
}

/// The whole proof of one verdict of each cause, of its other variants the fact that tells them
/// apart, and the advice where it is new.
fn proofs<'a>(lines: impl Iterator<Item = &'a Value>) {
    let mut shown = Vec::new();
    let mut told = Vec::new();
    let mut changes = Vec::new();
    for line in lines {
        let cause = text(line, "cause");
        let path = line["request"]["path"].as_str().unwrap_or("-");
        let facts = line["evidence"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let facts = if shown.contains(&cause) {
            // What the process did, or how it ended, is what variants differ in.
            let telling = ["thread_sampled", "process_exited", "signal_sent"];
            let sample = facts.iter().rev().find(|fact| {
                fact["fact"]
                    .as_str()
                    .is_some_and(|name| telling.contains(&name))
            });
            sample
                .or(facts.last())
                .map(std::slice::from_ref)
                .unwrap_or_default()
        } else {
            println!();
            facts
        };
        section("proof", &format!("{} of {path}", named(line)));
        for fact in facts {
            let at = fact["at_us"].as_i64().unwrap_or(0);
            let text = fact["text"].as_str().unwrap_or_default();
            hanging(&format!("{:>12}  ", milliseconds(at)), text);
        }
        shown.push(cause);
        let advice = line["advice"]["text"].as_str().unwrap_or_default();
        if !advice.is_empty() && !told.contains(&advice) {
            section("advice", advice);
            told.push(advice);
            for setting in line["advice"]["settings"].as_array().into_iter().flatten() {
                let change = change(setting);
                if !changes.contains(&change) {
                    hanging("→ ", &change);
                    changes.push(change);
                }
            }
        }
    }
}

/// What to change, in one line.
fn change(setting: &Value) -> String {
    let risk = setting["risk"]
        .as_str()
        .map(|risk| format!(" (risk: {risk})"));
    format!(
        "{} {}: {}{}",
        text(setting, "software"),
        text(setting, "name"),
        text(setting, "suggested"),
        risk.unwrap_or_default()
    )
}

/// Holds the labels against what was done; how many do not fit.
pub(crate) fn judge(cases: &[Case], lines: &[Value]) -> usize {
    let failed: Vec<&Case> = cases.iter().filter(|case| case.answer.failed()).collect();
    let unplanned = failed.iter().filter(|case| case.truth.is_empty()).count();
    let labelled = agent::labelled(lines);
    let mut wrong = unplanned + labelled.abs_diff(failed.len());
    for line in lines.iter().filter(|line| line["type"] == "verdict") {
        let path = line["request"]["path"].as_str();
        let case = failed
            .iter()
            .find(|case| Some(case.answer.path.as_str()) == path);
        let fits = case.is_some_and(|case| case.truth.iter().any(|truth| matches(line, truth)));
        if !fits {
            wrong += 1;
            let truth = case.map_or("no failure".to_owned(), |case| case.truth.join(" or "));
            section(
                "wrong",
                &format!(
                    "{} is labelled {}, but was {truth}; missing: {}",
                    path.unwrap_or("-"),
                    named(line),
                    line["missing"]
                ),
            );
        }
    }
    let result = format!(
        "{labelled} of {} failed responses labelled, {wrong} wrong",
        failed.len()
    );
    section(
        "so",
        &if wrong == 0 {
            green(&result)
        } else {
            bold(&result)
        },
    );
    wrong
}

/// `cause` or `cause/variant`.
fn matches(line: &Value, truth: &str) -> bool {
    match truth.split_once('/') {
        Some((cause, variant)) => line["cause"] == cause && line["variant"] == variant,
        None => line["cause"] == truth,
    }
}

/// The counters that moved, as Prometheus sees them.
pub(crate) fn metrics(exposition: &str) {
    for line in exposition.lines() {
        let counted = ["why502_failed_responses_total", "why502_near_misses_total"]
            .iter()
            .any(|name| line.starts_with(name));
        if counted && !line.ends_with(" 0") {
            println!("   {line}");
        }
    }
}

/// A word in the margin and wrapped text beside it.
pub(crate) fn section(word: &str, text: &str) {
    hanging_at(&format!("{word:<w$}", w = INDENT), text);
}

fn hanging(mark: &str, text: &str) {
    hanging_at(&format!("{:INDENT$}{mark}", ""), text);
}

fn hanging_at(head: &str, text: &str) {
    let margin = head.chars().count();
    for (number, line) in wrap(text, WIDTH.saturating_sub(margin)).iter().enumerate() {
        if number == 0 {
            println!("{head}{line}");
        } else {
            println!("{:margin$}{line}", "");
        }
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn milliseconds(us: i64) -> String {
    // Shown to a thousandth of a millisecond at most; f64 holds any time that a proxy waits.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ms = us as f64 / 1000.0;
    format!("{ms:+.2} ms")
}

/// The cause, with its variant.
fn named(line: &Value) -> String {
    match line["variant"].as_str() {
        Some(variant) => format!("{} ({variant})", text(line, "cause")),
        None => text(line, "cause"),
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or("-").to_owned()
}

fn bold(text: &str) -> String {
    styled("1", text)
}

fn green(text: &str) -> String {
    styled("32", text)
}

fn styled(code: &str, text: &str) -> String {
    let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensible", 5), ["incomprehensible"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn a_truth_may_name_the_variant() {
        let line = serde_json::json!({"cause": "worker_crashed", "variant": "exit"});
        assert!(matches(&line, "worker_crashed"));
        assert!(matches(&line, "worker_crashed/exit"));
        assert!(!matches(&line, "worker_crashed/signal"));
        assert!(!matches(&line, "worker_killed"));
    }
}
