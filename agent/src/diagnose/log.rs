//! Verdicts from logs alone, and the proxy's own word beside what another source saw.
//!
//! Needs: a statement of the proxy (`said`). Alone it is never more than `likely`. Beside the
//! kernel's or the packets' facts it corroborates, decides what those facts leave to the proxy's
//! log, or contradicts; then the facts win and the verdict shows both.

use crate::cause::{Cause, Variant};
use crate::settings;
use crate::signal::{
    Attempt, End, Nanos, Opening, Said, ServerLine, ServerSaid, Software, Source, TlsFault,
};
use crate::track::host::SECOND;
use crate::track::told::{Told, unnamed};
use crate::verdict::Confidence;

use super::finding::Finding;
use super::known::Known;
use super::no_attempt::was_answered;
use super::said::{Place, admits, deciders, variant, words};
use super::{Case, Tried};
use super::{link, proxy_fds};

/// How long before a proxy says that no upstream is left, those failed.
const FAILED_BEFORE: Nanos = 15 * SECOND;

type LogFacts = Vec<(Nanos, Source, String)>;

const ONLY_LOG: &str =
    "kernel_facts: the proxy's own word alone; kernel facts or packets would prove it";

const BY_THREAD: &str = "exchange_link: the line names the thread that answered, not the request";

/// The whole case, from lines alone.
pub(super) fn diagnose(case: &Case<'_>) -> Finding {
    let Some(told) = case.told else {
        return Finding::unknown("proxy_log: nothing is known of this exchange").settled();
    };
    let failed = |t: &&Tried| t.attempt.end != End::Answered || t.said.is_some();
    let last = case.attempts.iter().rev().find(failed);
    let finding = match (last, told.said) {
        (_, Some((at, said))) => alone(case, told, Some((at, said)), Place::Unnamed),
        (Some(tried), None) => return of_attempt(case, tried),
        (None, None) => without_statement(case, told),
    };
    limited_by(told, finding)
}

/// One try, from lines alone.
pub(super) fn of_attempt(case: &Case<'_>, tried: &Tried) -> Finding {
    let Some(told) = case.told else {
        return Finding::unknown("proxy_log: nothing is known of this exchange").settled();
    };
    let place = match tried.attempt.upstream == unnamed() {
        true => Place::Unnamed,
        false => Place::of(&tried.attempt.upstream.0),
    };
    let finding = match tried.said {
        None if case.attempts.len() == 1 => without_statement(case, told),
        said => alone(case, told, said, place),
    };
    limited_by(told, finding)
}

/// Lines that may belong to another exchange name no cause.
fn limited_by(told: &Told, finding: Finding) -> Finding {
    if !told.ambiguous {
        return finding;
    }
    let mut unknown =
        Finding::unknown("exchange_link: lines of another request fit as well, and say otherwise");
    unknown.facts = finding.facts;
    unknown.settled()
}

fn alone(case: &Case<'_>, told: &Told, said: Option<(Nanos, Said)>, place: Place) -> Finding {
    let Some((at, said)) = said else {
        return without_statement(case, told);
    };
    let (mut causes, mut facts) = admitted(case, told, (at, said), place);
    let mut shape = variant(said);
    if let Some((at, line, cause, died_of)) = by_server(case, told, &causes) {
        causes = vec![cause];
        shape = died_of;
        facts.push((at, Source::Log, server_words(line)));
    }
    if told.has_error && !told.has_access && case.host.sees("access_log") {
        return Finding::unknown("access_log: no line of it goes with this error")
            .with_log_facts(of_proxy(told, facts))
            .settled();
    }
    let finding = match causes[..] {
        [cause] => {
            let finding = Finding::likely(cause, ONLY_LOG);
            let fits = shape.filter(|v| cause.variants().contains(v));
            finding.variant(fits)
        }
        [] => Finding::unknown("connect_errno: this error names no cause"),
        _ => {
            let mut missing = deciders(Some(said)).iter();
            let first = missing.next().copied().unwrap_or("proxy_log: nothing more");
            missing
                .fold(Finding::unknown(first), |finding, m| {
                    finding.also_missing(*m)
                })
                .also_missing(listed(&causes))
        }
    };
    let finding = match told.has_access {
        true => finding,
        false => finding.also_missing("access_log: the status, and whether a further try saved it"),
    };
    finding.with_log_facts(of_proxy(told, facts)).settled()
}

