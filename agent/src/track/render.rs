//! A decided exchange as a verdict of the contract. Pure: the clock's offset is given.

use crate::diagnose::Diagnosis;
use crate::signal::{Attempt, End, Home, LinkOrder, Nanos, Opening, Process, Response, Source};
use crate::track::told::unnamed;
use crate::track::{Decided, host::Host};
use crate::verdict::{AttemptLine, Client, Evidence, Kind, Party, Request, VERSION, Verdict};

/// Names a moment and a line; made by the caller, who knows the wall clock.
pub struct Stamp {
    pub id: String,
    pub time: String,
    pub node: String,
}

/// The verdict for a decided exchange.
pub fn verdict(decided: &Decided, host: &Host, stamp: Stamp) -> Verdict {
    let response = decided.response.as_ref().map(|(_, _, response)| response);
    let last = decided.attempts.last().map(|t| &t.attempt);
    let response_source = decided.response.as_ref().map(|(_, source, _)| *source);
    let certain = decided.told.as_ref().filter(|told| !told.ambiguous);
    let told_status = certain.and_then(|told| told.status);
    let seen_status = response.and_then(|r| r.status);
    let status = seen_status.or(told_status.filter(|s| decided.kind == Kind::Verdict && *s != 499));
    let of_log = decided.status_of_log || seen_status.is_none();
    let status_source = if of_log {
        Some(Source::Log)
    } else {
        response_source
    };
    let source = response_source.or_else(|| decided.attempts.last().map(|t| t.source));
    let proxy = response.map(|r| r.proxy).or(last.map(|a| a.proxy));
    // From packets it is who serves the address: which of the proxy's processes had the request
    // is not known.
    let proxy_pid = proxy.filter(|pid| source != Some(Source::Packets) && *pid != 0);
    let named_by_log = decided.told.as_ref().and_then(|told| told.proxy);
    Verdict {
        kind: decided.kind,
        version: VERSION,
        id: stamp.id,
        time: stamp.time,
        node: stamp.node,
        status,
        status_source: status.and(status_source),
        // The proxy failed the exchange, and the client saw a status that does not say so.
        status_rewritten: decided.kind == Kind::Verdict && status.is_some_and(|s| s < 500),
        cause: decided.diagnosis.cause,
        variant: decided.diagnosis.variant,
        confidence: decided.diagnosis.confidence,
        duration_us: duration(decided, response),
        proxy: Party {
            name: Some(
                proxy
                    .and_then(|pid| host.process(pid))
                    .map(|p| p.name.clone())
                    .or_else(|| named_by_log.map(|software| software.process_name().to_owned()))
                    .unwrap_or_else(|| "unknown".to_owned()),
            ),
            address: response
                .and_then(|r| r.proxy_address.clone())
                .or_else(|| link_of(last)?.proxy_address.clone()),
            pid: proxy_pid,
            ..home(proxy.and_then(|pid| host.process(pid)))
        },
        client: Client {
            address: response
                .and_then(|r| r.client.clone())
                .or_else(|| link_of(last)?.client.clone()),
        },
        request: request(decided, response, last),
        upstream: upstream(decided, host),
        attempts: decided
            .attempts
            .iter()
            .zip(&decided.causes)
            .map(|(tried, cause)| line(tried.at, &tried.attempt, cause.as_ref(), decided.at))
            .collect(),
        evidence: decided
            .diagnosis
            .evidence
            .iter()
            .map(|fact| Evidence {
                at_us: micros(fact.at, decided.at),
                fact: fact.name,
                text: fact.text.clone(),
                source: fact.source,
            })
            .collect(),
        missing: decided.diagnosis.missing.clone(),
        advice: decided.advice.clone(),
        lost_signals: decided.lost,
        contradicted: decided.diagnosis.contradicted,
        at: decided.at,
        delay_ns: decided.decided.saturating_sub(decided.at),
    }
}

/// The downstream that the attempt was made for, unless the proxy merely read from it last.
fn link_of(attempt: Option<&Attempt>) -> Option<&crate::signal::Link> {
    let attempt = attempt?;
    let link = attempt.downstream.as_ref()?;
    let path = |opening: Option<&Opening>| match opening {
        Some(Opening::HttpRequest { path, .. }) => Some(path.clone()),
        _ => None,
    };
    let asked = path(attempt.request.as_ref().map(|r| &r.opening));
    let same = asked.is_some() && asked == path(link.request.as_ref());
    let readable = path(link.request.as_ref()).is_some();
    (link.order != LinkOrder::Unclear || same || !readable).then_some(link)
}

