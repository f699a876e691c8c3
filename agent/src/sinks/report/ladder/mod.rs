//! A verdict as a ladder: what passed between client, proxy and upstream, step by step. Pure.
//!
//! The attempt that decided has its evidence; of the other attempts the verdict holds only when
//! they began, when they ended and how. Nothing is drawn that the verdict does not say: a step whose
//! moment is not known has no time.

mod decides;
mod facts;
mod packets;
#[cfg(test)]
mod tests;

pub(in crate::sinks) use decides::evidence as deciding_evidence;

use serde::Serialize;

use crate::cause::Cause;
use crate::packet::PacketSeen;
use crate::verdict::{AttemptLine, Kind, Verdict};

/// Who a line of the ladder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lane {
    Client,
    Proxy,
    Upstream,
}

/// How a step is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shape {
    /// Bytes of a request or response.
    Data,
    /// A connection that is asked for or made.
    Connect,
    /// The sender closes in good order.
    Fin,
    /// The connection is torn down.
    Reset,
    /// It ended before it reached the other side.
    Stopped,
    /// From here on the connection was idle, until the request.
    Idle,
    /// Something that happened at one lane.
    Note,
    /// One packet of a capture, between the steps that are told.
    Packet,
}

/// One step. Its words are a short label; the evidence it stands for has the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Step {
    /// From the response; not known where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at_us: Option<i64>,
    pub(super) from: Lane,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Lane>,
    pub(super) shape: Shape,
    pub(super) label: String,
    /// Which piece of the verdict's evidence this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evidence: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) decides: bool,
    /// Where it stands among the others; its own time, or that of what it followed.
    #[serde(skip)]
    order_us: i64,
}

/// One attempt's steps, in order of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Section {
    /// Only where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    /// How long the attempt's connection had been idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle_us: Option<u64>,
    pub(super) steps: Vec<Step>,
}

/// The whole ladder: attempts one after another. `seen`: packets of the exchange, if a capture has
/// them.
pub(super) fn of(verdict: &Verdict, seen: &[PacketSeen]) -> Vec<Section> {
    let attempts = &verdict.attempts;
    let deciding = deciding_attempt(verdict);
    let mark = decides::evidence(verdict);
    let count = attempts.len().max(1);
    let mut sections: Vec<Section> = (0..count)
        .map(|i| {
            let mut steps = Steps::default();
            if i == 0 {
                client_request(verdict, &mut steps);
            }
            let attempt = attempts.get(i);
            let tells = attempts.is_empty() || Some(i) == deciding;
            if let Some(attempt) = attempt {
                begin(attempt, verdict, tells, &mut steps);
            }
            if tells {
                let unix = attempt.is_some_and(|a| a.upstream.is_unix());
                for (index, evidence) in verdict.evidence.iter().enumerate() {
                    let mut step = facts::step(evidence, unix);
                    step.evidence = Some(index);
                    step.decides = mark == Some(index);
                    steps.add(Some(evidence.at_us), step);
                }
            }
            if let Some(attempt) = attempt {
                end(attempt, verdict, tells, &mut steps);
            }
            if i + 1 == count {
                response(verdict, &mut steps);
            }
            packets::merge(verdict, seen, i, &mut steps);
            Section {
                title: title(attempts, i),
                idle_us: attempt.and_then(|a| a.idle_us),
                steps: steps.sorted(),
            }
        })
        .collect();
    sections.retain(|section| !section.steps.is_empty());
    sections
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, at_us: Option<i64>, mut step: Step) {
        let before = self.0.last().map_or(i64::MIN, |last| last.order_us);
        step.at_us = at_us;
        step.order_us = at_us.unwrap_or(before);
        self.0.push(step);
    }

    fn sorted(mut self) -> Vec<Step> {
        // Stable: what happened at one moment stays in the order in which it was told.
        self.0.sort_by_key(|step| step.order_us);
        self.0
    }
}

pub(super) fn arrow(from: Lane, to: Lane, shape: Shape, label: impl Into<String>) -> Step {
    Step {
        at_us: None,
        from,
        to: Some(to),
        shape,
        label: label.into(),
        evidence: None,
        decides: false,
        order_us: 0,
    }
}

pub(super) fn note(at: Lane, label: impl Into<String>) -> Step {
    Step {
        to: None,
        ..arrow(at, at, Shape::Note, label)
    }
}

/// The attempt that the evidence tells of: the last that failed, or the answer itself.
fn deciding_attempt(verdict: &Verdict) -> Option<usize> {
    let attempts = &verdict.attempts;
    let answered = verdict
        .evidence
        .iter()
        .any(|evidence| evidence.fact == "upstream_answered");
    attempts
        .iter()
        .rposition(|a| (a.outcome == "answered") == answered)
        .or(attempts.len().checked_sub(1))
}