/// The causes that a statement admits, and the lines that say so.
fn admitted(
    case: &Case<'_>,
    told: &Told,
    (at, said): (Nanos, Said),
    place: Place,
) -> (Vec<Cause>, LogFacts) {
    let mut causes = admits(said, told.proxy, place);
    let mut facts = vec![(at, Source::Log, words(said))];
    if said == Said::NoLiveUpstreams && causes.len() > 1 {
        // No failure leads to what else it may be. Envoy's other clusters fail beside one whose name
        // was not resolved.
        let below = told.proxy == Some(Software::Envoy);
        let before = case.host.proxy_failed_before(told, FAILED_BEFORE, below);
        if let Some((failed_at, failure)) = before {
            causes.retain(|cause| *cause == Cause::NoLiveUpstreams);
            let upstream = super::text::clean(&failure.upstream.0);
            let text = format!("before, {upstream}: {}", words(failure.said));
            facts.push((failed_at, Source::Log, text));
        } else if told.proxy == Some(Software::Haproxy) {
            // Its own checks take out most of these, and its log has lines about names.
            causes.retain(|cause| *cause == Cause::NoLiveUpstreams);
        }
    }
    if said == Said::Denied {
        match (case.host.passed_on_before(told), told.proxy) {
            (Some(passed_at), Some(Software::Haproxy)) => {
                causes.retain(|cause| *cause == Cause::ProxyLimit);
                let text = "before, it passed such a request of this client on".to_owned();
                facts.push((passed_at, Source::Log, text));
            }
            // Of its limits most have a flag of their own; the others let some requests through.
            (None, Some(Software::Envoy)) => causes.retain(|cause| *cause == Cause::ProxyConfig),
            _ => {}
        }
    }
    (causes, facts)
}

/// Says whose log it was.
fn of_proxy(told: &Told, facts: LogFacts) -> LogFacts {
    let name = told.proxy.map_or("the access log", Software::process_name);
    let say = |text: String| match text.starts_with("the server says") {
        true => text,
        false => format!("{name}: {text}"),
    };
    facts
        .into_iter()
        .map(|(at, source, text)| (at, source, say(text)))
        .collect()
}

/// `log: it admits a, b and c`
fn listed(causes: &[Cause]) -> String {
    let names: Vec<&str> = causes.iter().map(|c| c.name()).collect();
    let (last, rest) = names.split_last().unwrap_or((&"nothing", &[]));
    format!("log: this line admits {} and {last}", rest.join(", "))
}

/// The proxy writes its errors to a log that is read, and wrote none about this exchange.
pub(super) fn silent(case: &Case<'_>, told: &Told) -> bool {
    let sees = |log| case.host.sees(log);
    let error_log = (nginx(told) && sees("nginx_error_log"))
        || (matches!(told.proxy, Some(Software::Apache) | None) && sees("apache_error_log"))
        || (told.proxy == Some(Software::Caddy) && sees("caddy_error_log"))
        // Each line of its has the errors of its request.
        || (told.proxy == Some(Software::H2o) && told.tries.is_empty());
    error_log && !told.has_error && case.host.lines_believed(told.from, told.to)
}

fn nginx(told: &Told) -> bool {
    matches!(told.proxy, Some(Software::Nginx) | None)
}

