//! Why: a row for each cause at each upstream, with its bars and what to change.

use maud::{Markup, html};

use super::chart::{self, mark};
use super::findings::Finding;
use super::page::{Page, chip};
use super::words::grouped;
use crate::cause::Cause;
use crate::sinks::visible;
use crate::verdict::{Advice, Confidence, Kind, Setting};

/// Findings that are told with their advice; the others have their row alone.
const ADVISED: usize = 20;

pub(super) fn tables(page: &Page<'_>, causes: &[Cause]) -> Markup {
    let rank = |cause: Cause| {
        causes
            .iter()
            .position(|c| *c == cause)
            .unwrap_or(usize::MAX)
    };
    html! {
        @for (kind, heading) in [
            (Kind::Verdict, "Why"),
            (Kind::Truncated, "Responses cut short"),
            (Kind::NearMiss, "Near misses: failures that no client saw as one"),
        ] {
            @let found = page.findings.of(kind);
            @if !found.is_empty() {
                section class="why" {
                    h2 { (heading) }
                    table {
                        thead { tr {
                            th scope="col" { "cause" } th scope="col" { "upstream" }
                            th scope="col" class="n" { "count" } th scope="col" { "confidence" }
                            th scope="col" { "over time" } th scope="col" { "first – last" }
                        } }
                        @for (i, finding) in found.iter().enumerate() {
                            (row(page, finding, rank(finding.cause), i < ADVISED))
                        }
                    }
                }
            }
        }
        @if page.findings.count(Kind::Verdict) == 0 {
            p class="fine" { "No response failed in this time." }
        }
    }
}

fn row(page: &Page<'_>, finding: &Finding, rank: usize, advised: bool) -> Markup {
    let counts = page.findings.timeline.counts(finding.series);
    html! {
        tbody {
            tr {
                th scope="row" { (mark(rank)) " " (finding.cause.name()) }
                td class="name" {
                    (finding.upstream.as_deref().map_or_else(|| "other upstreams".to_owned(), visible))
                    @if let Some(process) = &finding.process { " " span class="soft" { (visible(process)) } }
                }
                td class="n" { b { (grouped(finding.count)) } }
                td {
                    @for confidence in Confidence::ALL {
                        @if let Some(count) = finding.confidences.get(&confidence) {
                            span class="sure" { (chip(confidence)) " " (grouped(*count)) } " "
                        }
                    }
                }
                td { (chart::spark(&counts, rank)) }
                td class="soft span" { (finding.first.get(11..19).unwrap_or("")) " – " (finding.last.get(11..19).unwrap_or("")) }
            }
            tr class="more" {
                td colspan="6" {
                    p class="meaning" { (finding.cause.sentence()) }
                    @if advised { (advice(&finding.advice)) }
                }
            }
        }
    }
}

fn advice(advice: &Advice) -> Markup {
    html! {
        @if !advice.text.is_empty() { p { (visible(&advice.text)) } }
        @if !advice.settings.is_empty() {
            ul class="settings" {
                @for setting in &advice.settings {
                    li {
                        @if setting.alternative_to.is_some() { span class="soft" { "or " } }
                        (visible(&setting.software)) " " code { (visible(&setting.name)) }
                        ": " b { (visible(&setting.suggested)) }
                        @if let Some(observed) = observed(setting) {
                            span class="soft" { ", now " (visible(&observed)) }
                        }
                        @if let Some(risk) = &setting.risk {
                            span class="soft" { " (risk: " (visible(risk)) ")" }
                        }
                    }
                }
            }
        }
    }
}

fn observed(setting: &Setting) -> Option<String> {
    let seconds = setting.observed_seconds.map(|s| format!("{s} s"));
    let value = setting.observed.clone().or(seconds)?;
    let from = setting.observed_from.map(|from| from.replace('_', " "));
    Some(from.map_or(value.clone(), |from| format!("{value} (from the {from})")))
}
