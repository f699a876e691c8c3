//! What the table says: the live view, and the report at the end.

use super::When;
use super::rows::{Row, Rows};
use super::text::{Line, Style, span, wrap};
use crate::sinks::summary::Summary;
use crate::verdict::{Confidence, Kind, Party, Risk, Setting, Verdict};

/// Columns of a row beside the upstream's.
const FIXED: usize = 58;

/// The longest names of causes have 27 characters.
const CAUSE: usize = 27;

/// One line for the first verdict of a row, where nothing can be redrawn.
pub(super) fn first_seen(verdict: &Verdict) -> Line {
    let status = match (verdict.kind, verdict.status) {
        (Kind::Verdict, Some(status)) => status.to_string(),
        (Kind::Verdict, None) => "failed".to_owned(),
        (Kind::NearMiss, _) => "near miss".to_owned(),
        (Kind::Truncated, _) => "truncated".to_owned(),
    };
    let variant = verdict
        .variant
        .map_or(String::new(), |variant| format!(" ({variant})"));
    let mut line = Line::new()
        .add(Style::Faint, clock_time(&verdict.time))
        .plain("  ")
        .plain(&status)
        .plain("  ")
        .add(Style::Strong, verdict.cause.name())
        .plain(&variant)
        .plain("  ")
        .plain(upstream(&verdict.upstream))
        .plain("  ")
        .add(
            confidence_style(verdict.confidence),
            verdict.confidence.name(),
        );
    if let Some(request) = request(verdict) {
        line = line.plain("  ").plain(&request);
    }
    line
}

pub(super) fn risk_line(risk: &Risk) -> Line {
    Line::new()
        .add(Style::Faint, clock_time(&risk.time))
        .plain("  ")
        .add(Style::Warn, "risk")
        .plain("  ")
        .plain(upstream(&risk.upstream))
        .plain("  ")
        .plain(&risk.text)
}

/// What is on the screen while the watch goes on.
pub(super) fn live(rows: &Rows, risks: usize, seconds: u64, columns: usize) -> Vec<Line> {
    let mut title = Line::new().add(Style::Strong, "why502").plain(&format!(
        "  {}:{:02}",
        seconds / 60,
        seconds % 60
    ));
    let failed = rows.count(Kind::Verdict);
    let style = if failed > 0 { Style::Bad } else { Style::Good };
    title = title
        .plain("  ")
        .add(style, &counted(failed, "failed response"));
    for (count, noun) in [
        (rows.count(Kind::NearMiss), "near miss"),
        (rows.count(Kind::Truncated), "truncated response"),
        (risks as u64, "risk"),
    ] {
        if count > 0 {
            title = title.plain(", ").plain(&counted(count, noun));
        }
    }
    let mut lines = vec![title.add(Style::Faint, "  (times in UTC)")];
    for (kind, heading) in [
        (Kind::Verdict, "CAUSE"),
        (Kind::Truncated, "TRUNCATED BY"),
        (Kind::NearMiss, "NEAR MISS"),
    ] {
        lines.extend(table(&rows.of(kind), heading, columns));
    }
    lines
}

/// A heading and two lines a row; nothing where there is no row.
fn table(rows: &[&Row], heading: &str, columns: usize) -> Vec<Line> {
    if rows.is_empty() {
        return Vec::new();
    }
    let width = columns.saturating_sub(FIXED).clamp(10, 60);
    let heading = format!(
        " {:>6}  {heading:CAUSE$}  {:width$}  {:8}  {:8}",
        "COUNT", "UPSTREAM", "FIRST", "LAST"
    );
    let mut lines = vec![Line::new(), Line::new().add(Style::Faint, &heading)];
    for row in rows {
        // A path says by itself that it is a Unix socket's: make room for more of it.
        let upstream = match row.upstream.strip_prefix("unix:/") {
            Some(_) if row.upstream.chars().count() > width => &row.upstream["unix:".len()..],
            _ => &row.upstream,
        };
        lines.push(
            Line::new()
                .plain(&format!(" {:>6}  ", row.count))
                .cell(Style::Strong, row.cause.name(), CAUSE)
                .plain("  ")
                .cell(Style::Plain, upstream, width)
                .add(
                    Style::Faint,
                    &format!("  {}  {}", clock_time(&row.first), clock_time(&row.last)),
                ),
        );
        let [statuses, confidences, variants] = row.tally();
        let mut second = Line::new().plain("         ").add(Style::Faint, &statuses);
        let surest = row
            .confidences
            .keys()
            .next()
            .copied()
            .unwrap_or(Confidence::Unknown);
        second = second
            .add(Style::Faint, " · ")
            .add(confidence_style(surest), &confidences);
        if !variants.is_empty() {
            second = second.add(Style::Faint, " · ").add(Style::Faint, &variants);
        }
        lines.push(second);
    }
    lines
}

