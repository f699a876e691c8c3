//! From the facts of one failed exchange to its cause, how sure it is, and the evidence. Pure.

mod advice;
mod answered;
mod closes;
mod connect;
mod deaths;
mod evidence;
mod finding;
mod handshake;
mod keepalive_race;
mod known;
mod link;
mod log;
mod no_attempt;
mod passed_on;
mod protocol;
mod proxy_fds;
mod risk;
mod said;
mod syn_backlog;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod timeouts;
mod unix_connect;
mod unread;
mod untied;
mod waiting;

use crate::cause::{Cause, Variant};
use crate::signal::{Attempt, End, FlowClosed, Nanos, Response, Said, Source};
use crate::track::host::Host;
use crate::track::told::Told;
use crate::verdict::Confidence;

pub use advice::{advise, advise_in_front};
pub(crate) use answered::refuses_with;
use finding::Finding;
use known::Known;
pub(crate) use link::same_request;
pub(crate) use log::{asks_nobody, ended_so};
pub use risk::risk_text;

/// Everything known of one exchange in which an attempt failed, or that the proxy failed.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// In order; the last is the one that decided the response. Empty where the proxy answered by itself.
    pub attempts: &'a [Tried],
    /// The proxy's response; `None` while (or because) it sent none.
    pub response: Option<&'a Response>,
    /// When that began, or the last thing happened.
    pub answered_at: Nanos,
    /// Where the response was seen, or else the last attempt.
    pub source: Source,
    /// What is known of processes, listeners and upstreams on this host.
    pub host: &'a Host,
    /// What lines of logs say about it.
    pub told: Option<&'a Told>,
    /// They name its request and client, and can be about no other exchange.
    pub surely_told: bool,
    /// They can be about no other exchange, and say of the last attempt's upstream what was seen of that
    /// attempt, the only one that can be meant.
    pub named: bool,
    /// Signals lost since the exchange began: with any, nothing is proven.
    pub lost: u64,
    /// The time to wait for late facts is over: decide with what is there.
    pub deadline_passed: bool,
}

/// An attempt and what was learned after it had ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// When the attempt ended.
    pub at: Nanos,
    pub source: Source,
    pub attempt: Attempt,
    pub closed: Option<FlowClosed>,
    /// What the proxy's log says of its end, and when that was written.
    pub said: Option<(Nanos, Said)>,
}

/// The answer for one attempt, or for a whole case.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    pub cause: Cause,
    pub variant: Option<Variant>,
    pub confidence: Confidence,
    /// Facts that would have decided, by name, each with a few words: "upstream_read: the upstream is on another host".
    pub missing: Vec<String>,
    /// In order of time.
    pub evidence: Vec<Fact>,
    /// No later fact can change this: the verdict may be given at once.
    pub settled: bool,
    /// The exit of a process that was killed or told to stop is still to come: worth a longer wait than
    /// other facts, so long after the response.
    pub awaits_exit: Option<Nanos>,
    /// The proxy's log does not admit this cause.
    pub contradicted: bool,
}

/// One piece of evidence on the monotonic clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub at: Nanos,
    /// snake_case name.
    pub name: &'static str,
    pub text: String,
    pub source: Source,
}

/// Why the exchange failed: the cause of the attempt that decided the response.
///
/// Of an exchange that a later attempt saved, it is the cause of the last one that failed.
pub fn diagnose(case: &Case<'_>) -> Diagnosis {
    if case.source == Source::Log {
        return conclude(case, log::diagnose(case), Vec::new());
    }
    if let Some(last) = answered::answering(case)
        && let Some(finding) = answered::diagnose(last, case.response)
    {
        let at = case
            .attempts
            .last()
            .map_or(last.began, |t| t.at.max(last.began));
        let tried = Tried {
            at,
            source: case.source,
            attempt: last.clone(),
            closed: None,
            said: case.attempts.last().and_then(|t| t.said),
        };
        let finding = match (Known {
            case,
            tried: &tried,
        })
        .blind()
        {
            Some(missing) if case.source == Source::Packets => finding.at_most_likely(missing),
            _ => finding,
        };
        return finish(case, Some(&tried), finding);
    }
    let failed = |tried: &&Tried| tried.attempt.end != End::Answered;
    match case.attempts.iter().rev().find(failed) {
        Some(tried) => finish(case, Some(tried), of_attempt(&Known { case, tried })),
        None if let Some((tried, finding)) = not_understood(case) => {
            finish(case, Some(tried), finding)
        }
        None => {
            let untied = case.response.and_then(|r| r.untied.as_ref());
            let finding = untied.map(|untied| untied::diagnose(untied, case.source));
            finish(
                case,
                None,
                finding.unwrap_or_else(|| no_attempt::diagnose(case)),
            )
        }
    }
}

