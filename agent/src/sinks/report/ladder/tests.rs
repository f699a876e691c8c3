use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::cause::Variant;
use crate::signal::Source;
use crate::sinks::sample;
use crate::verdict::{Confidence, Evidence};

/// A ladder as a person would type it.
fn typed(verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    for section in of(verdict, &[]) {
        lines.extend(section.title.map(|title| format!("# {title}")));
        for step in section.steps {
            let at = step.at_us.map_or("-".to_owned(), |at| at.to_string());
            let to = step.to.map_or(String::new(), |to| format!(" → {to:?}"));
            let mark = if step.decides { " ◆" } else { "" };
            let (from, shape, label) = (step.from, step.shape, step.label);
            lines.push(format!("{at} {from:?}{to} {shape:?}: {label}{mark}"));
        }
    }
    lines
}

fn evidence(at_us: i64, fact: &'static str, text: &str) -> Evidence {
    Evidence {
        at_us,
        fact,
        text: text.to_owned(),
        source: Source::Kernel,
    }
}

#[test]
fn a_keepalive_race_shows_the_idle_gap_and_the_fin_that_decides() {
    assert_eq!(
        typed(&sample::verdict()),
        [
            "-999333 Upstream → Proxy Idle: previous response ends",
            "-31250 Client → Proxy Data: POST /orders",
            "-31210 Proxy → Upstream Data: request, 124 bytes",
            "-11200 Upstream → Proxy Fin: FIN, ack 0 of 124 ◆",
            "0 Proxy → Client Data: 502",
        ]
    );
    assert_eq!(of(&sample::verdict(), &[])[0].idle_us, Some(968_123));
}

#[test]
fn late_facts_stand_after_the_response() {
    let mut verdict = sample::verdict();
    let reset = "reset received; 0 of 124 bytes had been acknowledged";
    verdict
        .evidence
        .push(evidence(3_850, "reset_received", reset));
    let lines = typed(&verdict);
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "0 Proxy → Client Data: 502",
            "3850 Upstream → Proxy Reset: RST"
        ]
    );
}

#[test]
fn retries_stand_one_after_another_and_only_the_failed_one_has_evidence() {
    let mut verdict = sample::verdict();
    verdict.kind = Kind::NearMiss;
    verdict.status = Some(200);
    let mut second = verdict.attempts[0].clone();
    second.reused = false;
    second.idle_us = None;
    second.at_us = -11_000;
    second.connect_us = Some(400);
    second.duration_us = 11_000;
    second.outcome = "answered";
    verdict.attempts.push(second);
    assert_eq!(
        typed(&verdict),
        [
            "# attempt 1 of 2: 10.9.0.2:9000 on a reused connection",
            "-999333 Upstream → Proxy Idle: previous response ends",
            "-31250 Client → Proxy Data: POST /orders",
            "-31210 Proxy → Upstream Data: request, 124 bytes",
            "-11200 Upstream → Proxy Fin: FIN, ack 0 of 124 ◆",
            "# attempt 2 of 2: 10.9.0.2:9000 on a new connection",
            "-11000 Proxy → Upstream Connect: connect",
            "-10600 Upstream → Proxy Connect: connected",
            "- Proxy → Upstream Data: request, 124 bytes",
            "0 Upstream → Proxy Data: answered",
            "0 Proxy → Client Data: 200",
        ]
    );
}

#[test]
fn a_connect_that_failed_at_once_is_one_step() {
    let mut verdict = sample::other(Cause::UnixAcceptQueueFull, "unix:/run/g.sock", 1);
    let attempt = &mut verdict.attempts[0];
    attempt.upstream = sample::address("unix:/run/g.sock");
    attempt.reused = false;
    attempt.idle_us = None;
    attempt.bytes_sent = 0;
    attempt.duration_us = 12;
    attempt.outcome = "connect_failed";
    verdict.evidence = vec![
        evidence(-31_218, "accept_queue", "129 waiting, limit 128"),
        evidence(-31_218, "connect_failed", "unix:/run/g.sock: EAGAIN"),
    ];
    assert_eq!(
        typed(&verdict),
        [
            "-31250 Client → Proxy Data: POST /orders",
            "-31218 Upstream Note: accept queue ◆",
            "-31218 Proxy → Upstream Stopped: connect: EAGAIN",
            "0 Proxy → Client Data: 502",
        ]
    );
}

#[test]
fn what_is_not_known_is_not_drawn_as_known() {
    let mut verdict = sample::verdict();
    // Dated by its first attempt, as where the request itself was not seen.
    verdict.duration_us = Some(31_230);
    verdict.request.method = None;
    verdict.request.path = None;
    verdict.status = None;
    verdict.confidence = Confidence::Unknown;
    verdict.cause = Cause::Unknown;
    verdict.variant = None;
    let lines = typed(&verdict);
    assert_eq!(lines[1], "- Client → Proxy Data: request");
    assert!(lines.iter().all(|line| !line.ends_with('◆')), "{lines:?}");
    assert_eq!(
        lines.last().unwrap(),
        "0 Proxy → Client Data: failed response, status not seen"
    );
    // The client left: nobody was answered.
    verdict.kind = Kind::NearMiss;
    verdict.cause = Cause::DownstreamGaveUp;
    assert!(!typed(&verdict).iter().any(|line| line.contains("→ Client")));
}

