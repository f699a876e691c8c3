//! `upstream_answered`, where nothing but order ties the attempt to the request: FastCGI and uwsgi carry no
//! request that could be compared, and nginx has not ended the attempt when it answers.
//!
//! Needs: an attempt begun for this request that was answered with the client's own status, and nginx's
//! access line, which names the request. It says the upstream's status as well; or nginx's error log is
//! read and has no line about it. What nginx decides by itself it says there, but for the answers that
//! its configuration makes, and those wait for no upstream.
//!
//! Confused with an answer of nginx's own to a request before which its thread had begun an attempt for
//! another, delayed one.

use crate::cause::Cause;
use crate::signal::{LinkOrder, Software, Source};
use crate::track::told::Told;
use crate::verdict::Confidence;

use super::answered::status;
use super::finding::Finding;
use super::{Case, Tried, log};

/// What the line says of an upstream's error that is only not tied.
pub(super) fn told(case: &Case<'_>, tried: &Tried, finding: Finding) -> Finding {
    let Some(told) = case.told.filter(|told| told.has_access && !told.ambiguous) else {
        return finding;
    };
    let untied = |missing: &String| missing.starts_with("exchange_link");
    let only_untied =
        finding.confidence == Confidence::Likely && finding.missing.iter().all(untied);
    let passed_on = finding.cause == Cause::UpstreamAnswered && only_untied;
    if !passed_on || !case.surely_told || !may_be_its_own(case, tried, told) {
        return finding;
    }
    let says = says_upstream(tried, told);
    if !(says || told.tries.is_empty() && log::silent(case, told)) {
        return finding;
    }
    if !says && !case.deadline_passed {
        // The error's line may still come.
        return finding.settled_if(false);
    }
    let text = match says {
        true => "nginx: the upstream's own status was passed on",
        false => "nginx: this status, and the error log has no line about it",
    };
    let finding = Finding {
        confidence: Confidence::Proven,
        missing: Vec::new(),
        ..finding
    };
    finding
        .with_log_facts(vec![(told.from, Source::Log, text.to_owned())])
        .settled()
}

/// It was begun when nginx had read this request, and answered with what the client got.
fn may_be_its_own(case: &Case<'_>, tried: &Tried, told: &Told) -> bool {
    let (Some(response), Source::Kernel) = (case.response, case.source) else {
        return false;
    };
    let attempt = &tried.attempt;
    let process = case.host.process(attempt.proxy);
    let nginx = process.is_some_and(|process| process.software == Software::Nginx);
    let begun_for_it = attempt.downstream.as_ref().is_some_and(|link| {
        let request = (response.downstream, response.ordinal);
        link.order != LinkOrder::Unclear && (link.flow, link.ordinal) == request
    });
    let answered = status(attempt);
    let same = answered.is_some() && answered == response.status && answered == told.status;
    nginx && begun_for_it && same
}

/// The line has this upstream's status beside the client's.
fn says_upstream(tried: &Tried, told: &Told) -> bool {
    told.tries.last().is_some_and(|(_, last)| {
        let this = last.upstream.as_ref() == Some(&tried.attempt.upstream);
        this && last.status.is_some() && last.status == status(&tried.attempt)
    })
}