/// The end of a watch: the table, each row's story, and what could not be seen.
pub(super) fn report(
    rows: &Rows,
    when: &[When],
    risks: &[&Risk],
    summary: &Summary,
    columns: usize,
) -> Vec<Line> {
    let failed = summary.responses.failed;
    let mut lines = vec![
        Line::new()
            .add(
                if failed > 0 { Style::Bad } else { Style::Good },
                &counted(failed, "failed response"),
            )
            .plain(&format!(" in {}", watched(summary.seconds)))
            .add(Style::Faint, "  (times in UTC)"),
    ];
    for (kind, heading) in [
        (Kind::Verdict, "CAUSE"),
        (Kind::Truncated, "TRUNCATED BY"),
        (Kind::NearMiss, "NEAR MISS"),
    ] {
        lines.extend(table(&rows.of(kind), heading, columns));
    }
    lines.extend(hours(when, columns));
    for kind in [Kind::Verdict, Kind::Truncated] {
        for row in rows.of(kind) {
            lines.extend(story(row, columns));
        }
    }
    for row in rows.of(Kind::NearMiss) {
        lines.extend(near_miss(row, columns));
    }
    for risk in risks {
        let title = format!("Risk at {}", upstream(&risk.upstream));
        lines.extend([Line::new(), Line::new().add(Style::Warn, &title)]);
        lines.extend(paragraph(&risk.text, columns));
    }
    lines.extend(limits(summary, columns));
    lines
}

/// `60.0 s` of a capture, `23.5 h` of a night.
fn watched(seconds: f64) -> String {
    match seconds {
        s if s < 7_200.0 => format!("{s:.1} s"),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// When failures were; nothing where the rows say it.
fn hours(when: &[When], columns: usize) -> Vec<Line> {
    if when.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::new(), Line::new().add(Style::Faint, "  COUNT  WHEN")];
    for one in when {
        let mut causes: Vec<_> = one.causes.iter().collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let total: u64 = one.causes.values().sum();
        let named: Vec<String> = causes
            .iter()
            .map(|(cause, count)| format!("{cause} ×{count}"))
            .collect();
        let label = format!(" {total:>6}  {}  ", one.label);
        lines.extend(hanging(&label, Style::Plain, &named.join(", "), columns));
    }
    lines
}

/// What happened in one row, with its evidence, and what to change.
fn story(row: &Row, columns: usize) -> Vec<Line> {
    let example = &row.example;
    let mut lines = vec![
        Line::new(),
        Line::new()
            .add(Style::Strong, row.cause.name())
            .plain(" at ")
            .add(Style::Strong, &row.upstream)
            .plain(&process(&example.upstream)),
    ];
    lines.extend(paragraph(&row.cause.sentence(), columns));
    lines.push(example_line(example));
    for evidence in &example.evidence {
        let label = format!("{:>12}  ", span(evidence.at_us as f64));
        lines.extend(hanging(&label, Style::Faint, &evidence.text, columns));
    }
    for missing in &example.missing {
        lines.extend(hanging("     unseen:  ", Style::Warn, missing, columns));
    }
    if example.lost_signals > 0 {
        let text = format!(
            "{} lost around this response",
            counted(example.lost_signals, "signal")
        );
        lines.extend(hanging("       lost:  ", Style::Warn, &text, columns));
    }
    lines.extend(advice(example, columns));
    lines
}

/// A near miss needs fewer words: nobody saw it.
fn near_miss(row: &Row, columns: usize) -> Vec<Line> {
    if row.example.advice.text.is_empty() && row.example.advice.settings.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        Line::new(),
        Line::new()
            .add(Style::Strong, row.cause.name())
            .plain(" at ")
            .add(Style::Strong, &row.upstream)
            .add(Style::Faint, ", a near miss"),
    ];
    lines.extend(advice(&row.example, columns));
    lines
}

fn advice(verdict: &Verdict, columns: usize) -> Vec<Line> {
    let mut lines = paragraph(&verdict.advice.text, columns);
    for setting in &verdict.advice.settings {
        lines.extend(setting_lines(setting, columns));
    }
    lines
}

