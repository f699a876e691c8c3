//! `protocol_mismatch`: the two sides speak different protocols.
//!
//! Needs: the first bytes of both sides, or the listener's own word (its command line or
//! configuration) for which protocol it speaks. A server that gets bytes it does not understand
//! often just closes, which looks like a crash or a race; it does so every time and at once.

use crate::cause::{Cause, Variant};
use crate::settings;
use crate::signal::{Address, Opening, Process, Software};

use super::finding::Finding;
use super::known::Known;
use super::text;

pub(super) fn diagnose(known: &Known<'_>) -> Option<Finding> {
    let attempt = known.attempt();
    let request = known.request().map(|r| &r.opening)?;
    if let Some(response) = &attempt.response {
        let finding = by_bytes(request, response, attempt.received)?;
        // More than the response before it had announced may be taken for the next one.
        return Some(if attempt.requests_before > 0 {
            finding.at_most_likely("response_sent: this connection had spoken HTTP before")
        } else {
            finding
        });
    }
    // A connection is kept for another request only after an answer that was understood.
    if attempt.received > 0 || attempt.requests_before > 0 {
        return None;
    }
    let finding = by_listener(known, request)?;
    Some(if attempt.reused {
        finding.at_most_likely("connected: what this connection had carried before was not seen")
    } else {
        finding
    })
}

fn by_bytes(request: &Opening, response: &Opening, received: u64) -> Option<Finding> {
    use Opening::{FastCgi, Http2, HttpRequest, HttpResponse, Other, Tls, Uwsgi};
    let variant = match (request, response) {
        (HttpRequest { .. }, Tls) => Some(Variant::HttpToTls),
        (Tls, HttpResponse { .. }) => Some(Variant::TlsToHttp),
        (Http2, HttpResponse { .. }) | (HttpRequest { .. }, Http2) => Some(Variant::Http2ToHttp1),
        (HttpRequest { .. }, FastCgi) => Some(Variant::HttpToFastcgi),
        (HttpRequest { .. }, Uwsgi) => Some(Variant::HttpToUwsgi),
        // FastCGI's answer to FastCGI begins as FastCGI does; HTTP's does not.
        (FastCgi, HttpResponse { .. }) => None,
        (HttpRequest { .. }, Other) => {
            // A few bytes of a status line are none yet.
            let whole = received >= 12;
            return whole
                .then(|| Finding::proven(Cause::ProtocolMismatch).variant(Variant::NotHttp));
        }
        _ => return None,
    };
    Some(Finding::proven(Cause::ProtocolMismatch).variant(variant))
}

fn by_listener(known: &Known<'_>, request: &Opening) -> Option<Finding> {
    let http = matches!(
        request,
        Opening::HttpRequest { .. } | Opening::Http2 | Opening::Tls
    );
    let process = known.upstream_process()?;
    let (variant, speaks, setting) = match process.software {
        Software::Uwsgi if http => (
            Variant::HttpToUwsgi,
            "uwsgi",
            speaks_uwsgi(process, &known.attempt().upstream)?,
        ),
        Software::PhpFpm if http => (Variant::HttpToFastcgi, "FastCGI", "php-fpm".to_owned()),
        _ => return None,
    };
    let text = format!(
        "{} (process {}) speaks {speaks} here: {}",
        text::clean(&process.name),
        process.pid,
        text::clean(&setting)
    );
    let at = known.attempt().began;
    let finding = Finding::proven(Cause::ProtocolMismatch).variant(variant);
    Some(finding.fact_at(at, known.tried.source, "upstream_protocol", text))
}

/// The setting by which uWSGI speaks its own protocol at this address.
fn speaks_uwsgi(process: &Process, address: &Address) -> Option<String> {
    let named = |wanted: &[&str]| -> Vec<&(String, String)> {
        let is = |name: &str| wanted.contains(&settings::plain(name).as_str());
        process
            .settings
            .iter()
            .filter(|(name, _)| is(name))
            .collect()
    };
    if named(&["protocol", "socket-protocol"])
        .iter()
        .any(|(_, value)| value != "uwsgi")
    {
        return None;
    }
    let own = named(&["socket", "uwsgi-socket"]);
    let others = named(&[
        "http-socket",
        "http",
        "https",
        "fastcgi-socket",
        "scgi-socket",
        "https-socket",
    ]);
    let bare = address.0.strip_prefix("unix:").unwrap_or(&address.0);
    let port = address
        .0
        .rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|_| !address.is_unix());
    let fits = |value: &str| {
        value
            .split(", ")
            .any(|one| one == bare || port.is_some_and(|port| one.rsplit(':').next() == Some(port)))
    };
    let here = own.iter().find(|(_, value)| fits(value));
    // A relative path, or a name resolved elsewhere, is still the only socket there is.
    let only = || own.first().filter(|_| own.len() == 1 && others.is_empty());
    let (name, value) = here.or_else(only)?;
    (!others.iter().any(|(_, value)| fits(value))).then(|| format!("{name} {value}"))
}
