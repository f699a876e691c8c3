//! Apache's error lines without a path, beside those with one in the same second.

use serde_json::{Value, json};

use super::{Scene, apache, closed, refused_elsewhere, seen_of_apache};
use crate::signal::{Nanos, Opening, Said};
use crate::track::host::SECOND;

const AT: Nanos = 10 * SECOND + SECOND / 2;

fn body_refused() -> Value {
    json!([{
        "upstream": "10.0.0.2:9009", "said": {"said": "send_failed", "errno": 104},
        "status": null, "connect": null, "took": null,
    }])
}

/// An access line of this path, or Apache's error: without a path, or with it.
enum Line {
    Access(&'static str),
    Nameless,
    Named(&'static str),
}

/// Path, and what was said of it, of each verdict.
fn told(lines: &[Line]) -> Vec<(String, Vec<Said>)> {
    let mut scene = Scene::new();
    for (number, line) in (1..).zip(lines) {
        let client = format!("10.0.0.7:{}", 4000 + number);
        let (why, path) = match line {
            Line::Access(path) => {
                scene.access(path, 502);
                continue;
            }
            Line::Nameless => (body_refused(), None),
            Line::Named(path) => (closed(), Some(*path)),
        };
        let at = AT + number * (SECOND / 20);
        for fact in apache(&why, &client, number, path) {
            scene.signal(at, "log", fact);
        }
    }
    scene.out.extend(scene.tracker.finish());
    let told = scene.out.iter().filter_map(|d| d.told.as_ref());
    let mut all: Vec<_> = told
        .map(|told| {
            let path = match &told.request {
                Some(Opening::HttpRequest { path, .. }) => path.clone(),
                _ => String::new(),
            };
            (path, told.why().collect())
        })
        .collect();
    all.sort_by(|(a, _): &(String, _), (b, _)| a.cmp(b));
    all
}

#[test]
fn a_line_that_names_its_path_has_its_access_line_whatever_came_first() {
    use Line::{Access, Named, Nameless};
    let expected = [
        ("/a".to_owned(), vec![Said::PeerClosed]),
        ("/b".to_owned(), vec![Said::SendFailed { errno: 104 }]),
    ];
    for order in [
        [Access("/a"), Access("/b"), Nameless, Named("/a")],
        [Nameless, Access("/a"), Named("/a"), Access("/b")],
        [Nameless, Access("/a"), Access("/b"), Named("/a")],
        [Nameless, Named("/a"), Access("/a"), Access("/b")],
    ] {
        assert_eq!(told(&order), expected);
    }
}

/// Apache answers 500 where it passes a head on to nobody, and 503 where it has no connection.
#[test]
fn a_line_without_a_path_is_of_no_other_status_than_its_own() {
    let said = |why: Value, status: u16| {
        let mut scene = Scene::new();
        scene.access("/a", 502).access("/b", status);
        for fact in apache(&why, "10.0.0.7:4000", 1, None) {
            scene.signal(AT, "log", fact);
        }
        scene.out.extend(scene.tracker.finish());
        let told = scene.out.iter().filter_map(|d| d.told.as_ref());
        let mut all: Vec<_> = told
            .map(|told| (told.status, told.why().count(), told.ambiguous))
            .collect();
        all.sort_unstable();
        all
    };
    let one = |said: Value| {
        json!([{
            "upstream": null, "said": said, "status": null, "connect": null, "took": null,
        }])
    };
    let invalid = one(json!({"said": "head_invalid"}));
    assert_eq!(
        said(invalid, 500),
        [(Some(500), 1, false), (Some(502), 0, false)]
    );
    let refused = one(json!({"said": "connect_failed", "errno": 111}));
    assert_eq!(
        said(refused, 503),
        [(Some(502), 0, false), (Some(503), 1, false)]
    );
}

/// Apache has answered `/a` with an upstream's 503 and `/b` with its own, of which the kernel's source has
/// `seen` both or the first alone, and may have lost something. Path and what was said, of each verdict.
fn refused_beside_an_answer(seen: &[&str], error_first: bool) -> Vec<(String, Vec<Said>)> {
    let mut scene = seen_of_apache(AT - 2, AT);
    if seen.contains(&"/b") {
        let asked = json!({
            "protocol": "http_request", "method": "GET", "path": "/b", "path_complete": true,
            "host": null,
        });
        let response = json!({
            "kind": "response_sent", "proxy": 2, "thread": 3, "downstream": 6, "ordinal": 1,
            "status": 503, "client": "10.0.0.7:4000", "proxy_address": null, "request": asked,
            "request_at": AT - 1, "adjacent": null, "last_attempt": null,
        });
        scene.signal(AT, "kernel", response);
    }
    let lost = json!({"kind": "signals_lost", "stage": "kernel", "reason": "r", "count": 1});
    scene.signal(AT + 2, "kernel", lost);
    // The error's line names no path, and comes upon the other's access line first.
    if !error_first {
        scene.access("/a", 503).access("/b", 503);
    }
    for fact in apache(&refused_elsewhere(), "10.0.0.7:4000", 1, None) {
        scene.signal(AT + 1, "log", fact);
    }
    // What would name its path has not come.
    scene.signal(AT + SECOND / 10, "log", json!({"kind": "tick"}));
    if error_first {
        scene.access("/a", 503).access("/b", 503);
    }
    scene.out.extend(scene.tracker.finish());
    let path = |opening: &Opening| match opening {
        Opening::HttpRequest { path, .. } => path.clone(),
        _ => String::new(),
    };
    let mut all: Vec<_> = scene
        .out
        .iter()
        .map(|decided| {
            let asked = (decided.response.as_ref()).and_then(|(_, _, r)| r.request.as_ref());
            let said = decided.told.iter().flat_map(|told| told.why());
            (asked.map(path).unwrap_or_default(), said.collect())
        })
        .collect();
    all.sort_by(|(a, _): &(String, _), (b, _)| a.cmp(b));
    all
}

#[test]
fn no_access_line_of_an_answer_that_was_seen_is_told_again_as_a_refusal() {
    for error_first in [false, true] {
        let told = refused_beside_an_answer(&["/a", "/b"], error_first);
        let paths: Vec<_> = told.into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/a", "/b"], "{error_first}");
    }
}

#[test]
fn a_refusal_that_was_not_seen_has_the_access_line_that_is_left() {
    let expected = [
        ("/a".to_owned(), vec![]),
        ("/b".to_owned(), vec![Said::ConnectFailed { errno: 111 }]),
    ];
    for error_first in [false, true] {
        let told = refused_beside_an_answer(&["/a"], error_first);
        assert_eq!(told, expected, "{error_first}");
    }
}
