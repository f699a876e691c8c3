//! Proxies that ask for another path than their clients did.

use super::build::*;

const UPSTREAM: &str = "10.0.0.2:9000";

/// A request to the proxy for one path and the attempt for another, which the upstream leaves
/// unanswered; from when to when.
struct Tried<'a> {
    client: u16,
    asked: &'a str,
    tried: &'a str,
    at: f64,
    until: f64,
    reset: bool,
}

fn fail(wire: &mut Wire, tried: &Tried<'_>) {
    let port = tried.client;
    let mut front = wire
        .at(tried.at)
        .open(&format!("10.0.0.9:{port}"), "10.0.0.1:80");
    wire.send(&mut front, CLIENT, &request("GET", tried.asked));
    let mut back = wire
        .at(tried.at + 0.2)
        .open(&format!("10.0.0.1:{}", port + 1000), UPSTREAM);
    wire.send(&mut back, CLIENT, &request("GET", tried.tried));
    wire.at(tried.at + 0.3).ack(&mut back, SERVER);
    match tried.reset {
        true => wire.at(tried.until).push(&mut back, SERVER, 0x14, b""),
        false => wire.at(tried.until).fin(&mut back, SERVER),
    }
    wire.at(tried.until + 0.1)
        .send(&mut front, SERVER, &response(502));
}

/// What was said, and of which path.
fn told(mut wire: Wire) -> Vec<String> {
    wire.packets.sort_by_key(|packet| packet.at);
    let mut told: Vec<String> = verdicts(&wire.packets, &[])
        .iter()
        .map(|decided| format!("{:?} {}", asked(decided), label(decided)))
        .collect();
    told.sort();
    told
}

fn asked(decided: &crate::track::Decided) -> String {
    let request = decided
        .response
        .as_ref()
        .and_then(|(_, _, r)| r.request.clone());
    match request {
        Some(crate::signal::Opening::HttpRequest { path, .. }) => path,
        other => format!("{other:?}"),
    }
}

fn one<'a>(client: u16, asked: &'a str, tried: &'a str, reset: bool) -> Tried<'a> {
    Tried {
        client,
        asked,
        tried,
        at: 100.0 + f64::from(client % 10),
        until: 150.0 + f64::from(client % 10),
        reset,
    }
}

#[test]
fn an_attempt_for_the_path_without_its_prefix_is_the_requests_own() {
    for (asked, tried) in [
        ("/api/shop/7?q=1", "/shop/7?q=1"),
        ("/shop", "/internal/shop"),
    ] {
        let mut wire = Wire::default();
        fail(&mut wire, &one(5000, asked, tried, false));
        let path = asked.split('?').next().unwrap();
        assert_eq!(
            told(wire),
            [format!(
                "{path:?} verdict 502 upstream_closed_early/no_bytes likely (upstream_read, exchange_link)"
            )]
        );
    }
}

#[test]
fn what_does_not_fit_is_not_tied() {
    for (asked, tried, at, until) in [
        // Another path, the root, another time.
        ("/api/shop", "/cart", 100.0, 150.0),
        ("/api/", "/", 100.0, 150.0),
    ] {
        let mut wire = Wire::default();
        let tried = Tried {
            at,
            until,
            ..one(5000, asked, tried, false)
        };
        fail(&mut wire, &tried);
        let told = told(wire);
        assert!(told.len() == 1 && told[0].contains("unknown"), "{told:?}");
    }
}

/// The verdicts of requests in flight together are never swapped: where two may be meant, neither
/// is tied.
#[test]
fn concurrent_requests_do_not_swap_their_verdicts() {
    let mut wire = Wire::default();
    fail(&mut wire, &one(5000, "/api/a", "/a", false));
    fail(&mut wire, &one(5001, "/api/b", "/b", true));
    let said = told(wire);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("/api/a") && said[0].contains("upstream_closed_early"),
        "{said:?}"
    );
    assert!(
        said[1].contains("/api/b") && said[1].contains("upstream_reset"),
        "{said:?}"
    );

    let mut wire = Wire::default();
    fail(&mut wire, &one(5000, "/api/a", "/a", false));
    fail(&mut wire, &one(5001, "/web/a", "/a", true));
    let said = told(wire);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().all(|s| s.contains("unknown")), "{said:?}");

    // One in flight that may be meant, and does not fail.
    let mut wire = Wire::default();
    fail(&mut wire, &one(5000, "/api/a", "/a", false));
    let mut other = wire.at(90.0).open("10.0.0.9:5001", "10.0.0.1:80");
    wire.send(&mut other, CLIENT, &request("GET", "/web/a"));
    wire.at(900.0).send(&mut other, SERVER, &response(200));
    let said = told(wire);
    assert!(said.len() == 1 && said[0].contains("unknown"), "{said:?}");
}

/// Both retries of one request, and an answer of the last upstream that is passed on.
#[test]
fn retries_follow_each_other() {
    let mut wire = Wire::default();
    let mut front = wire.at(100.0).open("10.0.0.9:5000", "10.0.0.1:80");
    wire.send(&mut front, CLIENT, &request("GET", "/api/a"));
    for (i, server) in ["10.0.0.2:9000", "10.0.0.3:9000"].into_iter().enumerate() {
        let at = 101.0 + 10.0 * i as f64;
        let mut back = wire.at(at).open(&format!("10.0.0.1:{}", 4000 + i), server);
        wire.send(&mut back, CLIENT, &request("GET", "/a"));
        match i {
            0 => wire.at(at + 9.0).fin(&mut back, SERVER),
            _ => wire.at(at + 9.0).send(&mut back, SERVER, &response(503)),
        }
    }
    wire.at(120.2).send(&mut front, SERVER, &response(503));
    let said = told(wire);
    assert_eq!(
        said,
        ["\"/api/a\" verdict 503 upstream_answered likely (exchange_link)"]
    );
}

/// A proxy whose other paths are passed on as they are is known as one: its attempts wait for the
/// responses that they led to, and are not told of twice.
#[test]
fn a_known_proxys_attempts_are_told_once() {
    let mut wire = Wire::default();
    for i in 0..3 {
        let path = format!("/plain/{i}");
        let mut front = wire
            .at(1.0 + f64::from(i))
            .open(&format!("10.0.0.9:{}", 6000 + i), "10.0.0.1:80");
        wire.send(&mut front, CLIENT, &request("GET", &path));
        let mut back = wire.open(&format!("10.0.0.1:{}", 7000 + i), UPSTREAM);
        wire.send(&mut back, CLIENT, &request("GET", &path));
        wire.send(&mut back, SERVER, &response(200));
        wire.send(&mut front, SERVER, &response(200));
    }
    let mut slow = one(5000, "/api/a", "/a", false);
    slow.until = 30_000.0;
    fail(&mut wire, &slow);
    fail(&mut wire, &one(5001, "/api/b", "/b", false));
    let said = told(wire);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said.iter()
            .all(|s| s.contains("verdict 502 upstream_closed_early")),
        "{said:?}"
    );
}