fn client_request(verdict: &Verdict, steps: &mut Steps) {
    let request = &verdict.request;
    let words = [request.method.as_deref(), request.path.as_deref()];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    let label = match words.is_empty() {
        true => "request".to_owned(),
        false => words.join(" "),
    };
    let first = verdict.attempts.first().map(|a| a.at_us);
    let began = verdict
        .duration_us
        .map(|us| -i64::try_from(us).unwrap_or(i64::MAX));
    // Without a time of its own the request is dated by the first attempt: that is no time.
    let at = began.filter(|began| Some(*began) != first);
    let mut step = arrow(Lane::Client, Lane::Proxy, Shape::Data, label);
    step.order_us = 0;
    steps.add(at, step);
    if at.is_none()
        && let Some(last) = steps.0.last_mut()
    {
        last.order_us = first.or(began).unwrap_or(i64::MIN);
    }
}

/// How the attempt got its connection, as far as the evidence does not tell it.
fn begin(attempt: &AttemptLine, verdict: &Verdict, tells: bool, steps: &mut Steps) {
    let has = |fact| tells && has(verdict, fact);
    if attempt.reused {
        let asked = match verdict.evidence.iter().find(|e| e.fact == "request_sent") {
            Some(sent) if tells => sent.at_us,
            _ => attempt.at_us,
        };
        if let Some(idle) = attempt.idle_us.and_then(|us| i64::try_from(us).ok()) {
            let label = "previous response ends";
            let step = arrow(Lane::Upstream, Lane::Proxy, Shape::Idle, label);
            steps.add(Some(asked.saturating_sub(idle)), step);
        }
        if !has("request_sent") && attempt.bytes_sent > 0 {
            steps.add(Some(attempt.at_us), request(attempt));
        }
        return;
    }
    let connected = verdict
        .evidence
        .iter()
        .find(|e| tells && e.fact == "connected");
    // A connect that failed at once is one step, told by its error; one that was answered by a
    // reset had reached somebody.
    let at_once = has("connect_failed") && attempt.duration_us < 1_000 && !has("reset_received");
    let told = connected.is_some_and(|e| e.at_us <= attempt.at_us);
    if !has("connect_began") && !told && !at_once {
        let step = arrow(Lane::Proxy, Lane::Upstream, Shape::Connect, "connect");
        steps.add(Some(attempt.at_us), step);
    }
    let took = attempt.connect_us.and_then(|us| i64::try_from(us).ok());
    if let (None, Some(took)) = (connected, took) {
        let step = arrow(Lane::Upstream, Lane::Proxy, Shape::Connect, "connected");
        steps.add(Some(attempt.at_us.saturating_add(took)), step);
    }
    if !has("request_sent") && attempt.bytes_sent > 0 {
        steps.add(None, request(attempt));
    }
}

fn request(attempt: &AttemptLine) -> Step {
    let label = format!("request, {} bytes", attempt.bytes_sent);
    arrow(Lane::Proxy, Lane::Upstream, Shape::Data, label)
}

/// How the attempt ended, as far as the evidence does not tell it.
fn end(attempt: &AttemptLine, verdict: &Verdict, tells: bool, steps: &mut Steps) {
    if tells && facts::ENDS.iter().any(|fact| has(verdict, fact)) {
        return;
    }
    let lasted = i64::try_from(attempt.duration_us).unwrap_or(i64::MAX);
    let at = attempt.at_us.saturating_add(lasted);
    let unix = attempt.upstream.is_unix();
    steps.add(Some(at), facts::outcome(attempt.outcome, unix));
}

fn response(verdict: &Verdict, steps: &mut Steps) {
    let label = match (verdict.kind, verdict.status) {
        (Kind::NearMiss, None) => return,
        (Kind::Truncated, _) => "response cut short".to_owned(),
        (_, Some(status)) => status.to_string(),
        (Kind::Verdict, None) => "failed response, status not seen".to_owned(),
    };
    let shape = match verdict.kind {
        Kind::Truncated => Shape::Stopped,
        Kind::Verdict | Kind::NearMiss => Shape::Data,
    };
    // A client that left got none.
    if verdict.cause == Cause::DownstreamGaveUp {
        return;
    }
    steps.add(Some(0), arrow(Lane::Proxy, Lane::Client, shape, label));
}

fn title(attempts: &[AttemptLine], i: usize) -> Option<String> {
    let attempt = attempts.get(i).filter(|_| attempts.len() > 1)?;
    let on = match attempt.reused {
        true => "on a reused connection",
        false => "on a new connection",
    };
    Some(format!(
        "attempt {} of {}: {} {on}",
        i + 1,
        attempts.len(),
        attempt.upstream
    ))
}

fn has(verdict: &Verdict, fact: &str) -> bool {
    verdict.evidence.iter().any(|e| e.fact == fact)
}
