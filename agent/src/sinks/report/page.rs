//! The page's HTML: everything that reads without a script, on a screen or on paper.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::chart::{self, MARKS, Series, mark};
use super::embed;
use super::findings::Findings;
use super::why;
use super::words::{clock_time, counted, date, date_time, grouped, width_text};
use crate::cause::Cause;
use crate::sinks::summary::Summary;
use crate::sinks::visible;
use crate::verdict::{Confidence, Kind, Party, Risk};

const STYLE: &str = include_str!("page/page.css");
/// One program: the pieces share one scope.
const SCRIPT: &str = concat!(
    include_str!("page/text.js"),
    include_str!("page/ladder.js"),
    include_str!("page/detail.js"),
    include_str!("page/list.js"),
);

pub(super) struct Page<'a> {
    /// Where the verdicts come from, for a person.
    pub(super) source: &'a str,
    pub(super) nodes: Vec<&'a str>,
    pub(super) range_ms: Option<(i64, i64)>,
    pub(super) summary: &'a Summary,
    pub(super) findings: &'a Findings,
    pub(super) risks: &'a [Risk],
    pub(super) listed: usize,
    pub(super) left_out: u64,
}

/// From the first byte to where the verdicts begin.
pub(super) fn begin(title: &str) -> String {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        STANDARD.encode(Sha256::digest(SCRIPT))
    );
    let head = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (visible(title)) " · why502" }
                style { (PreEscaped(STYLE)) }
            }
        }
    };
    // The body is written piece by piece, as the verdicts come.
    let head = head.into_string();
    let head = head.strip_suffix("</html>").unwrap_or(&head);
    format!("{head}<body><script type=\"application/json\" id=\"verdicts\">[")
}

/// From where the verdicts end to the last byte.
pub(super) fn end(page: &Page<'_>) -> std::io::Result<Vec<u8>> {
    let causes = page.findings.causes();
    let about = embed::json(&About {
        causes: causes
            .iter()
            .map(|cause| (cause.name(), cause.sentence()))
            .collect(),
        marks: MARKS,
    })?;
    let mut out = b"\n]</script>".to_vec();
    out.extend(body(page, &causes).into_string().into_bytes());
    out.extend(b"<script type=\"application/json\" id=\"about\">");
    out.extend(about);
    out.extend(b"</script><script>");
    out.extend(SCRIPT.as_bytes());
    out.extend(b"</script></body></html>\n");
    Ok(out)
}

/// What the script needs beside the verdicts: causes in the order of their colours.
#[derive(Serialize)]
struct About {
    causes: Vec<(&'static str, String)>,
    marks: &'static [&'static str],
}

fn body(page: &Page<'_>, causes: &[Cause]) -> Markup {
    html! {
        a class="skip" href="#responses" { "To the list of responses" }
        main {
            (header(page))
            (limits(page.summary))
            (over_time(page, causes))
            (why::tables(page, causes))
            (risks(page.risks))
            (responses(page))
        }
        footer {
            p {
                b { "proven" } ": the evidence admits no other cause. "
                b { "likely" } ": one cause fits best, a named fact is missing. "
                b { "unknown" } ": no cause is claimed. Times are UTC."
            }
            p { "Made by why502 " (env!("CARGO_PKG_VERSION")) ". This file loads nothing and sends nothing." }
        }
    }
}

fn header(page: &Page<'_>) -> Markup {
    let failed = page.summary.responses.failed;
    html! {
        header {
            p class="brand" { "why502 report" }
            h1 { (counted(failed, "failed response")) }
            p class="meta" {
                @if !page.nodes.is_empty() { "on " b { (visible(&page.nodes.join(", "))) } " · " }
                @if let Some((from, to)) = page.range_ms {
                    time { (date_time(from)) } " – "
                    time { @if date(from) == date(to) { (clock_time(to)) } @else { (date_time(to)) } }
                    " UTC · "
                }
                (format!("{:.1} s", page.summary.seconds)) " · " (visible(page.source))
            }
            ul class="figures" {
                @for confidence in Confidence::ALL {
                    (figure(page.findings.sure(Kind::Verdict, confidence), html! { (chip(confidence)) }))
                }
                (figure(page.findings.count(Kind::NearMiss), html! { "near misses" }))
                @if page.findings.count(Kind::Truncated) > 0 {
                    (figure(page.findings.count(Kind::Truncated), html! { "truncated" }))
                }
                @if !page.risks.is_empty() {
                    (figure(page.risks.len() as u64, html! { "risks" }))
                }
            }
        }
    }
}

fn figure(count: u64, label: Markup) -> Markup {
    html! { li class=[(count == 0).then_some("none")] { b { (grouped(count)) } " " (label) } }
}