/// What the last attempt was answered with is no HTTP, and the proxy failed the request for it.
fn not_understood<'a>(case: &'a Case<'_>) -> Option<(&'a Tried, Finding)> {
    let tried = case.attempts.last()?;
    let known = Known { case, tried };
    let response = case.response?;
    let finding = no_http(&known, response).or_else(|| handshake::refused(&known, response))?;
    Some((tried, finding))
}

fn no_http(known: &Known<'_>, response: &Response) -> Option<Finding> {
    response.status.filter(|status| *status >= 500)?;
    let finding = protocol::diagnose(known).filter(|_| known.attempt().received > 0)?;
    Some(match known.blind() {
        Some(missing) => finding.at_most_likely(missing),
        None => finding,
    })
}

/// Whether it is clear that this attempt led to the response.
pub(crate) fn is_tied(case: &Case<'_>, attempt: &Attempt) -> bool {
    link::check(case, attempt).is_ok()
}

/// Why one of the exchange's attempts failed; `None` for one that was answered well.
pub fn diagnose_attempt(case: &Case<'_>, tried: &Tried) -> Option<Diagnosis> {
    if tried.source == Source::Log {
        let answered = tried.attempt.end == End::Answered && tried.said.is_none();
        return (!answered).then(|| conclude(case, log::of_attempt(case, tried), Vec::new()));
    }
    let known = Known { case, tried };
    let finding = match tried.attempt.end {
        End::Answered => answered::diagnose(&tried.attempt, case.response)
            .or_else(|| no_http(&known, case.response?))
            .or_else(|| handshake::refused(&known, case.response?))?,
        _ => of_attempt(&known),
    };
    let evidence = evidence::of_attempt(&known);
    Some(conclude(case, finding, evidence))
}

fn of_attempt(known: &Known<'_>) -> Finding {
    let finding = unread::of_http2(known, handshake::instead(known, by_end(known)));
    match known.blind() {
        Some(missing) => finding.at_most_likely(missing),
        None => finding,
    }
}

fn by_end(known: &Known<'_>) -> Finding {
    match known.attempt().end {
        End::ConnectFailed { errno } if known.unix() => unix_connect::failed(known, errno),
        End::ConnectFailed { errno } => connect::failed(known, errno),
        End::ConnectGivenUp => timeouts::diagnose(known),
        End::GivenUp | End::Answered => protocol::diagnose(known)
            .filter(|_| known.attempt().received > 0)
            .or_else(|| answered::refused(known))
            .unwrap_or_else(|| timeouts::diagnose(known)),
        End::PeerClosed | End::Reset | End::SendFailed { .. } => protocol::diagnose(known)
            .or_else(|| closes::unaccepted(known))
            .or_else(|| keepalive_race::diagnose(known))
            .or_else(|| deaths::diagnose(known))
            .unwrap_or_else(|| closes::diagnose(known)),
    }
}

fn finish(case: &Case<'_>, tried: Option<&Tried>, mut finding: Finding) -> Diagnosis {
    let mut evidence = Vec::new();
    if let Some(tried) = tried {
        let known = Known { case, tried };
        evidence = evidence::of_attempt(&known);
        if let Err(missing) = link::check(case, &tried.attempt) {
            finding = match finding.confidence {
                Confidence::Likely => finding.also_missing(missing),
                _ => finding.at_most_likely(missing),
            };
        }
        finding = passed_on::told(case, tried, finding);
        finding = log::beside(case, Some(&known), finding);
    } else {
        finding = log::beside(case, None, finding);
    }
    conclude(case, finding, evidence)
}

fn conclude(case: &Case<'_>, mut finding: Finding, mut evidence: Vec<Fact>) -> Diagnosis {
    if case.lost > 0 {
        finding = finding.at_most_likely(format!("signals: {} were lost meanwhile", case.lost));
    }
    if case.source == Source::Kernel && case.host.blind_to("socket_identity") {
        let missing = "socket_identity: a socket is not told from the one before it at its address";
        finding = finding.at_most_likely(missing);
    }
    evidence.append(&mut finding.facts);
    evidence.sort_by_key(|fact| fact.at);
    evidence.dedup();
    if finding.confidence == Confidence::Proven {
        finding.missing.clear();
    }
    Diagnosis {
        cause: finding.cause,
        variant: finding.variant,
        confidence: finding.confidence,
        missing: finding.missing,
        evidence,
        settled: finding.settled || case.deadline_passed,
        awaits_exit: finding.awaits_exit,
        contradicted: finding.contradicted,
    }
}
