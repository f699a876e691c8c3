//! The page of each cause in `docs/runbooks` names every setting that advice on it can name.

use std::collections::BTreeSet;

use super::build::*;
use crate::cause::Cause;
use crate::diagnose::{Diagnosis, advise};
use crate::signal::*;

const PROXIES: &[Software] = &[
    Software::Nginx,
    Software::Haproxy,
    Software::Envoy,
    Software::Apache,
    Software::Caddy,
    Software::Varnish,
    Software::Other,
];

const UPSTREAMS: &[Software] = &[
    Software::Gunicorn,
    Software::Node,
    Software::Uwsgi,
    Software::Uvicorn,
    Software::Puma,
    Software::Tomcat,
    Software::PhpFpm,
    Software::Go,
    Software::Apache,
    Software::Nginx,
    Software::Other,
];

#[test]
fn a_page_names_what_advice_names() {
    let mut missing = Vec::new();
    for cause in Cause::ALL {
        let path = format!("{}/../docs/runbooks/{cause}.md", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let unnamed = names(*cause)
            .into_iter()
            .filter(|name| !page.contains(name));
        missing.extend(unnamed.map(|name| format!("{cause}.md does not name {name:?}")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The names of all settings in any advice on this cause.
fn names(cause: Cause) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for scene in scenes() {
        let host = scene.host();
        let attempts = std::slice::from_ref(&scene.tried);
        let case = scene.case(&host, attempts);
        let judged = scene.judge();
        let variants = cause.variants().iter().copied().map(Some);
        for variant in variants.chain([None]) {
            let diagnosis = Diagnosis {
                cause,
                variant,
                ..judged.clone()
            };
            let advice = advise(&case, &diagnosis);
            found.extend(advice.settings.into_iter().map(|s| s.name));
        }
    }
    found
}

/// Each proxy with each upstream, and the three protocols it may speak to it.
fn scenes() -> Vec<Scene> {
    let mut all = Vec::new();
    for proxy in PROXIES {
        for upstream in UPSTREAMS {
            all.push(between(*proxy, *upstream));
        }
        for opening in [Opening::Uwsgi, Opening::FastCgi] {
            all.push(between(*proxy, Software::Gunicorn).attempt(|a| {
                a.request.as_mut().unwrap().opening = opening;
            }));
        }
        let mut scene = between(*proxy, Software::Gunicorn);
        for signal in &mut scene.signals {
            if let Fact::ProcessSeen(process) = &mut signal.fact {
                process.sagemaker = true;
            }
        }
        all.push(scene);
    }
    all
}

/// The client has left, as often before after the same wait.
fn between(proxy: Software, upstream: Software) -> Scene {
    let mut scene = scene(TCP, End::GivenUp, 60 * S)
        .reused()
        .peer(true, true)
        .workers(upstream)
        .signal(S, process(PROXY, 1, "proxy", proxy))
        .client_left();
    for i in 0..5 {
        let mut attempt = scene.tried.attempt.clone();
        attempt.began = T - 3 * S - i * MS;
        scene = scene.signal(T, Fact::AttemptEnded(Box::new(attempt)));
    }
    scene
}