/// The log that is read is of a proxy that has a line there for each request that it fails, but for those
/// that it fails as it is configured to. Others write access lines like nginx's, and not each error.
fn tells_all(case: &Case<'_>, told: &Told) -> bool {
    let process = case.response.and_then(|r| case.host.process(r.proxy));
    match process.map(|process| process.software) {
        None | Some(Software::Nginx | Software::Other) => nginx(told),
        Some(software @ (Software::Caddy | Software::H2o)) => told.proxy == Some(software),
        Some(Software::Apache) => {
            // A line that names no request may be about this one.
            let told_of = |r| case.host.may_be_said_of(case.answered_at, r);
            matches!(told.proxy, Some(Software::Apache) | None)
                && case.host.sees("apache_error_log")
                && !case.response.is_some_and(told_of)
                // It says nothing of streams that their upstreams end (2.4, mod_proxy_http2).
                && process.is_some_and(|p| settings::find(p, &["proxy-http2-module"]).is_none())
        }
        _ => false,
    }
}

/// Whatever else these decide by themselves they say in their error log.
fn made_by_configuration(told: &Told) -> Finding {
    let fact = "no upstream was tried, and the error log has no line about it".to_owned();
    let missing = "proxy_configuration: the rule that makes this response";
    Finding::likely(Cause::ProxyConfig, missing)
        .with_log_facts(of_proxy(told, vec![(told.from, Source::Log, fact)]))
        .settled()
}

/// Only a status is known.
fn without_statement(case: &Case<'_>, told: &Told) -> Finding {
    let silent = silent(case, told);
    if told.untried && silent && nginx(told) {
        return made_by_configuration(told);
    }
    let finding = if told.proxy == Some(Software::Haproxy) && told.tries.len() > 1 {
        Finding::unknown("proxy_log: why the tries before failed: it only counts them")
    } else if silent {
        Finding::unknown(listed(&[Cause::UpstreamAnswered, Cause::ProxyConfig]))
            .also_missing("upstream_status: whether an upstream was asked, and what it answered")
    } else {
        Finding::unknown("proxy_error_log: why the proxy failed the request")
    };
    finding.settled()
}

/// What the log of the upstream's server says about the moment at which it went away.
fn by_server<'a>(
    case: &Case<'a>,
    told: &Told,
    causes: &[Cause],
) -> Option<(Nanos, &'a ServerLine, Cause, Option<Variant>)> {
    if !causes.contains(&Cause::WorkerTimeoutKilled) {
        return None;
    }
    let address = case.attempts.last().map(|t| &t.attempt.upstream);
    let address = address.filter(|address| **address != unnamed());
    let of_upstream = |line: &ServerLine| {
        line.listens.is_empty() || address.is_none_or(|a| line.listens.contains(a))
    };
    let near: Vec<_> = case
        .host
        .server_lines(told.from, told.to)
        .filter(|(_, line)| of_upstream(line))
        .collect();
    // A worker that was killed for its time may be told to have died of it as well.
    let timed_out = near.iter().find(|(_, l)| l.said == ServerSaid::TimedOut);
    let stops = near.iter().find(|(_, l)| l.said == ServerSaid::Stops);
    let died = || {
        near.iter()
            .find(|(_, l)| matches!(l.said, ServerSaid::Died { .. }))
    };
    let (at, line) = timed_out.or(stops).copied().or_else(|| died().copied())?;
    let (cause, variant) = match line.said {
        ServerSaid::TimedOut => (Cause::WorkerTimeoutKilled, None),
        ServerSaid::Stops => (Cause::UpstreamShutdown, None),
        // By whom, and whether for memory, is not in it.
        ServerSaid::Died { signal: Some(9) } => return None,
        ServerSaid::Died { signal: Some(15) } => (Cause::UpstreamShutdown, None),
        ServerSaid::Died { signal: Some(_) } => (Cause::WorkerCrashed, Some(Variant::Signal)),
        ServerSaid::Died { signal: None } => (Cause::WorkerCrashed, Some(Variant::Exit)),
    };
    // More workers than one went then: which had this request is not told.
    let workers: std::collections::BTreeSet<_> = near.iter().filter_map(|(_, l)| l.pid).collect();
    (workers.len() <= 1).then_some((*at, line, cause, variant))
}