fn duration(decided: &Decided, response: Option<&Response>) -> Option<u64> {
    let began = response
        .and_then(|r| r.request_at)
        .or_else(|| decided.attempts.first().map(|t| t.attempt.began))?;
    Some(decided.at.saturating_sub(began) / 1000)
}

/// What the client asked for, else what the proxy asked the upstream for.
fn request(decided: &Decided, response: Option<&Response>, last: Option<&Attempt>) -> Request {
    let told = decided.told.as_ref();
    let told = told.filter(|told| told.alone && !told.ambiguous);
    let candidates = [
        response.and_then(|r| r.request.as_ref()),
        link_of(last).and_then(|link| link.request.as_ref()),
        told.and_then(|told| told.request.as_ref()),
        last.and_then(|a| a.request.as_ref()).map(|r| &r.opening),
    ];
    let mut request = Request::default();
    for opening in candidates.into_iter().flatten() {
        let Opening::HttpRequest {
            method, path, host, ..
        } = opening
        else {
            continue;
        };
        request.method.get_or_insert_with(|| method.clone());
        request.path.get_or_insert_with(|| path.clone());
        if request.host.is_none() {
            request.host.clone_from(host);
        }
    }
    request
}

/// The upstream of the attempt that decided, and the process behind it.
fn upstream(decided: &Decided, host: &Host) -> Party {
    let Some(last) = decided.attempts.last().map(|t| &t.attempt) else {
        return Party {
            process: Some(None),
            ..Party::default()
        };
    };
    let peer = last.peer.as_ref();
    let pid = peer
        .and_then(|p| p.reader.as_ref().map(|r| r.pid))
        .or_else(|| {
            peer.and_then(|p| p.closed.as_ref().map(|c| c.pid))
                .filter(|pid| *pid != 0)
        })
        .or_else(|| host.listener(last).map(|l| l.fact.pid));
    Party {
        address: Some(last.upstream.clone()).filter(|address| *address != unnamed()),
        process: Some(
            pid.and_then(|pid| host.process(pid))
                .map(|p| p.name.clone()),
        ),
        pid,
        ..home(pid.and_then(|pid| host.process(pid)))
    }
}

/// A party of which only is said what its process runs in.
pub fn home(process: Option<&Process>) -> Party {
    let home = process.map_or_else(Home::default, |process| process.home.clone());
    Party {
        container: home.container,
        namespace: home.namespace,
        workload: home.workload,
        pod: home.pod,
        ..Party::default()
    }
}

fn line(ended: Nanos, attempt: &Attempt, cause: Option<&Diagnosis>, at: Nanos) -> AttemptLine {
    AttemptLine {
        upstream: attempt.upstream.clone(),
        local: attempt.local.clone(),
        at_us: micros(attempt.began, at),
        reused: attempt.reused,
        requests_before: attempt.requests_before,
        idle_us: attempt.idle_ns.map(|ns| ns / 1000),
        connect_us: attempt
            .connected
            .map(|c| c.saturating_sub(attempt.began) / 1000),
        duration_us: ended.saturating_sub(attempt.began) / 1000,
        bytes_sent: attempt.request.as_ref().map_or(0, |r| r.bytes),
        bytes_received: attempt.received,
        outcome: outcome(attempt.end),
        cause: cause.map(|d| d.cause),
        isn: attempt.tcp.as_ref().and_then(|tcp| tcp.isn),
    }
}

fn outcome(end: End) -> &'static str {
    match end {
        End::ConnectFailed { .. } => "connect_failed",
        End::ConnectGivenUp => "connect_given_up",
        End::PeerClosed => "peer_closed",
        End::Reset => "reset",
        End::SendFailed { .. } => "send_failed",
        End::GivenUp => "given_up",
        End::Answered => "answered",
    }
}

fn micros(fact: Nanos, at: Nanos) -> i64 {
    (fact as i64 - at as i64) / 1000
}