fn setting_lines(setting: &Setting, columns: usize) -> Vec<Line> {
    let mut text = format!(
        "{} {}: {}",
        setting.software, setting.name, setting.suggested
    );
    let observed = match (&setting.observed, setting.observed_seconds) {
        (Some(value), _) => Some(value.clone()),
        (None, Some(seconds)) => Some(span(seconds * 1e6)),
        (None, None) => None,
    };
    if let Some(observed) = observed {
        text += &format!("; now {observed}");
        if let Some(from) = setting.observed_from {
            text += &format!(" (from the {})", from.replace('_', " "));
        }
    }
    let label = match setting.alternative_to {
        Some(_) => "  → or ",
        None => "  → ",
    };
    let mut lines = hanging(label, Style::Good, &text, columns);
    if let Some(risk) = &setting.risk {
        lines.extend(hanging("      risk: ", Style::Warn, risk, columns));
    }
    lines
}

/// What this watch could not see: said also when there is nothing to say.
fn limits(summary: &Summary, columns: usize) -> Vec<Line> {
    let mut lines = vec![Line::new()];
    let lost: u64 = summary.lost.get("signals").copied().unwrap_or(0);
    if lost == 0 {
        lines.push(Line::new().add(Style::Faint, "No signal was lost."));
    } else {
        let by: Vec<String> = summary
            .lost
            .iter()
            .filter(|(name, _)| *name != "signals")
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let text = format!(
            "{} lost ({}): a verdict made meanwhile is never proven.",
            counted(lost, "signal"),
            by.join(", ")
        );
        lines.extend(hanging("", Style::Bad, &text, columns));
    }
    if !summary.not_followed.is_empty() {
        let by: Vec<String> = summary
            .not_followed
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let text = format!(
            "Packets not followed ({}): a verdict on a connection that lacks some of them is never proven.",
            by.join(", ")
        );
        lines.extend(hanging("", Style::Warn, &text, columns));
    }
    if !summary.blind.is_empty() {
        lines.push(Line::new().add(Style::Warn, "Not to be seen on this host:"));
        for fact in &summary.blind {
            lines.extend(hanging("  - ", Style::Plain, fact, columns));
        }
    }
    lines
}

/// `For example 13:48:24.123  POST /orders → 502 after 31.2 ms`.
fn example_line(verdict: &Verdict) -> Line {
    let mut line = Line::new()
        .plain("  For example ")
        .plain(verdict.time.get(11..23).unwrap_or(&verdict.time));
    if let Some(request) = request(verdict) {
        line = line.plain("  ").plain(&request);
    }
    if let Some(status) = verdict.status {
        line = line
            .own(Style::Plain, " → ")
            .add(Style::Strong, &status.to_string());
    }
    if verdict.status_rewritten {
        line = line.add(Style::Faint, " (rewritten by the proxy)");
    }
    if let Some(duration) = verdict.duration_us {
        line = line.plain(" after ").plain(&span(duration as f64));
    }
    line
}

/// Method and path as far as they are known and may be shown.
fn request(verdict: &Verdict) -> Option<String> {
    let request = &verdict.request;
    match (&request.method, &request.path) {
        (Some(method), Some(path)) => Some(format!("{method} {path}")),
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (None, None) => None,
    }
}

fn upstream(party: &Party) -> &str {
    party.address.as_ref().map_or("-", |address| &address.0)
}

fn process(party: &Party) -> String {
    let name = party.process.as_ref().and_then(Option::as_ref).cloned();
    let pid = party.pid.map(|pid| format!("pid {pid}"));
    let parts: Vec<String> = [name, pid, party.home()].into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(" ({})", parts.join(", ")),
    }
}

/// `13:48:24` of an RFC 3339 time.
fn clock_time(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

fn confidence_style(confidence: Confidence) -> Style {
    match confidence {
        Confidence::Proven => Style::Good,
        Confidence::Likely => Style::Warn,
        Confidence::Unknown => Style::Bad,
    }
}

fn counted(count: u64, noun: &str) -> String {
    let plural = match (count, noun.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {noun}{plural}")
}

fn paragraph(text: &str, columns: usize) -> Vec<Line> {
    hanging("  ", Style::Plain, text, columns)
}

/// A label, then the text; further lines begin below the text.
fn hanging(label: &str, style: Style, text: &str, columns: usize) -> Vec<Line> {
    let indent = label.chars().count();
    wrap(text, columns.saturating_sub(indent).max(20))
        .iter()
        .enumerate()
        .map(|(i, part)| match i {
            0 => Line::new().own(style, label).plain(part),
            _ => Line::new().plain(&" ".repeat(indent)).plain(part),
        })
        .collect()
}