fn server_words(line: &ServerLine) -> String {
    let worker = line
        .pid
        .map_or_else(|| "a worker".to_owned(), |pid| format!("worker {pid}"));
    match line.said {
        ServerSaid::TimedOut => format!("the server says that it killed {worker} for its timeout"),
        ServerSaid::Stops => "the server says that it stops or reloads".to_owned(),
        ServerSaid::Died {
            signal: Some(signal),
        } => {
            format!(
                "the server says that {worker} ended by {}",
                super::text::signal(signal)
            )
        }
        ServerSaid::Died { signal: None } => format!("the server says that {worker} ended"),
    }
}

/// The proxy's word beside what the kernel or packets showed of the attempt.
pub(super) fn beside(case: &Case<'_>, known: Option<&Known<'_>>, finding: Finding) -> Finding {
    let Some(told) = case.told else {
        return finding;
    };
    let with_word = || case.attempts.iter().rev().find(|t| t.said.is_some());
    let tried = known.map(|k| k.tried).or_else(with_word);
    let said = tried.and_then(|t| t.said).or(told.said);
    let unseen = said.is_none().then(|| of_unseen_try(case, told, &finding));
    let unseen = unseen.flatten();
    // Which thread it was is surer than whose line without a request may be this one's.
    let of_thread = of_answering_thread(case).filter(|_| said.is_none() || told.ambiguous);
    let Some(said) = of_thread.or(said).or(unseen) else {
        let of_kernel = case.source == Source::Kernel && case.attempts.is_empty();
        // What descriptors show is no answer of the configuration's.
        let unnamed = finding.cause != Cause::ProxyFdsExhausted;
        let own = of_kernel && unnamed && told.has_access;
        let own = own && tells_all(case, told) && silent(case, told);
        return match own && !told.ambiguous {
            // The error's line may still come.
            true if !case.deadline_passed => finding.settled_if(false),
            true => made_by_configuration(told),
            false => finding,
        };
    };
    let attempt = tried.map(|t| &t.attempt);
    let place = attempt.map_or(Place::Unnamed, |a| Place::of(&a.upstream.0));
    let (causes, facts) = admitted(case, told, said, place);
    let facts = of_proxy(told, facts);
    let (at, said) = said;
    let certain = !told.ambiguous || of_thread.is_some();
    if causes.is_empty() || !certain {
        return finding.with_log_facts(facts);
    }
    if let (Said::TlsFailed { how }, Some(attempt)) = (said, attempt)
        && causes.len() > 1
        && speaks_tls(attempt)
    {
        return handshake(finding, how).with_log_facts(facts);
    }
    if said == Said::NotResolved && finding.cause == Cause::ProxyFdsExhausted {
        // Who asks for a name needs a descriptor as well.
        return finding.with_log_facts(facts);
    }
    let confirmed = only_unlinked(case, attempt, &finding) || proxy_fds::confirmed(case, said);
    if causes.contains(&finding.cause) && confirmed {
        return Finding {
            confidence: Confidence::Proven,
            missing: Vec::new(),
            ..finding
        }
        .with_log_facts(facts);
    }
    if let [cause] = causes[..]
        && finding.confidence != Confidence::Proven
        && (agrees(case, said, attempt) || unseen.is_some() && !asks_nobody(said))
    {
        let mut finding = decided(case, attempt, finding, (said, cause));
        if of_thread.is_some() {
            finding = finding.at_most_likely(BY_THREAD);
        }
        return finding.with_log_facts(facts);
    }
    if causes.contains(&finding.cause) || finding.confidence == Confidence::Unknown {
        return finding.with_log_facts(facts);
    }
    let against = format!("says otherwise: {}", words(said));
    let against = of_proxy(told, vec![(at, Source::Log, against)]);
    // What the proxy itself denies is not beyond doubt.
    let mut finding = finding
        .at_most_likely(format!("proxy_log: it says otherwise: {}", words(said)))
        .with_log_facts(against);
    finding.contradicted = true;
    finding
}

