//! `report`: what `run` has kept, as `capture` would have shown it.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

use crate::cause::Cause;
use crate::cli::{Exit, note, warning};
use crate::clock::{self, Clock};
use crate::config;
use crate::sinks::history::{Reader, Tally, Watched};
use crate::sinks::json::JsonLines;
use crate::sinks::report::Report;
use crate::sinks::summary::{Summary, Totals};
use crate::sinks::table::{Display, Table, When};
use crate::verdict::{Kind, Risk, Verdict};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// More hours than this are told by the day.
const MAX_HOURS: usize = 48;

/// `why502 report`.
pub fn report(settings: &config::Report) -> Result<Exit> {
    let reader = Reader::open(&settings.history)?;
    let context = || format!("history {}", settings.history.display());
    let now_ms = (clock::unix_now() / 1_000_000).cast_signed();
    let since_ms = now_ms - i64::try_from(settings.since.as_millis()).unwrap_or(now_ms);
    let tally = reader.tally(since_ms).with_context(context)?;
    let (summary, nodes) = summary(&reader, &tally, since_ms).with_context(context)?;
    tell_coverage(&summary, now_ms - since_ms);
    let mut page = match &settings.html {
        Some(path) => {
            let title = format!("{}, since {} UTC", nodes.join(", "), minute(since_ms));
            let mut page = Report::create(path, &title, "from the history of `why502 run`")?;
            page.saw(since_ms);
            page.saw(now_ms);
            Some(page)
        }
        None => None,
    };
    let out = BufWriter::new(std::io::stdout().lock());
    let mut unreadable = 0;
    if settings.json {
        let mut lines = JsonLines::all(out);
        reader
            .lines(since_ms, |_, line| Ok(lines.on_line(line)?))
            .with_context(context)?;
        lines.finish(&summary)?;
    } else {
        unreadable = show(&reader, since_ms, &tally, &summary, out).with_context(context)?;
    }
    if let Some(page) = &mut page {
        unreadable = unreadable.max(fill(&reader, since_ms, page).with_context(context)?);
    }
    if unreadable > 0 {
        warning!("{unreadable} entries are left out: another version of why502 made them");
    }
    page.map_or(Ok(()), |page| page.finish(&summary))?;
    Ok(Exit::Done)
}

/// The table, from counts; of each row one line is read. Returns what this version does not know.
fn show(
    reader: &Reader,
    since_ms: i64,
    tally: &Tally,
    summary: &Summary,
    out: impl Write,
) -> Result<u64> {
    let mut table = Table::new(out, Display::of_stdout().report_only(), 0);
    let mut unreadable = 0;
    for folded in &tally.folded {
        // Deleted meanwhile: too old.
        let Some(line) = reader.line(folded.example)? else {
            continue;
        };
        if let Ok(verdict) = serde_json::from_str::<Verdict>(&line) {
            table.on_folded(&verdict, folded.count, &rfc3339(folded.first_ms));
        } else if !folded.series.is_risk() {
            unreadable += folded.count;
        }
    }
    for risk in reader.risks(since_ms)? {
        match serde_json::from_str::<Risk>(&risk) {
            Ok(risk) => table.on_risk(&risk)?,
            Err(_) => unreadable += 1,
        }
    }
    table.on_when(when(tally));
    table.finish(summary)?;
    Ok(unreadable)
}

/// The page, from every line.
fn fill(reader: &Reader, since_ms: i64, page: &mut Report) -> Result<u64> {
    let mut unreadable = 0;
    reader.lines(since_ms, |at_ms, line| {
        if let Ok(verdict) = serde_json::from_str::<Verdict>(line) {
            page.on_verdict(&verdict, at_ms, &[]);
        } else if let Ok(risk) = serde_json::from_str::<Risk>(line) {
            page.on_risk(&risk);
        } else {
            unreadable += 1;
        }
        Ok(())
    })?;
    Ok(unreadable)
}

/// The summary of the time that was watched, and who watched.
fn summary(reader: &Reader, tally: &Tally, since_ms: i64) -> Result<(Summary, Vec<String>)> {
    let mut totals = Totals::default();
    for folded in &tally.folded {
        let series = &folded.series;
        if let (Some(kind), Some(cause)) = (named::<Kind>(&series.kind), named(&series.cause)) {
            totals.add(kind, cause, folded.count);
        }
    }
    for (name, count) in reader.losses(since_ms)? {
        totals.lost_by_name(name, count);
    }
    for text in reader.blind(since_ms)? {
        totals.blind(&text, "");
    }
    let Watched { times, nodes } = reader.watched(since_ms)?;
    let watched: i64 = times.iter().map(|(from, to)| (to - from).max(0)).sum();
    let summary = totals.finish(0, watched.cast_unsigned() * 1_000_000);
    Ok((summary, nodes))
}

/// Silence is no news where nobody watched.
fn tell_coverage(summary: &Summary, asked_ms: i64) {
    let asked = asked_ms as f64 / 1_000.0;
    // It is noted once a minute.
    if summary.seconds + 90.0 < asked * 0.99 {
        note!(
            "`why502 run` watched for {:.2} of these {:.2} hours",
            summary.seconds / 3_600.0,
            asked / 3_600.0
        );
    }
}

/// Hours, or days where there are too many.
fn when(tally: &Tally) -> Vec<When> {
    let (unit, digits) = match tally.hours.len() {
        0..=MAX_HOURS => (HOUR_MS, 13),
        _ => (DAY_MS, 10),
    };
    let mut units: BTreeMap<i64, BTreeMap<Cause, u64>> = BTreeMap::new();
    for (hour, causes) in &tally.hours {
        let causes = causes.iter().filter_map(|(c, n)| Some((named(c)?, n)));
        let of = units.entry(hour.div_euclid(unit) * unit).or_default();
        for (cause, count) in causes {
            *of.entry(cause).or_default() += count;
        }
    }
    let label = |at_ms| {
        let day_and_hour = rfc3339(at_ms)[..digits].replace('T', " ");
        match digits {
            13 => day_and_hour + ":00",
            _ => day_and_hour,
        }
    };
    units
        .into_iter()
        .map(|(at_ms, causes)| When {
            label: label(at_ms),
            causes,
        })
        .collect()
}

/// A name of the contract, if this version has it.
fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

fn rfc3339(at_ms: i64) -> String {
    Clock::from_offset(at_ms.saturating_mul(1_000_000)).rfc3339(0)
}

fn minute(at_ms: i64) -> String {
    rfc3339(at_ms)[..16].replace('T', " ")
}