#[test]
fn a_proxy_that_answered_by_itself_has_a_ladder_of_two_lanes() {
    let mut verdict = sample::verdict();
    verdict.cause = Cause::ProxyConfig;
    verdict.attempts.clear();
    verdict.evidence.clear();
    assert_eq!(
        typed(&verdict),
        [
            "-31250 Client → Proxy Data: POST /orders",
            "0 Proxy → Client Data: 502"
        ]
    );
}

#[test]
fn how_much_a_fin_acknowledges_is_on_its_arrow() {
    for (text, label) in [
        ("FIN received", "FIN"),
        ("FIN received 28 ms before the request was written", "FIN"),
        (
            "FIN received; it acknowledges none of the 78 bytes",
            "FIN, ack 0 of 78",
        ),
        (
            "FIN received; it acknowledges all of the 78 bytes",
            "FIN, ack 78 of 78",
        ),
        (
            "FIN received; it acknowledges 50 bytes of 78",
            "FIN, ack 50 of 78",
        ),
        ("end of file; 0 bytes received", "end of file"),
    ] {
        assert_eq!(
            facts::known("peer_closed", text, false).unwrap().label,
            label
        );
    }
    let unix = facts::known("peer_closed", "FIN received", true).unwrap();
    assert_eq!(unix.label, "end of file");
}

#[test]
fn a_fact_of_a_newer_rule_is_shown_by_its_name() {
    let mut verdict = sample::verdict();
    verdict.evidence.push(evidence(-5, "moon_rose", "full"));
    assert!(typed(&verdict).contains(&"-5 Upstream Note: moon rose".to_owned()));
}

/// Every cause, kind and confidence has a ladder, and what may decide is a fact that is drawn.
#[test]
fn every_cause_has_a_ladder_and_decides_by_known_facts() {
    let mut decided = BTreeSet::new();
    for &cause in Cause::ALL {
        for variant in [None]
            .into_iter()
            .chain(Variant::ALL.iter().copied().map(Some))
        {
            decided.extend(decides::facts(cause, variant));
        }
        for kind in [Kind::Verdict, Kind::NearMiss, Kind::Truncated] {
            let mut verdict = sample::other(cause, "10.0.0.1:80", 1);
            verdict.kind = kind;
            assert!(!of(&verdict, &[]).is_empty(), "{cause}");
        }
    }
    for fact in decided.into_iter().chain(facts::ENDS) {
        assert!(facts::known(fact, "", false).is_some(), "{fact}");
    }
}

/// The rules' own source names the facts: one that is not drawn fails here, not in a report.
#[test]
fn every_fact_that_a_rule_makes_is_drawn() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/diagnose");
    let mut found = BTreeSet::new();
    for path in rust_files(&folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        // Here every name is a fact; a rule gives it to `fact` or `fact_at`.
        if path.ends_with("evidence.rs") || path.ends_with("untied.rs") {
            found.extend(names(&text));
        }
        for call in [".fact(", ".fact_at("] {
            for (at, _) in text.match_indices(call) {
                found.extend(names(arguments(&text[at + call.len()..])));
            }
        }
    }
    assert!(found.len() >= 25, "{found:?}");
    for fact in found {
        assert!(facts::known(&fact, "", false).is_some(), "{fact}");
    }
}

/// To the parenthesis that closes the call.
fn arguments(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

/// Literals in the shape of a fact's name.
fn names(text: &str) -> Vec<String> {
    let literals = text.split('"').skip(1).step_by(2);
    let name =
        |word: &&str| word.len() > 4 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    literals.filter(name).map(str::to_owned).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn packets_are_drawn_between_the_steps_and_no_more_than_fit() {
    use crate::packet::{Connection, PacketSeen, What};
    let mut verdict = sample::verdict();
    verdict.at = 1_000_000_000_000;
    let fin = verdict.evidence.iter().find(|e| e.fact == "peer_closed");
    let fin_at = fin.unwrap().at_us;
    let packet = |at_us: i64, connection, from_client, what| PacketSeen {
        at: verdict.at.saturating_add_signed(at_us * 1000),
        frame: 1,
        connection,
        from_client,
        what,
        length: 0,
        fin: what == What::Fin,
        again: false,
    };
    let up = Connection::Attempt(0);
    let mut seen = vec![
        packet(fin_at, up, false, What::Fin),
        packet(fin_at + 1, up, true, What::Ack),
    ];
    let drawn = |seen: &[PacketSeen]| -> Vec<(Option<i64>, String)> {
        let steps = of(&verdict, seen).remove(0).steps;
        assert!(steps.iter().filter_map(|s| s.at_us).is_sorted());
        let packets = steps.into_iter().filter(|s| s.shape == Shape::Packet);
        packets.map(|s| (s.at_us, s.label)).collect()
    };
    // The FIN is a step already.
    assert_eq!(drawn(&seen), [(Some(fin_at + 1), "ACK".to_owned())]);
    for i in 0..500 {
        seen.push(packet(10 + i, Connection::Downstream, true, What::Ack));
    }
    assert_eq!(drawn(&seen).len(), 59);
    let steps = of(&verdict, &seen).remove(0).steps;
    assert!(steps.iter().any(|s| s.label == "442 packets not drawn"));
}