/// What the log says of the thread that answered without having asked anybody, when it did.
fn of_answering_thread(case: &Case<'_>) -> Option<(Nanos, Said)> {
    let response = case.response.filter(|_| case.attempts.is_empty())?;
    let of_kernel = case.source == Source::Kernel;
    let said = || case.host.said_of_thread(case.answered_at, response);
    of_kernel.then(said)?
}

/// What the log says of a try of which nothing was seen, where nothing else was either.
fn of_unseen_try(case: &Case<'_>, told: &Told, finding: &Finding) -> Option<(Nanos, Said)> {
    let (at, last) = told.tries.last()?;
    let open = matches!(finding.cause, Cause::Unknown | Cause::ProxyFdsExhausted);
    let unseen = open || case.named;
    let unknown = unseen && case.attempts.is_empty();
    let said = last.said.filter(|said| *said != Said::ClientLeft);
    Some((*at, said.filter(|_| unknown)?))
}

/// Nothing is missing but whose attempt it was, which the line tells; a connect's error has no other
/// cause.
fn only_unlinked(case: &Case<'_>, attempt: Option<&Attempt>, finding: &Finding) -> bool {
    let linked = |missing: &String| missing.starts_with("exchange_link");
    let only = finding.confidence == Confidence::Likely && finding.missing.iter().all(linked);
    if !case.named || case.source != Source::Kernel || !only {
        return false;
    }
    let Some(attempt) = attempt else {
        // Whichever of several connects it was, they all failed so.
        return case.attempts.is_empty();
    };
    let errno = match attempt.end {
        End::ConnectFailed { errno } => Some(errno),
        _ => None,
    };
    let last = case.attempts.last().map(|tried| tried.attempt.flow);
    let place = Place::of(&attempt.upstream.0);
    let admitted = errno.map(|errno| admits(Said::ConnectFailed { errno }, None, place));
    last == Some(attempt.flow) && admitted.is_none_or(|admitted| admitted == [finding.cause])
}

/// The one cause that the log admits, where nothing else proves one.
fn decided(
    case: &Case<'_>,
    attempt: Option<&Attempt>,
    finding: Finding,
    (said, cause): (Said, Cause),
) -> Finding {
    // The line that names the request tells why it failed, whichever attempt that was.
    let of_line = |m: &str| case.surely_told && m.starts_with("exchange_link");
    let left_to_log = (finding.missing.iter()).all(|m| m.starts_with("proxy_log") || of_line(m));
    let own = attempt.is_none_or(|attempt| link::check(case, attempt).is_ok());
    let tied = case.surely_told || own;
    // What names nothing may be about a request that was not seen.
    let names = case.told.is_some_and(|told| !told.names_nothing());
    let seen = case.source == Source::Kernel && names;
    // Narrowed by what came before is not beyond doubt.
    let place = attempt.map_or(Place::Unnamed, |a| Place::of(&a.upstream.0));
    let only = admits(said, case.told.and_then(|told| told.proxy), place).len() == 1;
    // HAProxy says it of no request: it follows from what it said of servers, of which some may be missed.
    let inferred = said == Said::NotResolved
        && case
            .told
            .is_some_and(|told| told.proxy == Some(Software::Haproxy));
    let proven = told_by_log_alone(said) && only && left_to_log && tied && seen && !inferred;
    let shape = match finding.cause == cause && own {
        true => finding.variant.or(variant(said)),
        false => variant(said),
    };
    let mut finding = Finding {
        cause,
        variant: shape.filter(|v| cause.variants().contains(v)),
        confidence: match proven {
            true => Confidence::Proven,
            false => Confidence::Likely,
        },
        ..finding
    };
    finding.missing.retain(|m| !m.starts_with("proxy_log"));
    if finding.missing.is_empty() && !proven {
        finding.missing.push(ONLY_LOG.to_owned());
    }
    finding
}