/// What was lost and what cannot be seen: said first, and said also when it is nothing.
fn limits(summary: &Summary) -> Markup {
    let lost = summary.lost.get("signals").copied().unwrap_or(0);
    html! {
        @if lost > 0 {
            section class="warn" aria-label="Lost signals" {
                h2 { "⚠ " (counted(lost, "signal")) " lost" }
                p {
                    "A verdict made meanwhile is never proven. "
                    @for (name, count) in summary.lost.iter().filter(|(name, _)| *name != "signals") {
                        code { (visible(name)) } " " (grouped(*count)) " "
                    }
                }
            }
        } @else {
            p class="fine" { "✓ No signal was lost." }
        }
        @if !summary.not_followed.is_empty() {
            p class="fine" {
                "Packets not followed: "
                @for (name, count) in &summary.not_followed {
                    code { (visible(name)) } " " (grouped(*count)) " "
                }
                "(a verdict on a connection that lacks some of them is never proven)"
            }
        }
        @if !summary.blind.is_empty() {
            section class="warn" aria-label="Not to be seen" {
                h2 { "⚠ Not to be seen on this host" }
                ul { @for fact in &summary.blind { li { (visible(fact)) } } }
            }
        }
    }
}

fn over_time(page: &Page<'_>, causes: &[Cause]) -> Markup {
    let starts = page.findings.timeline.starts_ms();
    let mut series: Vec<Series> = Vec::new();
    for (rank, cause) in causes.iter().enumerate() {
        let counts = page.findings.over_time(*cause);
        if counts.iter().all(|count| *count == 0) {
            continue;
        }
        match series
            .last_mut()
            .filter(|last| last.rank >= MARKS.len() - 1)
        {
            // The last colour is everybody's.
            Some(others) => {
                others.name = "other causes";
                others
                    .counts
                    .iter_mut()
                    .zip(counts)
                    .for_each(|(sum, n)| *sum += n);
            }
            None => series.push(Series {
                name: cause.name(),
                rank,
                counts,
            }),
        }
    }
    let width = page.findings.timeline.width_ms();
    html! {
        @if !series.is_empty() {
            section class="when" {
                h2 { "When" }
                p class="legend" {
                    @for one in &series {
                        span { (mark(one.rank)) " " (one.name) " " b { (grouped(one.counts.iter().sum())) } }
                    }
                }
                (chart::stacked(&series, &starts))
                details {
                    summary { "The same as a table, one row for each " (width_text(width)) }
                    div class="wide" {
                        table class="numbers" {
                            thead { tr { th scope="col" { "from" } @for one in &series { th scope="col" { (one.name) } } } }
                            tbody {
                                @for (i, start) in starts.iter().enumerate() {
                                    @if series.iter().any(|s| s.counts[i] > 0) {
                                        tr {
                                            th scope="row" { (date_time(*start)) }
                                            @for one in &series { td { (grouped(one.counts[i])) } }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn risks(risks: &[Risk]) -> Markup {
    html! {
        @if !risks.is_empty() {
            section class="risks" {
                h2 { "Risks: what has not failed yet" }
                ul {
                    @for risk in risks {
                        li {
                            b { (visible(&party(&risk.upstream))) } ": " (visible(&risk.text))
                        }
                    }
                }
            }
        }
    }
}

/// The place of the list; the script fills it.
fn responses(page: &Page<'_>) -> Markup {
    html! {
        section id="responses" tabindex="-1" {
            h2 { "Each response" }
            @if page.left_out > 0 {
                p class="warn" id="left-out" {
                    "⚠ " (grouped(page.listed as u64)) " are listed, the first that came; "
                    (grouped(page.left_out)) " more are counted above and left out here."
                }
            }
            // The script takes it away.
            p class="fine" id="needs-script" { "The list of responses and their ladders need JavaScript; all above does not." }
            // Its namespace is the ladders'.
            svg id="blank" width="0" height="0" hidden {}
            div id="app" hidden {}
        }
    }
}

pub(super) fn chip(confidence: Confidence) -> Markup {
    let mark = match confidence {
        Confidence::Proven => "●",
        Confidence::Likely => "◐",
        Confidence::Unknown => "○",
    };
    html! { span class=(format!("chip {}", confidence.name())) { span aria-hidden="true" { (mark) } " " (confidence.name()) } }
}

fn party(party: &Party) -> String {
    let address = party.address.as_ref().map_or("-", |a| &a.0);
    match party.process.as_ref().and_then(Option::as_ref) {
        Some(name) => format!("{address} ({name})"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_touches_no_markup_and_no_network() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "import(",
            "sendBeacon",
            "</script",
            "<!--",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }
}