/// The proxy may have opened this connection with TLS, and no answer within it was seen.
fn speaks_tls(attempt: &Attempt) -> bool {
    let opened = attempt.request.as_ref().map(|r| &r.opening);
    let answered = matches!(attempt.response, Some(Opening::HttpResponse { .. }));
    // Bytes that were gone when they were looked at are `Other`.
    matches!(opened, Some(Opening::Tls | Opening::Other) | None) && !answered
}

/// Who closes or waits within a handshake has failed it, whatever that looks like from outside.
fn handshake(finding: Finding, how: TlsFault) -> Finding {
    let variant = match how {
        TlsFault::PeerClosed => Some(Variant::PeerClosed),
        TlsFault::TimedOut => Some(Variant::Timeout),
        _ => None,
    };
    let mut of_tls = Finding::likely(
        Cause::TlsHandshakeFailed,
        "upstream_protocol: whether the upstream speaks TLS at all",
    );
    of_tls.facts = finding.facts;
    of_tls.variant(variant).settled()
}

/// What happens inside the proxy, so that no other source can know it.
fn told_by_log_alone(said: Said) -> bool {
    matches!(
        said,
        Said::NoLiveUpstreams
            | Said::NotResolved
            | Said::QueueTimedOut
            | Said::Limited
            | Said::Configured
            | Said::HeadTooBig
            | Said::HeadInvalid
            | Said::TlsFailed {
                how: TlsFault::Certificate | TlsFault::Version
            }
    )
}

/// What a proxy says where it asks no upstream, or no other one.
pub(crate) fn asks_nobody(said: Said) -> bool {
    matches!(
        said,
        Said::NoLiveUpstreams
            | Said::NotResolved
            | Said::QueueTimedOut
            | Said::Limited
            | Said::Denied
            | Said::Configured
    )
}

/// Whether this attempt can be the one that the log tells of.
fn agrees(case: &Case<'_>, said: Said, attempt: Option<&Attempt>) -> bool {
    let Some(attempt) = attempt else {
        // Who asked an upstream, and was answered, is another one: a proxy behind this one, say.
        let own = told_by_log_alone(said) || asks_nobody(said);
        return own && !(asks_nobody(said) && was_answered(case));
    };
    match said {
        // Plain HTTP is what a server without TLS answers.
        Said::TlsFailed { how } => how == TlsFault::NotTls || speaks_tls(attempt),
        _ => ended_so(said, attempt.end),
    }
}

/// Whether what the log says of a try can be what was seen of its end.
pub(crate) fn ended_so(said: Said, end: End) -> bool {
    let broken = matches!(end, End::PeerClosed | End::Reset | End::SendFailed { .. });
    match said {
        Said::ConnectFailed { errno } => end == End::ConnectFailed { errno },
        Said::ConnectTimedOut => {
            matches!(end, End::ConnectGivenUp | End::ConnectFailed { errno: 110 })
        }
        Said::NotConnected => {
            broken || matches!(end, End::ConnectGivenUp | End::ConnectFailed { .. })
        }
        Said::PeerClosed | Said::Reset | Said::ClosedOrReset | Said::SendFailed { .. } => broken,
        Said::ReadTimedOut | Said::SendTimedOut | Said::TimedOut => {
            matches!(end, End::GivenUp | End::ConnectGivenUp)
        }
        Said::TlsFailed { .. }
        | Said::HeadTooBig
        | Said::HeadInvalid
        | Said::HeadRefused
        | Said::StreamReset
        | Said::GoAway
        | Said::StreamEnded
        | Said::NotHttp { .. } => broken || matches!(end, End::GivenUp | End::Answered),
        Said::Answered => end == End::Answered,
        _ => false,
    }
}
